"""Faults of the network between processes and the servers; `link.py` is the network."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.chaos.fault import Ground, Happen, from_its_end
from tests.chaos.link import Weather
from tests.chaos.links import EVERYONE, Links

LASTS_S = 5.0
"""Longer than a lease lives, and than a client needs to notice that its server is silent."""
SHORT_S = 0.5


def links_of(ground: Ground) -> Links:
    """Return the links, which these faults cannot do without."""
    assert ground.links is not None, "these servers are reached without links"
    return ground.links


def during(weather: Weather, *names: str) -> Happen:
    """Have a weather while the stack serves all the same, and for at least `LASTS_S`; recovery is until it does."""

    @asynccontextmanager
    async def happen(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
        began = time.monotonic()
        async with links_of(ground).weather(weather, *names):
            yield began
            await asyncio.sleep(max(0.0, began + LASTS_S - time.monotonic()))

    return happen


def passing(names: tuple[str, ...], **weather: bool) -> Happen:
    """Have a weather in which nothing can serve for a while, shorter or longer than a lease lives."""

    async def happen(ground: Ground, chance: random.Random) -> None:
        async with links_of(ground).weather(Weather(late=chance.random() < 0.5, **weather), *names):
            await asyncio.sleep(chance.uniform(SHORT_S, LASTS_S))

    return from_its_end(happen)


def one_way(*, up: bool, down: bool) -> Happen:
    """Hold one direction of everybody's links."""
    return passing(EVERYONE, up=up, down=down)


def apart(name: str, *, up: bool, down: bool) -> Happen:
    """Hold one process's link: the others take over what it does, and it learns of that late."""

    @asynccontextmanager
    async def happen(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
        weather = Weather(up=up, down=down, late=chance.random() < 0.5)
        async with during(weather, name)(ground, chance) as began:
            yield began

    return happen


delayed = during(Weather(delay_s=0.03), *EVERYONE)
losing = during(Weather(loss=0.03, resets=0.2), *EVERYONE)
cut = passing(EVERYONE, refuses=True)
half_open = passing(EVERYONE, up=False, down=False)
recorder_half_open = passing(("recorder-0",), up=False, down=False)
