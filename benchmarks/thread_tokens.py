"""What a turn's prompt costs in a long conversation: tokenised whole each time, or only what is new of it.

A conversation grows by some 200 tokens a turn to 15,000, with a byte-level tokenizer of 49,152 tokens. Each turn's text
is tokenised both ways, one after the other, and the tokens are compared before the times are. Of the last ten turns:
`whole_ms` and `kept_ms` are medians, `ratio` is what the one is of the other, and `new_tokens` what a turn brings.
`rendering_ms` is what the template and marking control tokens in what was said take beside it, which is done anew each
turn. Run alone on an idle core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.checkpoints import CONFIGS, describe
from engine.text.prompts import Customs, Prompter
from schemas.messages import Message, Rendering

WORDS = "the scheduler plans each step and every worker says what came of it before another one begins to be asked"
LAST = 10

T = TypeVar("T")


def said(role: str, turn: int, words: int) -> Message:
    """Say something that nobody said before."""
    known = WORDS.split()
    text = " ".join(f"{known[(turn * 7 + at * at) % len(known)]}{turn if at % 5 == 0 else ''}" for at in range(words))
    return Message(role=role, content=text)  # type: ignore[arg-type]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Do something, and say how many milliseconds it took."""
    began = time.perf_counter()
    made = work()
    return made, 1000 * (time.perf_counter() - began)


def measure(prompter: Prompter, most: int) -> dict[str, float]:
    """Hold a conversation until it has so many tokens."""
    tokenizer, segments = prompter.tokenizer, prompter.tokenizer.segments()
    messages = [said("system", 0, 120)]
    times: list[tuple[float, float, float]] = []
    tokens: list[int] = []
    before = turn = 0
    while len(tokens) < most:
        turn += 1
        messages += [said("user", turn, 25), said("assistant", turn, 35)]
        text, rendering = timed(lambda: prompter._rendered(messages, (), Rendering()))  # noqa: B023, SLF001
        before = len(tokens)
        # in turns, so that neither always finds the other's memory warm
        pair = (lambda: tokenizer.encode(text), lambda: segments.encode(text))  # noqa: B023
        first, second = (timed(work) for work in (pair if turn % 2 else pair[::-1]))
        whole, kept = (first, second) if turn % 2 else (second, first)
        assert whole[0] == kept[0]
        tokens = whole[0]
        times.append((whole[1], kept[1], rendering))
    whole_ms, kept_ms, rendering_ms = (statistics.median(column) for column in zip(*times[-LAST:], strict=True))
    return {
        "turns": turn,
        "tokens": len(tokens),
        "new_tokens": len(tokens) - before,
        "whole_ms": round(whole_ms, 3),
        "kept_ms": round(kept_ms, 3),
        "ratio": round(whole_ms / kept_ms, 1),
        "rendering_ms": round(rendering_ms, 3),
    }


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a conversation of 4,000 tokens")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prompter = Prompter.load(describe(Path(folder), CONFIGS["smol-135m"]), Customs())
        print(json.dumps(measure(prompter, 4_000 if chosen.quick else 15_000)))  # noqa: T201


if __name__ == "__main__":
    main()
