"""Programs as agents run them, by chance from a seed: turns, tools that take time, contexts that grow.

The distributions are fits to public traces at an eighth of their size. Lengths and waits are part of a program, so that
every engine sees the same; what the tokens are is random, but each prompt is the true history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

Kind = Literal["even", "heavy"]
Tools = Literal["office", "tracelab"]

SYSTEM_TOKENS: Final = 1024
MOST_TOKENS: Final = 7_500
"""Of a context: one that grows beyond it ends before, so that it fits into the smallest memory."""
VOCABULARY: Final = range(100, 30_000)
"""Token ids that prompts are made of; those before may be special ones."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request that ends in a tool call, and the tool."""

    out: int
    tool: str
    tool_s: float
    observed: int
    """Tokens of the tool's result."""


@dataclass(frozen=True, slots=True)
class Row:
    """A program."""

    program: int
    arrival_s: float
    system: int
    user_tokens: int
    turns: tuple[Turn, ...]
    final_out: int

    @property
    def name(self) -> str:
        """What it is called."""
        return f"program-{self.program}"

    @property
    def context(self) -> int:
        """Tokens at its end."""
        return SYSTEM_TOKENS + self.user_tokens + sum(turn.out + turn.observed for turn in self.turns) + self.final_out

    @property
    def outputs(self) -> list[int]:
        """Tokens that each request brings."""
        return [*(turn.out for turn in self.turns), self.final_out]


@dataclass(frozen=True, slots=True)
class Shape:
    """What programs are like."""

    count: int
    rate: float
    """Programs a second."""
    kind: Kind = "even"
    tools: Tools = "office"
    systems: int = 2


def programs(shape: Shape, seed: int) -> list[Row]:
    """Draw programs, by arrival."""
    draw = np.random.default_rng(seed)
    arrivals = np.cumsum(draw.exponential(1 / shape.rate, shape.count))
    return [_row(draw, shape, number, float(arrival)) for number, arrival in enumerate(arrivals)]


def tokens(seed: int, *place: int, count: int) -> list[int]:
    """Give the tokens of some place in a program."""
    draw = np.random.default_rng((seed, *place))
    return [int(token) for token in draw.integers(VOCABULARY.start, VOCABULARY.stop, count)]


def _row(draw: np.random.Generator, shape: Shape, number: int, arrival_s: float) -> Row:
    turns = round(draw.normal(12, 3.6) if shape.kind == "even" else draw.lognormal(np.log(7), 1.0))
    row = Row(
        program=number,
        arrival_s=arrival_s,
        system=int(draw.integers(shape.systems)),
        user_tokens=_size(draw, 60, 0.6, 8, 400),
        turns=tuple([_turn(draw, shape.tools) for _ in range(min(max(turns, 1), 60))]),
        final_out=_size(draw, 80, 0.8, 8, 300),
    )
    while row.context > MOST_TOKENS:
        row = replace(row, turns=row.turns[:-1])
    return row


def _turn(draw: np.random.Generator, tools: Tools) -> Turn:
    tool, tool_s = _office(draw) if tools == "office" else _tracelab(draw)
    return Turn(_size(draw, 12, 1.35, 4, 400), tool, tool_s, _size(draw, 30, 1.7, 2, 900))


def _office(draw: np.random.Generator) -> tuple[str, float]:
    chance = draw.random()
    if chance < 0.9:
        return "lookup", float(draw.lognormal(np.log(0.55), 0.6))
    if chance < 0.98:
        return "search", float(draw.lognormal(np.log(4), 0.8))
    return "build", min(float(draw.lognormal(np.log(25), 0.9)), 120.0)


_BINS: Final = ((0.609, 0.05, 1.0), (0.273, 1.0, 10.0), (0.078, 10.0, 60.0), (0.040, 60.0, 300.0))


def _tracelab(draw: np.random.Generator) -> tuple[str, float]:
    """A quarter of the calls are said to be of another class than they are."""
    at = int(draw.choice(len(_BINS), p=[share for share, _, _ in _BINS]))
    _, low, high = _BINS[at]
    said = int(draw.integers(len(_BINS))) if draw.random() < 0.25 else at
    return f"class-{said}", float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _size(draw: np.random.Generator, median: float, sigma: float, least: int, most: int) -> int:
    return min(max(round(draw.lognormal(np.log(median), sigma)), least), most)
