"""What is asked in a measurement, and when: drawn from a seed, so that it can be asked again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from infra.errors import InfraError

_WORDS: Final = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company"),
    *("system", "program", "question", "work", "night", "point", "home", "water", "room", "mother", "area", "money"),
    *("story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side"),
    *("kind", "head", "house", "service", "friend", "father", "power", "hour"),
)


class DatasetWrong(InfraError):
    """A file of prompts cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"dataset {str(path)!r}: {problem}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a measurement."""

    prompt: str | tuple[int, ...]
    max_tokens: int


class _Line(msgspec.Struct):
    prompt: str
    output_tokens: int | None = None


def random_tokens(count: int, length: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    """Draw prompts of so many token ids each."""
    draw = np.random.default_rng(seed)
    return [tuple(map(int, draw.integers(0, vocabulary, length))) for _ in range(count)]


def random_questions(count: int, lengths: tuple[int, int], ratio: float, prefix: int, seed: int) -> list[Question]:
    """Draw prompts of words, most of which are one token each in most vocabularies.

    Args:
        count: how many.
        lengths: of prompts and of answers, in words and tokens.
        ratio: how far each length may be from that, as a share of it.
        prefix: words that all prompts begin with, beside their length.
        seed: for all of it.
    """
    draw = np.random.default_rng(seed)
    shared = draw.choice(_WORDS, prefix)

    def length(middle: int) -> int:
        return max(1, int(draw.integers(math.floor(middle * (1 - ratio)), math.ceil(middle * (1 + ratio)) + 1)))

    def prompt() -> str:
        return " ".join([*shared, *draw.choice(_WORDS, length(lengths[0]))])

    return [Question(prompt(), length(lengths[1])) for _ in range(count)]


def custom_questions(path: Path, count: int, output_tokens: int) -> list[Question]:
    """Read prompts from a JSONL file, `{"prompt": ..., "output_tokens": ...}` a line; begin again if they are too few.

    Raises:
        DatasetWrong: there is no such file, or a line is no prompt.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetWrong(path, error.strerror or str(error)) from error
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise DatasetWrong(path, f"line {number}: {error}") from error
        questions.append(Question(found.prompt, found.output_tokens or output_tokens))
    if not questions:
        raise DatasetWrong(path, "there is no prompt in it")
    return [questions[index % len(questions)] for index in range(count)]


def arrivals(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Draw when each request is sent, seconds from the start: gaps follow a gamma distribution around `1 / rate`.

    A `burstiness` of 1 makes them a Poisson process, less makes bursts, more an even pace; an infinite rate sends all
    at once.
    """
    if math.isinf(rate):
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), count)
    return [0.0, *map(float, np.cumsum(gaps)[: count - 1])]
