"""Places that several processes share: never more than there are, and none is lost with whoever had it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from bus.errors import Unavailable
from bus.slots import Slots, one_at_a_time
from bus.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(60)]


@pytest.fixture
async def processes(store: Store) -> AsyncIterator[list[Slots]]:
    """As many as three processes have: none knows of the others'."""

    async def opened() -> Store:
        return store

    made = [Slots(opened, "lines", 4) for _ in range(3)]
    yield made
    for one in made:
        await one.close()


async def take(slots: Slots, places: AsyncExitStack, count: int = 1) -> None:
    for _ in range(count):
        await places.enter_async_context(slots.one())


class Busy:
    """What several do at once."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._full = asyncio.Event()
        self.now = self.most = self.done = 0

    async def work(self) -> None:
        """Go on when as many as are wanted do so."""
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._wanted:
            self._full.set()
        await self._full.wait()
        await asyncio.sleep(0)
        self.now -= 1
        self.done += 1


async def test_there_are_as_many_places_for_all_processes_as_for_one(processes: list[Slots]) -> None:
    busy = Busy(4)

    async def work(slots: Slots) -> None:
        async with slots.one():
            await busy.work()

    await asyncio.gather(*(work(slots) for slots in processes for _ in range(12)))
    assert (busy.most, busy.done) == (4, 36)


async def test_one_process_may_have_them_all_and_another_gets_what_it_leaves(processes: list[Slots]) -> None:
    async with AsyncExitStack() as theirs:
        async with AsyncExitStack() as ours:
            await take(processes[0], ours, 4)
            late = asyncio.create_task(take(processes[1], theirs))
            assert await processes[2]._take() is None
        await late


async def test_the_places_of_a_process_that_is_killed_are_free(processes: list[Slots]) -> None:
    async with AsyncExitStack() as places:
        await take(processes[0], places, 4)
        killed = processes[0]._connection
        assert isinstance(killed, asyncpg.Connection)
        killed.terminate()
        await take(processes[1], places, 4)


async def test_who_does_not_wait_any_more_has_no_place(processes: list[Slots]) -> None:
    first, second = processes[:2]
    async with AsyncExitStack() as nobody:
        async with AsyncExitStack() as places:
            await take(first, places, 4)
            waiting = asyncio.create_task(take(second, nobody))
            await asyncio.wait({waiting}, timeout=0.01)  # it asks by now, or it does not: both must do
            waiting.cancel()
            await asyncio.wait({waiting})
        async with AsyncExitStack() as places:
            await take(first, places, 4)


async def test_a_place_is_waited_for_while_postgres_is_away(
    processes: list[Slots], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = asyncio.Event()
    opened = processes[0]._opened

    async def later() -> Store:
        if not away.is_set():
            away.set()
            raise Unavailable("Postgres is away")
        return await opened()

    monkeypatch.setattr(processes[0], "_opened", later)
    async with AsyncExitStack() as places:
        await take(processes[0], places)
    assert away.is_set()


async def test_one_at_a_time_is_one_in_all(store: Store) -> None:
    busy = Busy(1)

    async def alone() -> None:
        async with one_at_a_time(store, "this"):
            await busy.work()

    await asyncio.gather(*(alone() for _ in range(5)))
    assert (busy.most, busy.done) == (1, 5)
