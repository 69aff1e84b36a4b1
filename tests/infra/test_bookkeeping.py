"""What the host does for the record beside everything else, by a clock that the test sets."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bus.connection import Connection
from bus.errors import Unavailable
from bus.inspection import bounds_of
from bus.partitions import Partitions, partitions
from bus.projector import Projector
from bus.retention import steps_gone_before
from bus.store import Store
from infra import bookkeeping
from infra.bookkeeping import Books
from infra.settings import Settings
from schemas.times import DAY
from tests.bus.recording import record
from tests.bus.test_trim import checkpoints
from tests.conftest import History

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

TODAY = 20_000


class Clock:
    """Says that it is noon of a day."""

    def __init__(self, day: int) -> None:
        self.day = day

    def now(self) -> int:
        return self.day * DAY + DAY // 2


async def days(store: Store) -> list[int]:
    return [partition.begins // DAY for partition in await partitions(store, "record")]


async def test_days_come_and_go_as_time_goes_on(connection: Connection, store: Store) -> None:
    clock = Clock(TODAY)
    books = Books(store, connection, Settings(keep_steps=2), clock)
    for day in (TODAY, TODAY + 1, TODAY + 4):
        clock.day = day
        await books.look()
    assert await days(store) == [TODAY + 2, TODAY + 3, TODAY + 4, TODAY + 5, TODAY + 6]
    assert await steps_gone_before(store) == (TODAY + 2) * DAY
    assert books.statistics()["expired_rows"] == 0


async def test_steps_are_kept_for_ever_where_that_is_set(connection: Connection, store: Store) -> None:
    await Partitions(store).make("record", [1])
    await Books(store, connection, Settings(keep_steps=0), Clock(TODAY)).look()
    assert await days(store) == [1, TODAY, TODAY + 1, TODAY + 2]


async def test_the_log_is_trimmed_where_that_is_set(history: History, connection: Connection, store: Store) -> None:
    for n in range(8):
        await history.commit(n % 2)
    await record(connection, store)
    await checkpoints(store, 0, 1)
    later = Clock(100 * 365)
    await Books(store, connection, Settings(), later).look()
    assert (await bounds_of(connection)).first == 1
    await Books(store, connection, Settings(keep_log=30), later).look()
    assert (await bounds_of(connection)).first == 7


async def test_postgres_being_away_is_waited_for(
    connection: Connection, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeping, "_RETRY_S", 0.01)
    prepared = asyncio.Event()

    async def failing(store: Store, now: int) -> None:
        monkeypatch.setattr(bookkeeping, "prepare_partitions", succeeding)
        raise Unavailable("away")

    async def succeeding(store: Store, now: int) -> None:
        prepared.set()

    monkeypatch.setattr(bookkeeping, "prepare_partitions", failing)
    expiring = asyncio.create_task(Books(store, connection, Settings(), Clock(TODAY)).expire())
    await prepared.wait()
    expiring.cancel()
    await asyncio.gather(expiring, return_exceptions=True)


async def test_what_ends_by_a_fault_of_ours_is_told_and_ends_nothing_else(
    connection: Connection, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def faulty(self: Projector) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(Projector, "run", faulty)
    with caplog.at_level(logging.ERROR), bookkeeping.bookkeeping(store, connection, Settings()):
        async with asyncio.timeout(5):
            while not caplog.records:
                await steps_gone_before(store)
    assert caplog.messages == ["projections ended: start the stack again to have it back"]
