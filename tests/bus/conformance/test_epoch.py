"""Owners are counted by terms, restorations by incarnations: neither ever goes back."""

from __future__ import annotations

import pytest

from actors.testing import CountedIds, FixedClock
from bus.commit import ShardWriter, Writer
from bus.connection import Connection, accepted
from bus.errors import LogDamaged
from bus.feed import Item
from bus.log import Position, read_stream
from bus.repair import repair
from bus.store import Store
from bus.streams import EV
from tests.bus.conformance.conftest import create
from tests.bus.conformance.writing import everything, fact, taken, versions
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


async def test_terms_count_the_owners(log: Connection) -> None:
    for term in range(1, 4):
        assert (await taken(log, f"p{term}")).position.term == term
    assert [s.envelope.term for s in await everything(log)] == [1, 2, 3]


async def test_envelopes_carry_the_term_of_who_wrote_them(log: Connection) -> None:
    for term in range(1, 4):
        pen = await taken(log, f"p{term}")
        await pen.append([fact(term)])
    written = [(s.envelope.term, s.envelope.writer) for s in await everything(log)]
    assert written == [(1, "p1"), (1, "p1"), (2, "p2"), (2, "p2"), (3, "p3"), (3, "p3")]


async def test_shards_count_their_owners_apart(log: Connection) -> None:
    await taken(log, "p1", 0)
    await taken(log, "p2", 0)
    assert (await taken(log, "p3", 1)).position.term == 1


async def come_back_shorter(log: Connection, last: int) -> None:
    """Have the stream end at `last`, as one that was restored from an older copy."""
    left = [item async for item in read_stream(log, 1, last)]
    config = (await log.api(f"STREAM.INFO.{EV}"))["config"]
    await log.api(f"STREAM.DELETE.{EV}")
    await create(log, config)
    for item in left:
        accepted(await log.request(item.subject, item.data))


@pytest.mark.deadline(30)
async def test_a_log_that_came_back_shorter_is_restored_in_a_new_incarnation_and_owners_go_on_from_its_end(
    log: Connection, store: Store
) -> None:
    pen = await taken(log)
    for number in range(1, 9):
        await pen.append([fact(number)])
    before = await everything(log)
    await record(log, store, (EV,))
    await come_back_shorter(log, 4)
    with pytest.raises(LogDamaged):
        await ShardWriter.take(log, 0, Writer("p2", "test"), FixedClock(), CountedIds(), "p2", pen.position)

    async def cut(items: list[Item]) -> None:
        raise AssertionError(f"nothing is to be cut: {items}")

    done = await repair(log, store, "mender", cut)
    assert (done.incarnation, done.restored) == (2, 5)
    assert await everything(log) == before
    with pytest.raises(LogDamaged):
        await ShardWriter.take(
            log, 0, Writer("p2", "test"), FixedClock(), CountedIds(), "p2", Position(99, "another", 1)
        )
    next_pen = await ShardWriter.take(log, 0, Writer("p2", "test"), FixedClock(), CountedIds(), "p2", pen.position)
    await next_pen.append([fact(9)])
    assert next_pen.position.term == 2
    assert await versions(log) == list(range(1, 10))
    await record(log, store, (EV,))
    cursor = await store.cursor(EV)
    assert cursor is not None
    assert (cursor.incarnation, cursor.sequence) == (2, next_pen.position.sequence)
