"""Appends to a shard: grouped, chained, and told in order."""

from __future__ import annotations

import asyncio

import pytest

from bus.commit import MAX_FACTS
from bus.connection import Connection
from bus.errors import Unavailable
from schemas.envelope import Envelope
from tests.bus.conformance.writing import everything, fact, taken, versions

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


async def test_what_queues_while_an_append_is_in_flight_shares_the_next_envelope(log: Connection) -> None:
    pen = await taken(log)
    places = await asyncio.gather(*(pen.append([fact(n)]) for n in range(1, 101)))
    stored = await everything(log)
    assert len(stored) == 2  # the marker, and everything that was asked for in one turn of the loop
    assert [place.first for place in places] == list(range(100))
    assert {place.sequence for place in places} == {stored[-1].sequence}
    assert await versions(log) == list(range(1, 101))


async def test_each_place_points_at_the_first_fact_of_its_append(log: Connection) -> None:
    pen = await taken(log)
    places = await asyncio.gather(pen.append([fact(1), fact(2)]), pen.append([fact(3)]), pen.append([fact(4)]))
    by_sequence = {stored.sequence: stored.envelope for stored in await everything(log)}
    assert [by_sequence[place.sequence].facts[place.first].version for place in places] == [1, 3, 4]


async def test_an_envelope_holds_no_more_facts_than_its_limit(log: Connection) -> None:
    pen = await taken(log)
    await asyncio.gather(*(pen.append([fact(2 * n), fact(2 * n + 1)]) for n in range(MAX_FACTS)))
    sizes = [len(stored.envelope.facts) for stored in await everything(log)][1:]
    assert sum(sizes) == 2 * MAX_FACTS
    assert max(sizes) <= MAX_FACTS


async def test_every_envelope_names_the_hash_of_the_one_before(log: Connection) -> None:
    pen = await taken(log)
    for n in range(1, 6):
        await pen.append([fact(n)])
    stored = await everything(log)
    assert [s.envelope.previous for s in stored] == ["", *(s.hash for s in stored[:-1])]
    assert pen.position == (stored[-1].sequence, stored[-1].hash, 1)


async def test_shards_of_one_stream_do_not_disturb_one_another(log: Connection) -> None:
    pens = [await taken(log, f"p{shard}", shard) for shard in range(4)]
    await asyncio.gather(*(pen.append([fact(n)]) for n in range(1, 20) for pen in pens))
    for shard in range(4):
        stored = await everything(log, shard)
        assert sum(len(s.envelope.facts) for s in stored) == 20
        assert {s.envelope.shard for s in stored} == {shard}


async def test_a_listener_that_fails_does_not_undo_a_commit(log: Connection) -> None:
    pen = await taken(log)

    async def broken(sequence: int, envelope: Envelope) -> None:
        raise Unavailable("the listener's connection is closed")

    pen.on_commit = broken
    await pen.append([fact(1)])
    await pen.append([fact(2)])
    assert await versions(log) == [1, 2]


async def test_the_listener_hears_of_a_commit_before_whoever_asked_for_it(log: Connection) -> None:
    pen = await taken(log)
    order: list[str] = []

    async def heard(sequence: int, envelope: Envelope) -> None:
        order.append(f"heard {sequence}")

    pen.on_commit = heard
    order.append(f"told {(await pen.append([fact(1)])).sequence}")
    assert order == ["heard 2", "told 2"]


async def test_a_caller_that_gives_up_waiting_does_not_disturb_its_neighbours(log: Connection) -> None:
    pen = await taken(log)
    impatient = asyncio.create_task(pen.append([fact(1)]))
    patient = asyncio.create_task(pen.append([fact(2)]))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).first == 1
    assert await versions(log) == [1, 2]


async def test_a_connection_that_is_closed_says_so(nats_url: str, log: Connection) -> None:
    connection = await Connection.open(nats_url, "closed")
    await connection.close()
    with pytest.raises(Unavailable):
        await connection.request("ev.0", b"")
    with pytest.raises(Unavailable):
        await connection.publish("ev.0", b"")


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"nats://127\.0\.0\.1:1: \S"):
        await Connection.open("nats://127.0.0.1:1", "test", wait_s=0.3)


async def test_facts_come_back_as_the_bytes_that_they_were(log: Connection) -> None:
    texts = ["", "ä€𝄞", "a\0b", '"\\', "\u2028", "x" * 5000]
    pen = await taken(log)
    await pen.append([fact(number, text) for number, text in enumerate(texts)])
    stored = (await everything(log))[-1]
    assert [bytes(f.payload) for f in stored.envelope.facts] == [
        bytes(fact(number, text).payload) for number, text in enumerate(texts)
    ]


async def test_what_is_appended_one_after_the_other_is_in_that_order(log: Connection) -> None:
    pen = await taken(log)
    places = [await pen.append([fact(number)]) for number in range(1, 6)]
    assert [place.sequence for place in places] == sorted({place.sequence for place in places})
    assert await versions(log) == [1, 2, 3, 4, 5]
