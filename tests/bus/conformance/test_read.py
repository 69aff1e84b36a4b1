"""Read whole and in order, or not at all."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from bus import subjects
from bus.connection import Connection
from bus.errors import LogDamaged
from bus.log import START, last_commit, read_shard, read_stream
from bus.streams import EV
from schemas import codec
from schemas.envelope import FORMAT, Envelope
from tests.bus.conformance.writing import everything, fact, taken, versions

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


async def test_reading_goes_on_from_where_one_stopped(log: Connection) -> None:
    pen = await taken(log)
    for n in range(1, 4):
        await pen.append([fact(n)])
    middle = pen.position
    await pen.append([fact(4)])
    rest = [s async for s in read_shard(log, 0, middle, pen.position.sequence)]
    assert [f.version for s in rest for f in s.envelope.facts] == [4]


async def test_more_envelopes_than_one_batch_are_read_in_order(log: Connection) -> None:
    pen = await taken(log)
    for n in range(1, 301):
        await pen.append([fact(n)])
    assert await versions(log) == list(range(1, 301))


async def test_an_envelope_altered_on_the_way_is_noticed(log: Connection) -> None:
    pen = await taken(log)
    await pen.append([fact(1)])
    forged = Envelope(FORMAT, 0, 1, "p1", "forged", "test", 0, "0" * 32, (fact(2),))
    reply = await log.request(subjects.events(0), codec.encode(forged))
    sequence = msgspec.json.decode(reply.data)["seq"]
    with pytest.raises(LogDamaged) as damaged:
        await everything(log)
    assert damaged.value.sequence == sequence


async def test_an_envelope_that_vanished_is_noticed(log: Connection) -> None:
    pen = await taken(log)
    places = [await pen.append([fact(n)]) for n in range(1, 4)]
    await log.api(f"STREAM.MSG.DELETE.{EV}", {"seq": places[1].sequence})
    with pytest.raises(LogDamaged) as damaged:
        await everything(log)
    assert damaged.value.sequence == places[2].sequence


async def test_a_log_that_ends_too_early_is_noticed(log: Connection) -> None:
    pen = await taken(log)
    place = await pen.append([fact(1)])
    await log.api(f"STREAM.MSG.DELETE.{EV}", {"seq": place.sequence})
    with pytest.raises(LogDamaged):
        [s async for s in read_shard(log, 0, START, place.sequence)]


async def test_reading_ends_where_it_is_told_to(log: Connection) -> None:
    pen = await taken(log)
    places = [await pen.append([fact(number)]) for number in range(1, 5)]
    read = [s async for s in read_shard(log, 0, START, places[1].sequence)]
    assert [f.version for s in read for f in s.envelope.facts if f.kind == "thread"] == [1, 2]


async def test_a_shard_nobody_wrote_to_has_no_end_and_nothing_to_read(log: Connection) -> None:
    await taken(log, shard=1)
    assert await last_commit(log, 0) is None
    assert [s async for s in read_shard(log, 0, START, 0)] == []


async def test_a_shard_is_read_without_the_others_that_were_written_between(log: Connection) -> None:
    pens = [await taken(log, f"p{shard}", shard) for shard in range(3)]
    for number in range(1, 41):
        await pens[number % 3].append([fact(number)])
    for shard in range(3):
        read = [f.version for s in await everything(log, shard) for f in s.envelope.facts if f.kind == "thread"]
        assert read == [number for number in range(1, 41) if number % 3 == shard]


async def test_what_is_appended_while_somebody_reads_does_not_disturb_him(log: Connection) -> None:
    pen = await taken(log)
    for number in range(1, 31):
        await pen.append([fact(number)])
    until, read = pen.position.sequence, []
    async for stored in read_shard(log, 0, START, until):
        read += [f.version for f in stored.envelope.facts if f.kind == "thread"]
        await pen.append([fact(100 + stored.sequence)])
    assert read == list(range(1, 31))


async def test_the_stream_is_read_from_first_to_last_over_all_shards(log: Connection) -> None:
    pens = [await taken(log, f"p{shard}", shard) for shard in range(4)]
    await asyncio.gather(*(pen.append([fact(number)]) for pen in pens for number in range(5)))
    last = max(pen.position.sequence for pen in pens)
    assert [item.sequence async for item in read_stream(log, 1, last)] == list(range(1, last + 1))
    assert [item.sequence async for item in read_stream(log, 3, 4)] == [3, 4]
