"""What a fault is, and the ground it happens on."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Literal, NamedTuple

from tests.chaos.links import Links
from tests.chaos.load import Ledger
from tests.chaos.neighbours import Neighbours
from tests.chaos.stack import Stack
from tests.chaos.volume import Volume


@dataclass(frozen=True, slots=True)
class Ground:
    """The stack, and what lies around it."""

    stack: Stack
    ledger: Ledger
    neighbours: Neighbours
    links: Links | None = None
    """How processes reach the servers; None where those are somebody else's."""
    volume: Volume | None = None
    """The disk that the stack's data is on; None if it is everybody's."""
    no_volume: str = ""
    """Why it is."""


Happen = Callable[[Ground, random.Random], AbstractAsyncContextManager[float]]
"""Has happened when its block begins, and gives the moment (monotonic) from which recovery counts; what is left of it
stays for the block, in which the stack recovers, and is gone after it."""
Plain = Callable[[Ground, random.Random], Awaitable[None]]


class Fault(NamedTuple):
    """One kind of fault."""

    name: str
    kills: bool
    """Whether it ends a process."""
    recovers: Literal["commands", "model", "record", "start"]
    """What serves again afterwards; `start` is everything, after another start."""
    happen: Happen
    agents_die: int = 0
    """How many ends of agents processes the supervisor sees."""
    nats_ends: int = 0
    """How many ends of nats-server the host sees."""
    recorder_ends: int = 0
    """How many ends of the recorder the supervisor sees."""
    rounds: int = 1 << 62
    """How often it happens at most: one that takes longer the longer the log is would leave no time for others."""
    missing: Callable[[Ground], str] = lambda _: ""
    """Says what it lacks here; empty if nothing."""


def from_its_beginning(happen: Plain) -> Happen:
    """Count recovery from before: what it takes is part of being away."""

    @asynccontextmanager
    @wraps(happen)
    async def happened(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
        began = time.monotonic()
        await happen(ground, chance)
        yield began

    return happened


def from_its_end(happen: Plain) -> Happen:
    """Count recovery from when it is over: nothing can serve before."""

    @asynccontextmanager
    @wraps(happen)
    async def happened(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
        await happen(ground, chance)
        yield time.monotonic()

    return happened
