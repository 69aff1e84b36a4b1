"""Appends to a shard: grouped, chained, fenced, and written exactly once whatever happens to the acknowledgement.

All of it on one server and on a cluster of three, which answer a repeated append in different ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.testing import CountedIds, FixedClock
from bus import subjects
from bus.commit import MAX_FACTS, ShardWriter, Writer
from bus.connection import Connection, Message
from bus.errors import Fenced, LogDamaged, OutcomeUnknown, Refused, Unavailable
from bus.log import START, Position, Stored, last_commit, read_shard
from bus.streams import BLOBS, EV, stream_configs
from infra.services.nats_server import NatsServer
from schemas import codec
from schemas.envelope import FORMAT, Envelope, Fact
from schemas.runs import MemoryWritten
from tests.system.foreign import Nodes, nats_servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


GOING = {10049, 10058}
"""JetStream's codes for a stream whose predecessor of that name is not gone yet."""


class Forgetful(Connection):
    """A connection that loses the acknowledgements of the next appends: they arrive, nobody hears of it."""

    losses = 0

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        reply = await super().request(subject, data, timeout_s, headers)
        if subject.startswith("ev.") and self.losses:
            self.losses -= 1
            raise TimeoutError("the acknowledgement was lost")
        return reply


class Deaf(Connection):
    """A connection whose appends never reach the server."""

    deaf = False

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        if subject.startswith("ev.") and self.deaf:
            raise TimeoutError("nothing came back")
        return await super().request(subject, data, timeout_s, headers)


@pytest.fixture(scope="module")
def cluster(open_folder: Path) -> Iterator[Nodes]:
    """Three nats-servers."""
    folder = open_folder / "cluster"
    folder.mkdir()
    with nats_servers(folder, 3) as nodes:
        yield nodes


@pytest.fixture(params=["one server", "three servers"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def nats_url(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a NATS of that kind, which may have streams."""
    if kind == "three servers":
        return str(request.getfixturevalue("cluster").url)
    return str(request.getfixturevalue("nats_server").url)


@pytest.fixture
async def log(connection: Connection, kind: str) -> AsyncIterator[Connection]:
    """A connection to a NATS with the log's streams, empty."""
    replicas = 3 if kind == "three servers" else 1
    for config in stream_configs(4, replicas):
        if config["name"] in {EV, BLOBS}:
            await create(connection, config)
    yield connection
    for name in (EV, BLOBS):
        await connection.api(f"STREAM.DELETE.{name}")


async def create(connection: Connection, config: dict[str, Any]) -> None:
    """Make a stream; one of that name that was just deleted may still be on its way out of the cluster."""
    while True:
        try:
            await connection.api(f"STREAM.CREATE.{config['name']}", config)
        except Refused as refusal:
            if refusal.code not in GOING:
                raise
        else:
            return


Restart = Callable[[], Awaitable[None]]


@pytest.fixture
def restart(kind: str, log: Connection, request: pytest.FixtureRequest) -> Restart:
    """Kill the server that takes the appends, and start it again."""
    if kind == "one server":
        server: NatsServer = request.getfixturevalue("nats_server")

        async def alone() -> None:
            await server.kill()
            await server.start(server.port)

        return alone
    nodes: Nodes = request.getfixturevalue("cluster")

    async def leader() -> None:
        node = nodes.named((await log.api(f"STREAM.INFO.{EV}"))["cluster"]["leader"])
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)

    return leader


@pytest.fixture
async def forgetful(log: Connection, nats_url: str) -> AsyncIterator[Forgetful]:
    async with await Forgetful.open(nats_url, "forgetful") as opened:
        yield opened


def fact(number: int, text: str = "") -> Fact:
    event = MemoryWritten(topic=f"t{number}", text=text)
    return Fact(
        tenant="acme",
        thread="thread-1",
        kind="thread",
        entity="thread-1",
        version=number,
        type=codec.tag(event),
        cause="",
        payload=codec.payload(event),
    )


_ids = CountedIds()


async def taken(connection: Connection, process: str = "p1", shard: int = 0) -> ShardWriter:
    return await ShardWriter.take(connection, shard, Writer(process, "test"), FixedClock(), _ids, "agents-0")


async def everything(connection: Connection, shard: int = 0) -> list[Stored]:
    last = await last_commit(connection, shard)
    assert last is not None
    return [stored async for stored in read_shard(connection, shard, START, last.sequence)]


async def versions(connection: Connection) -> list[int]:
    """The versions of the facts written with `fact`, in log order."""
    return [f.version for stored in await everything(connection) for f in stored.envelope.facts if f.kind == "thread"]


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


async def test_terms_count_the_owners(log: Connection) -> None:
    for term in range(1, 4):
        assert (await taken(log, f"p{term}")).position.term == term
    assert [s.envelope.term for s in await everything(log)] == [1, 2, 3]


async def test_an_append_whose_acknowledgement_is_lost_is_stored_once(forgetful: Forgetful) -> None:
    pen = await taken(forgetful)
    forgetful.losses = 1
    place = await pen.append([fact(1)])
    await pen.append([fact(2)])
    assert await versions(forgetful) == [1, 2]
    assert place.sequence == 2


async def test_a_takeover_whose_acknowledgement_is_lost_is_stored_once(forgetful: Forgetful) -> None:
    forgetful.losses = 1
    pen = await taken(forgetful)
    assert pen.position.sequence == 1
    assert len(await everything(forgetful)) == 1


async def test_an_owner_overtaken_before_it_heard_of_its_append_never_says_that_it_was_not_written(
    forgetful: Forgetful, nats_url: str, kind: str
) -> None:
    """One server looks at the sequence first, and cannot tell; a cluster at the message id, and says that it has it."""
    pen = await taken(forgetful, "old")

    class Overtaken(Forgetful):
        async def request(
            self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
        ) -> Message:
            try:
                return await super().request(subject, data, timeout_s, headers)
            except TimeoutError:
                await taken(forgetful, "new")
                raise

    async with await Overtaken.open(nats_url, "overtaken") as connection:
        pen._connection = connection
        connection.losses = 1
        if kind == "one server":
            with pytest.raises(OutcomeUnknown):
                await pen.append([fact(1)])
        else:
            assert (await pen.append([fact(1)])).sequence == 2
        with pytest.raises(OutcomeUnknown if kind == "one server" else Fenced):
            await pen.append([fact(2)])
    assert await versions(forgetful) == [1]


async def test_an_append_that_is_never_answered_ends_at_its_deadline(log: Connection, nats_url: str) -> None:
    async with await Deaf.open(nats_url, "deaf") as connection:
        pen = await taken(connection)
        pen.deadline_s = 0.1
        connection.deaf = True
        results = await asyncio.gather(*(pen.append([fact(n)]) for n in range(1, 4)), return_exceptions=True)
        assert all(isinstance(result, OutcomeUnknown) for result in results)
        connection.deaf = False
        with pytest.raises(OutcomeUnknown):
            await pen.append([fact(4)])
    assert await versions(log) == []


async def test_an_oversize_append_is_refused_at_once_and_the_next_one_goes_through(log: Connection) -> None:
    pen = await taken(log)
    small, large, after = await asyncio.gather(
        pen.append([fact(1)]),
        pen.append([msgspec.structs.replace(fact(2), cause="x" * (9 << 20))]),
        pen.append([fact(3)]),
        return_exceptions=True,
    )
    assert isinstance(large, Refused)
    assert "the server takes 8388608" in large.description
    assert not isinstance(small, BaseException)
    assert not isinstance(after, BaseException)
    assert await versions(log) == [1, 3]


async def test_a_full_log_refuses_and_serves_again_when_there_is_room(log: Connection) -> None:
    pen = await taken(log)
    config = (await log.api(f"STREAM.INFO.{EV}"))["config"]
    await log.api(f"STREAM.UPDATE.{EV}", {**config, "max_msgs": 1})
    with pytest.raises(Refused):
        await pen.append([fact(1)])
    await log.api(f"STREAM.UPDATE.{EV}", config)
    await pen.append([fact(2)])
    assert await versions(log) == [2]


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


@pytest.mark.deadline(40)
async def test_a_server_restart_in_the_middle_of_appends_resolves_every_one(log: Connection, restart: Restart) -> None:
    pen = await taken(log)
    pen.deadline_s = 25
    started = asyncio.Event()

    async def actor(number: int) -> None:
        for turn in range(20):
            await pen.append([fact(number * 100 + turn)])
            if turn == 5:
                started.set()

    async with asyncio.TaskGroup() as actors:
        for number in range(8):
            actors.create_task(actor(number))
        await started.wait()
        await restart()
    written = await versions(log)
    assert sorted(written) == [number * 100 + turn for number in range(8) for turn in range(20)]
    for number in range(8):
        own = [version for version in written if version // 100 == number]
        assert own == sorted(own)


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
