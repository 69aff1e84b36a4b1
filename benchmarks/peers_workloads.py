"""What is asked of each engine: programs of turns with pinned lengths, drawn from a seed.

A turn's prompt is all that came before it in its program, answers as the engine gave them, and new tokens behind.

w1        one stream: 128 tokens in, 128 out; three prompts, one after the other
w2        64 requests at once: prompts lognormal about 200 tokens (at most 1024), answers about 128 (at most 256)
w3_cold   32 requests at once behind a system prompt of 512 tokens that is new: 32 more in, 32 out
w3_warm   the same system prompt again, with new users
w4        16 programs of 6 turns behind a system prompt: an answer, then a tool's wait of 0.2 to 2 s and its result
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

Tokens = tuple[int, ...]
SEED: Final = 2026
FIRST: Final = 3
"""Smaller ids are the special tokens."""
SHARED: Final = 512
CONTEXT: Final = 4096
"""No prompt with its answer is longer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a program."""

    new: Tokens
    count: int
    """Of tokens to answer."""
    wait_s: float = 0.0
    """Since the answer before it: what a tool takes."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Programs that run together, or one after the other."""

    name: str
    programs: tuple[tuple[Turn, ...], ...]
    together: bool = True
    known: int = 0
    """Tokens that all prompts begin with and that the engine has seen."""
    shared: int = 0
    """Tokens that all prompts begin with; a perfect prefix cache computes them once."""

    @property
    def outputs(self) -> int:
        """Tokens to answer."""
        return sum(turn.count for program in self.programs for turn in program)

    @property
    def computed(self) -> int:
        """Positions that must be computed with a perfect prefix cache: the last token of a program never is."""
        new = sum(len(turn.new) for program in self.programs for turn in program)
        spared = self.shared * (len(self.programs) - 1) + self.known
        return new - spared + self.outputs - len(self.programs)


def workloads(vocabulary: int, share: float = 1.0) -> tuple[Workload, ...]:
    """Draw all of them; `share` is how much of the programs of each is left, for trying out.

    Each has a seed of its own, so that one is the same whichever others run.
    """
    made = (_single, _many, _shared_cold, _shared_warm, _agents)
    return tuple(_shortened(make(vocabulary), share) for make in made)


def warm_up(vocabulary: int) -> Workload:
    """Draw what is asked before anything is timed: a long prompt, then some at once."""
    generator = np.random.default_rng((SEED, 0))
    sizes = [(600, 4), *((40 + 30 * n, 16) for n in range(8))]
    return Workload("warm_up", tuple((Turn(_tokens(generator, vocabulary, n), count),) for n, count in sizes))


def _shortened(whole: Workload, share: float) -> Workload:
    left = max(1, round(share * len(whole.programs)))
    return Workload(whole.name, whole.programs[:left], whole.together, whole.known, whole.shared)


def _tokens(generator: Generator, vocabulary: int, count: int) -> Tokens:
    return tuple(generator.integers(FIRST, vocabulary, count).tolist())


def _lognormal(generator: Generator, mean: float, most: int) -> Callable[[], int]:
    """Draw lengths with this mean before those past the most are cut."""
    sigma = 0.7
    location = np.log(mean) - sigma**2 / 2
    return lambda: int(np.clip(round(generator.lognormal(location, sigma)), 4, most))


def _single(vocabulary: int) -> Workload:
    generator = np.random.default_rng((SEED, 1))
    return Workload("w1", tuple((Turn(_tokens(generator, vocabulary, 128), 128),) for _ in range(3)), together=False)


def _many(vocabulary: int) -> Workload:
    generator = np.random.default_rng((SEED, 2))
    prompt, answer = _lognormal(generator, 200, 1024), _lognormal(generator, 128, 256)
    return Workload("w2", tuple((Turn(_tokens(generator, vocabulary, prompt()), answer()),) for _ in range(64)))


def _behind(system: Tokens, generator: Generator, vocabulary: int) -> tuple[tuple[Turn, ...], ...]:
    return tuple((Turn(system + _tokens(generator, vocabulary, 32), 32),) for _ in range(32))


def _shared_cold(vocabulary: int) -> Workload:
    generator = np.random.default_rng((SEED, 3))
    system = _tokens(generator, vocabulary, SHARED)
    return Workload("w3_cold", _behind(system, generator, vocabulary), shared=SHARED)


def _shared_warm(vocabulary: int) -> Workload:
    system = _tokens(np.random.default_rng((SEED, 3)), vocabulary, SHARED)
    programs = _behind(system, np.random.default_rng((SEED, 4)), vocabulary)
    return Workload("w3_warm", programs, shared=SHARED, known=SHARED)


def _agents(vocabulary: int) -> Workload:
    generator = np.random.default_rng((SEED, 5))
    system = _tokens(generator, vocabulary, SHARED)
    task, result, answer = (_lognormal(generator, *pair) for pair in ((120, 512), (120, 512), (64, 128)))

    def program() -> tuple[Turn, ...]:
        first = Turn(system + _tokens(generator, vocabulary, task()), answer())
        rest = (
            Turn(_tokens(generator, vocabulary, result()), answer(), float(generator.uniform(0.2, 2.0)))
            for _ in range(5)
        )
        return (first, *rest)

    return Workload("w4", tuple(program() for _ in range(16)), shared=SHARED)
