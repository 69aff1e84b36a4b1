"""What watchers hear: committed facts and deltas, in order, and how much they missed."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from bus.connection import Connection
from bus.live import QUEUE, Live, Watcher, watching
from bus.log import Stored
from bus.streams import TRACE, ensure_streams
from bus.trace import Trace
from schemas import codec
from schemas.envelope import FORMAT, GENESIS, Envelope, Fact
from schemas.live import Committed, Delta, Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


def fact(kind: str, entity: str, version: int) -> Fact:
    return Fact("acme", "t1", kind, entity, version, "x", "c1", msgspec.Raw(b'{"a":1}'), "trace")


async def test_the_watchers_of_an_entity_hear_its_facts_and_no_others(connection: Connection) -> None:
    facts = (fact("run", "r1", 1), fact("shard", "0", 1), fact("run", "r2", 1), fact("run", "r1", 2))
    envelope = Envelope(FORMAT, 0, 1, "p", "c", "v", 0, GENESIS, facts)
    async with watching(connection, "live.acme.run.r1") as watcher:
        await Live(connection).committed(7, envelope)
        heard = [await watcher.next(2), await watcher.next(2)]
        assert await watcher.next(0.05) is None
    assert [frame.id for frame in heard if isinstance(frame, Committed)] == ["7-0", "7-3"]
    assert heard[1] == Committed(
        id="7-3",
        type="x",
        subject="r1",
        thread="t1",
        time="1970-01-01T00:00:00.000000Z",
        tenant="acme",
        cause="c1",
        version=2,
        data=msgspec.Raw(b'{"a":1}'),
        traceparent="trace",
    )


async def test_what_was_committed_last_is_told_again_but_not_what_was_erased(connection: Connection) -> None:
    erased = msgspec.structs.replace(fact("run", "r1", 1), payload=codec.ERASED)
    envelope = Envelope(FORMAT, 0, 1, "p", "c", "v", 0, GENESIS, (erased, fact("run", "r1", 2)))
    async with watching(connection, "live.acme.run.r1") as watcher:
        await Live(connection).again(None)
        await Live(connection).again(Stored(7, envelope, "hash"))
        heard = await watcher.next(2)
        assert await watcher.next(0.05) is None
    assert isinstance(heard, Committed)
    assert (heard.id, heard.version) == ("7-1", 2)


async def test_a_delta_is_heard_and_the_same_bytes_are_kept_in_the_trace(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    delta = Delta("r1", "t1", "r1-1-m", 2, 0, "hello")
    async with watching(connection, "live.acme.run.r1") as watcher, Trace(connection, "p1") as trace:
        await Live(connection, trace).delta("acme", "run", delta)
        assert await watcher.next(2) == delta
    kept = (await connection.api(f"STREAM.MSG.GET.{TRACE}", {"last_by_subj": "trace.acme.run.r1"}))["message"]
    assert msgspec.convert(kept["data"], bytes, strict=False) == codec.encode(delta)


async def test_the_outcome_of_a_command_is_told_to_whoever_sent_it(connection: Connection) -> None:
    outcome = Outcome(command="c1", result="accepted", thread="t1")
    async with watching(connection, "live.acme.command.c1") as watcher:
        await Live(connection).outcome("acme", outcome)
        assert await watcher.next(2) == outcome


async def test_a_watcher_that_is_too_slow_loses_the_oldest_and_knows_how_many() -> None:
    watcher = Watcher()
    for number in range(QUEUE + 10):
        watcher.hear(codec.encode(Delta("r", "t1", "e", 1, number, "x")))
    assert watcher.dropped == 10
    first = await watcher.next(1)
    assert isinstance(first, Delta)
    assert first.offset == 10


async def test_a_frame_nobody_can_read_does_not_stop_the_next(connection: Connection) -> None:
    async with watching(connection, "live.acme.run.r1") as watcher:
        await connection.publish("live.acme.run.r1", b"\xffnope")
        await connection.publish("live.acme.run.r1", codec.encode(Delta("r1", "t1", "e", 1, 0, "x")))
        assert isinstance(await watcher.next(2), Delta)


async def test_what_is_listened_to_is_handed_on_as_it_is_read_whole_and_in_order(connection: Connection) -> None:
    heard: list[bytes] = []
    subscription = await connection.listen("live.acme.run.r1", heard.append)
    sent = [str(number).encode() for number in range(1000)]
    for data in sent:
        await connection.publish("live.acme.run.r1", data)
    await connection.flush()  # who is answered has read what came before
    assert heard == sent
    await subscription.unsubscribe()
    await connection.publish("live.acme.run.r1", b"late")
    await connection.flush()
    assert heard == sent


async def test_deltas_that_have_come_are_given_at_once_and_an_event_waits_its_turn() -> None:
    watcher = Watcher()
    outcome = Outcome("c1", "accepted", "t1")
    deltas = [Delta("r", "t1", "e", 1, number, "x") for number in range(3)]
    for frame in (*deltas, outcome, deltas[0]):
        watcher.hear(codec.encode(frame))
    watcher.hear(b"[]")  # is none, and told of nowhere
    assert await watcher.next(1) == deltas[0]
    assert watcher.deltas() == deltas[1:]
    assert watcher.deltas() == []
    assert await watcher.next(1) == outcome
    assert watcher.deltas() == deltas[:1]


async def test_one_timer_serves_every_wait_and_a_shorter_one_has_its_own() -> None:
    loop, watcher = asyncio.get_running_loop(), Watcher()
    data = codec.encode(Delta("r", "t1", "e", 1, 0, "x"))
    timers = set()
    async with asyncio.timeout(60):
        for _ in range(3):
            loop.call_soon(watcher.hear, data)
            assert await watcher.next(3600) is not None
            timers.add(watcher._looking)
        assert len(timers) == 1
        assert [await watcher.next(0.01) for _ in range(3)] == [None] * 3
        # the timer of a wait that is over looks for the next one, which is longer
        loop.call_soon(watcher.hear, data)
        assert await watcher.next(0.02) is not None
        assert await watcher.next(0.05) is None
    watcher.close()
    assert watcher._looking is None
