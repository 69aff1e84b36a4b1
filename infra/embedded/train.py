"""Trains the embedded model: `python -m infra.embedded.train --out DIR [--steps N] [--seed N] [--resume]`.

The budget is a number of steps: the learning rate follows the share of them that is done, and the batches depend on the
seed and the step alone, so a second training sees the same conversations in the same order on any machine, also when it
was interrupted. On the same kind of machine, with as many threads, it ends with the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from infra.embedded.batches import Batch, copying, prompt_text, stream
from infra.embedded.dialogues import BARE, STANDARD, held_out, training
from infra.embedded.evaluate import FULL, QUICK, Greedy, report, score_together
from infra.embedded.network import loss, new_network, save_weights
from infra.embedded.template import CHECKPOINT, render
from infra.embedded.vocabulary import save_tokenizer, token_id, train_tokenizer

_SEED: Final = 20261123
_CORPUS: Final = 20_000
_COPYING_STEPS: Final = 500
"""Every second one of the first so many steps practises copying."""
_MUON_RATE: Final = 0.003
_ADAM_RATE: Final = 0.0022
_MEAN_KEEPS: Final = 0.985


@dataclass(slots=True)
class Progress:
    """How far a training has come; saved with the weights so that it can go on."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated: float = 0.0


class Training:
    """One training: the network, its running mean (which is what gets saved), and its optimisers."""

    def __init__(self, folder: Path, steps: int, seed: int, every: float) -> None:
        self.folder = folder
        self.steps = steps
        self.seed = seed
        self.every = every * 60
        self.tokenizer = _tokenizer(folder)
        self.network = new_network(self.tokenizer.get_vocab_size(), seed)
        matrices = [p for p in self.network.model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.network.parameters() if id(p) not in chosen]
        self.muon = torch.optim.Muon(matrices, lr=_MUON_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.mean = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.progress = Progress()

    def run(self, until: int | None = None) -> None:
        """Train until so many steps are done, or all, and save; on the way too, with a short judgement."""
        last = self.steps if until is None else until
        # a pool of batches is made in a second, so a training that goes on makes again what it has seen
        batches = islice(stream(self.folder / "tokenizer.json", self.seed), self.progress.step, None)
        started = monotonic() - self.progress.seconds
        while self.progress.step < last:
            spent = self._step(batches)
            self.progress.seconds = monotonic() - started
            if self.progress.step % 50 == 0:
                speed = self.progress.tokens / self.progress.seconds
                _say(
                    f"{self.progress.seconds:6.0f} s  step {self.progress.step}  loss {spent:.4f}  {speed:.0f} tokens/s"
                )
            if self.progress.seconds - self.progress.evaluated > self.every:
                self.progress.evaluated = self.progress.seconds
                self.save()
                self.evaluate(QUICK)
        self.save()

    def _step(self, batches: Iterator[Batch]) -> float:
        self._set_rates()
        batch = next(batches)
        if self.progress.step < _COPYING_STEPS and self.progress.step % 2 == 0:
            batch = copying(self.seed + self.progress.step, self.network.config.vocab_size)
        with torch.autocast("cpu", torch.bfloat16):
            summed, count = loss(self.network, batch)
        mean = summed / max(count, 1)
        torch.autograd.backward(mean)
        self.progress.tokens += batch.rows.size
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimisers: tuple[torch.optim.Optimizer, ...] = (self.muon, self.adam)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self._follow()
        self.progress.step += 1
        return float(mean.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        keeps = min(_MEAN_KEEPS, self.progress.step / (self.progress.step + 20))
        for name, parameter in self.network.named_parameters():
            self.mean[name].lerp_(parameter, 1 - keeps)

    def _set_rates(self) -> None:
        used = self.progress.step / self.steps
        rate = min(1.0, (self.progress.step + 1) / 100, max(0.02, (1 - used) / 0.6))
        for optimiser, full in ((self.muon, _MUON_RATE), (self.adam, _ADAM_RATE)):
            for group in optimiser.param_groups:
                group["lr"] = full * rate

    def save(self) -> None:
        """Write the checkpoint, and beside it what is needed to go on."""
        end, pad = token_id(self.tokenizer, "<|im_end|>"), token_id(self.tokenizer, "<|endoftext|>")
        save_weights(self.network, self.mean, self.folder, end, pad)
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "mean": self.mean,
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
        }
        torch.save(state, self.folder / "training.pt")
        (self.folder / "progress.json").write_text(json.dumps(asdict(self.progress)), encoding="utf-8")

    def resume(self) -> None:
        """Take up a training where its last save left it."""
        state = torch.load(self.folder / "training.pt")
        self.network.load_state_dict(state["network"])
        self.mean = state["mean"]
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.progress = Progress(**json.loads((self.folder / "progress.json").read_text(encoding="utf-8")))

    def evaluate(self, count: int) -> None:
        """Judge the saved bf16 weights on held-out conversations."""
        _say(report(score_together(held_out(count), Greedy(self.folder).answers)))


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        texts = [prompt_text(STANDARD)] * 50
        for setting in (STANDARD, BARE):
            conversations = islice(training(_SEED, setting), _CORPUS // 2)
            texts += [
                render(each.messages(), setting.tools).removeprefix(prompt_text(setting)) for each in conversations
            ]
        folder.mkdir(parents=True, exist_ok=True)
        template = (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8")
        save_tokenizer(train_tokenizer(texts), folder, template)
    return Tokenizer.from_file(str(file))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the training's state")
    parser.add_argument("--steps", type=int, default=8000, help="steps of about 3,700 tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the weights and the conversations")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=float, default=8.0, help="minutes between saves")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last save")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    job = Training(chosen.out, chosen.steps, chosen.seed, chosen.every)
    if chosen.resume:
        job.resume()
    job.run()
    job.evaluate(FULL)


if __name__ == "__main__":
    main()
