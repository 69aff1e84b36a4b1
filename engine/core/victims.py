"""Who gives way to a more urgent request."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter

from engine.config import SchedulerConfig
from engine.core.memory import Memory
from engine.core.request import Request


def victims(
    request: Request, running: Collection[Request], config: SchedulerConfig, memory: Memory, promised: int
) -> list[Request]:
    """Name the less urgent requests that would have to give way for a waiting one to begin; nobody if it is in vain.

    Args:
        request: the one that waits, for a seat or for blocks.
        running: those that have them.
        config: the limits.
        memory: the blocks.
        promised: how many of the idle ones are for running requests to grow into.
    """
    if config.policy != "priority":
        return []
    seats = len(running) - config.max_running + 1
    blocks = memory.lacking(request, promised)
    found = list[Request]()
    for other in sorted(running, key=attrgetter("rank"), reverse=True):
        if max(seats, blocks) <= 0 or other.rank[0] <= request.rank[0]:
            break
        found.append(other)
        seats, blocks = seats - 1, blocks - memory.gained(other, request)
    return found if max(seats, blocks) <= 0 else []
