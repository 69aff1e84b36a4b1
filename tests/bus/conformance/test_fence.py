"""Who was overtaken cannot write, and whoever waits hears of it."""

from __future__ import annotations

import asyncio

import pytest

from actors.testing import CountedIds, FixedClock
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.errors import Fenced, LogDamaged, OutcomeUnknown
from bus.log import Position
from tests.bus.conformance.writing import everything, fact, taken, versions

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


@pytest.mark.parametrize(("sequence", "digest"), [(2, "other"), (3, "later")])
async def test_a_shard_that_is_not_what_it_was_cannot_be_taken(log: Connection, sequence: int, digest: str) -> None:
    pen = await taken(log)
    await pen.append([fact(1)])
    known = Position(sequence, digest, 1)
    with pytest.raises(LogDamaged):
        await ShardWriter.take(log, 0, Writer("p2", "test"), FixedClock(), CountedIds(), "p2", known)
    await pen.append([fact(2)])


async def test_a_stale_owner_is_fenced_and_nothing_of_it_is_written(log: Connection) -> None:
    old = await taken(log, "old")
    await old.append([fact(1)])
    new = await taken(log, "new")
    for _ in range(2):
        with pytest.raises(Fenced) as fenced:
            await old.append([fact(2)])
        assert fenced.value.shard == 0
    await new.append([fact(3)])
    assert await versions(log) == [1, 3]
    assert [s.envelope.writer for s in await everything(log)] == ["old", "old", "new", "new"]


async def test_everyone_who_waits_on_a_fenced_owner_hears_of_it(log: Connection) -> None:
    old = await taken(log, "old")
    await taken(log, "new")
    results = await asyncio.gather(*(old.append([fact(n)]) for n in range(1, 5)), return_exceptions=True)
    assert all(isinstance(result, Fenced) for result in results)


async def test_of_two_rivals_that_take_a_shard_at_once_one_can_write(log: Connection) -> None:
    rivals = await asyncio.gather(*(taken(log, f"rival-{n}") for n in range(4)), return_exceptions=True)
    pens = [rival for rival in rivals if isinstance(rival, ShardWriter)]
    assert all(isinstance(rival, ShardWriter | Fenced) for rival in rivals)
    results = await asyncio.gather(*(pen.append([fact(1)]) for pen in pens), return_exceptions=True)
    assert sum(not isinstance(result, Fenced) for result in results) == 1
    assert await versions(log) == [1]


async def test_an_owner_is_fenced_though_the_next_one_wrote_nothing(log: Connection) -> None:
    old = await taken(log, "old")
    await taken(log, "new")
    with pytest.raises(Fenced):
        await old.append([fact(1)])
    assert await versions(log) == []


async def test_one_shard_s_fence_is_not_another_s(log: Connection) -> None:
    first, second = await taken(log, "p1", 0), await taken(log, "p1", 1)
    await taken(log, "p2", 0)
    with pytest.raises(Fenced):
        await first.append([fact(1)])
    await second.append([fact(2)])


async def test_who_gave_up_appends_no_more_though_nobody_took_over(log: Connection) -> None:
    pen = await taken(log)
    pen.give_up()
    with pytest.raises(OutcomeUnknown):
        await pen.append([fact(1)])
    assert await versions(log) == []
