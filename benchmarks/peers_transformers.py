"""`transformers.generate`, asked through a pipe: what waits is answered as one batch, up to 16 requests at once.

`python peers_transformers.py FOLDER THREADS DTYPE`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.peers_pipe import Asked, Pipe, Told

TOGETHER: Final = 16
PAD: Final = 0


class Streamed(StoppingCriteria):
    """Tells every token as soon as it is there, and ends each row when it has as many as it should."""

    def __init__(self, pipe: Pipe, batch: list[Asked]) -> None:
        self._pipe = pipe
        self._batch = batch
        self._given = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Hear of a step."""
        self._given += 1
        last = input_ids[:, -1].tolist()
        self._pipe.tell(
            [
                Told(asked.name, [token], self._given == asked.wanted)
                for asked, token in zip(self._batch, last, strict=True)
                if self._given <= asked.wanted
            ]
        )
        return torch.tensor([self._given >= asked.wanted for asked in self._batch])


def answer(model: Any, pipe: Pipe, batch: list[Asked]) -> None:
    """Answer some requests at once, shorter ones filled up on the left."""
    longest = max(len(asked.prompt) for asked in batch)
    rows = [[PAD] * (longest - len(asked.prompt)) + asked.prompt for asked in batch]
    mask = [[0] * (longest - len(asked.prompt)) + [1] * len(asked.prompt) for asked in batch]
    model.generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=max(asked.wanted for asked in batch),
        do_sample=False,
        pad_token_id=PAD,
        stopping_criteria=StoppingCriteriaList([Streamed(pipe, batch)]),
    )


def main() -> None:
    """Load, then serve."""
    folder, threads, dtype = sys.argv[1:]
    pipe = Pipe()
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None  # answers are as long as asked for
    pipe.ready()
    waiting: list[Asked] = []
    with torch.inference_mode():
        while True:
            try:
                waiting += pipe.take(wait=not waiting)
            except EOFError:
                return
            waiting.sort(key=lambda asked: len(asked.prompt) + asked.wanted)  # alike ones waste the least together
            batch, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
            answer(model, pipe, batch)


if __name__ == "__main__":
    main()
