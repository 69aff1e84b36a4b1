"""Training batches: conversations of one setting and similar length, as token rows beside the prompt they share.

The system prompt is the same for most conversations and four times as long as a short one, so it is computed once per
batch: rows continue from its keys and values. A process of its own makes the batches.
"""

from __future__ import annotations

import multiprocessing as processes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from infra.embedded.dialogues import BARE, STANDARD, Conversation, Setting, draw_setting, training
from infra.embedded.template import render
from infra.embedded.vocabulary import token_id

_TOKENS: Final = 4096
_STANDARD, _BARE, _OTHERS, _OTHER = 1500, 260, 7, 32
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that share a prompt. Rows are padded on the right; only `judged` positions count."""

    prompt: Ids  # [P], empty for bare chat
    rows: Ids  # [B, L]
    judged: npt.NDArray[np.bool_]  # [B, L]


def prompt_text(setting: Setting) -> str:
    """Write the part of the prompt that is the same for all conversations of a setting."""
    system = [] if setting.instructions is None else [{"role": "system", "content": setting.instructions}]
    return render(system, setting.tools)


def pool(seed: int, tokenizer: Tokenizer) -> list[Batch]:
    """Make one shuffled pool of batches: mostly the demo agent, some bare chat, some altered settings."""
    chance = Random(f"pool {seed}")
    batches = _batches(STANDARD, _STANDARD, seed, tokenizer)
    batches += _batches(BARE, _BARE, seed, tokenizer)
    altered = 0
    while altered < _OTHERS:
        setting = draw_setting(chance)
        if setting not in (STANDARD, BARE):
            batches += _batches(setting, _OTHER, seed * 100 + altered, tokenizer)
            altered += 1
    chance.shuffle(batches)
    return batches


def copying(seed: int, size: int) -> Batch:
    """Random tokens said twice; only the second time is judged. Teaches to copy before there is anything to say."""
    chance = np.random.default_rng(seed)
    rows = chance.integers(20, size, (24, 48))
    few = chance.integers(20, size, (24, 12))
    rows[::2] = np.take_along_axis(few, chance.integers(0, 12, (24, 48)), axis=1)[::2]
    twice = np.concatenate([rows, rows], axis=1)
    judged = np.zeros(twice.shape, dtype=np.bool_)
    judged[:, 52:] = True
    return Batch(np.zeros(0, dtype=np.int64), twice, judged)


def stream(tokenizer_file: Path, first_seed: int) -> Iterator[Batch]:
    """Yield batches without end, made ahead by another process, which ends with the generator."""
    context = processes.get_context("spawn")
    queue: Any = context.Queue(maxsize=2)
    maker = context.Process(target=_fill, args=(queue, tokenizer_file, first_seed), daemon=True)
    maker.start()
    try:
        while True:
            yield from queue.get()
    finally:
        maker.terminate()
        maker.join()


def _fill(queue: Any, tokenizer_file: Path, seed: int) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    while True:
        queue.put(pool(seed, tokenizer))
        seed += 1


def _batches(setting: Setting, count: int, seed: int, tokenizer: Tokenizer) -> list[Batch]:
    prompt = prompt_text(setting)
    conversations: list[Conversation] = list(islice(training(seed, setting), count))
    texts = [render(each.messages(), setting.tools).removeprefix(prompt) for each in conversations]
    encoded = sorted((each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)), key=len)
    shared = np.array(tokenizer.encode(prompt, add_special_tokens=False).ids, dtype=np.int64)
    batches: list[Batch] = []
    while encoded:
        take = max(1, _TOKENS // len(encoded[-1]))
        batches.append(_batch(shared, encoded[-take:], tokenizer))
        del encoded[-take:]
    return batches


def _batch(prompt: Ids, encoded: list[list[int]], tokenizer: Tokenizer) -> Batch:
    rows = np.zeros((len(encoded), max(map(len, encoded))), dtype=np.int64)
    judged = np.zeros(rows.shape, dtype=np.bool_)
    start, end = token_id(tokenizer, "<|im_start|>"), token_id(tokenizer, "<|im_end|>")
    assistant = tokenizer.encode("assistant", add_special_tokens=False).ids
    for row, mask, ids in zip(rows, judged, encoded, strict=True):
        row[: len(ids)] = ids
        at = 0
        while start in ids[at:]:
            at = ids.index(start, at)
            close = ids.index(end, at)
            head = at + 1 + len(assistant)
            if ids[at + 1 : head] == assistant:
                mask[head + 1 : close + 1] = True
            at = close
    return Batch(prompt, rows, judged)
