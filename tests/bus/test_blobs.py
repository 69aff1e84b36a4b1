"""Large payloads: put away by content hash before their envelope, whole again for whoever reads."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import msgspec
import nats
import pytest

from actors.testing import CountedIds, FixedClock
from bus import batch
from bus.blobs import CHUNK, Blobs, content_hash
from bus.commit import ShardWriter, Writer
from bus.connection import Connection
from bus.errors import LogDamaged, Unavailable
from bus.feed import Item
from bus.inspection import Damage, inspect
from bus.log import START, read_shard, read_stream
from bus.repair import repair
from bus.store import Store
from bus.streams import BLOBS, ensure_streams
from schemas import codec
from schemas.blobs import LIMIT, BlobReference
from schemas.envelope import Fact
from schemas.runs import MemoryWritten
from tests.bus.recording import record

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


@pytest.fixture
async def bus(connection: Connection) -> Connection:
    """A connection to a NATS with the log's streams."""
    await ensure_streams(connection, 4)
    return connection


def fact(version: int, size: int) -> Fact:
    event = MemoryWritten(topic="t", text="x" * size)
    return Fact("acme", "t1", "thread", "t1", version, codec.tag(event), "", codec.payload(event))


async def pen(bus: Connection, process: str = "p1") -> ShardWriter:
    return await ShardWriter.take(bus, 0, Writer(process, "test"), FixedClock(), CountedIds(), process)


async def nothing_cut(items: list[Item]) -> None:
    raise AssertionError(items)


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 40 * CHUNK + 7])
async def test_what_was_put_comes_back(bus: Connection, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    reference = await Blobs(bus).put(data, "n1")
    assert reference == BlobReference(hash=content_hash(data), size=size)
    assert await Blobs(bus).get(reference) == data


async def test_the_same_bytes_are_stored_once(bus: Connection) -> None:
    await Blobs(bus).put(b"abc", "n1")
    before = (await bus.api(f"STREAM.INFO.{BLOBS}"))["state"]["messages"]
    await Blobs(bus).put(b"abc", "n2")
    assert (await bus.api(f"STREAM.INFO.{BLOBS}"))["state"]["messages"] == before


async def test_the_object_store_of_nats_reads_them(bus: Connection, nats_url: str) -> None:
    data = b"abc" * CHUNK
    reference = await Blobs(bus).put(data, "n1")
    client = await nats.connect(nats_url)
    try:
        found = await (await client.jetstream().object_store("BLOB")).get(reference.hash)
        assert found.data == data
    finally:
        await client.close()


async def test_what_is_missing_or_altered_is_said(bus: Connection) -> None:
    reference = await Blobs(bus).put(b"abc" * CHUNK, "n1")
    with pytest.raises(LogDamaged, match="missing or altered"):
        await Blobs(bus).get(BlobReference(hash="0" * 64, size=3))
    await bus.api(f"STREAM.MSG.DELETE.{BLOBS}", {"seq": 2})
    with pytest.raises(LogDamaged, match=reference.hash):
        await Blobs(bus).get(reference)


async def test_a_large_payload_does_not_ride_in_its_envelope_and_readers_do_not_notice(
    bus: Connection, store: Store
) -> None:
    written = [fact(1, 10), fact(2, 5 * LIMIT), fact(3, LIMIT - 100)]
    writer = await pen(bus)
    heard: list[Fact] = []

    async def hear(_: int, envelope: Any) -> None:
        heard.extend(envelope.facts)

    writer.on_commit = hear
    await asyncio.gather(*(writer.append([one]) for one in written))
    assert heard == written
    items = [item async for item in read_stream(bus, 1, writer.position.sequence)]
    assert max(len(item.data) for item in items) < LIMIT + 2000
    read = [f async for stored in read_shard(bus, 0, START, writer.position.sequence) for f in stored.envelope.facts]
    assert read[1:] == written
    await record(bus, store)
    assert [event.fact for event in await store.events_of_thread("acme", "t1")] == written
    assert (await inspect(bus, store)).whole


async def test_damage_to_large_payloads_is_found_and_mended(bus: Connection, store: Store, database: str) -> None:
    writer = await pen(bus)
    await writer.append([fact(1, 2 * LIMIT)])
    await writer.append([fact(2, 3 * LIMIT)])
    await record(bus, store)
    await bus.api(f"STREAM.PURGE.{BLOBS}")
    assert (await inspect(bus, store)).damages == [Damage("blob", 2, 3, "a payload is missing")]
    assert (await repair(bus, store, "mender", nothing_cut)).restored == 2
    client = await asyncpg.connect(database)
    await client.execute("UPDATE event SET payload = 'x' WHERE version = 2")
    await client.close()
    assert (await inspect(bus, store)).damages == [Damage("record", 3, 3, "not what was recorded")]
    await repair(bus, store, "mender2", nothing_cut)
    assert (await inspect(bus, store)).whole
    assert bytes((await store.events_of_thread("acme", "t1"))[1].fact.payload) == bytes(fact(2, 3 * LIMIT).payload)


async def test_a_lost_chunk_is_found_mended_and_put_again_by_who_needs_it(bus: Connection, store: Store) -> None:
    writer = await pen(bus)
    await writer.append([fact(1, 4 * LIMIT)])
    await record(bus, store)
    await bus.api(f"STREAM.MSG.DELETE.{BLOBS}", {"seq": 1})
    assert (await inspect(bus, store)).damages == [Damage("blob", 2, 2, "a payload is missing")]
    await repair(bus, store, "mender", nothing_cut)
    assert (await inspect(bus, store)).whole
    data = bytes(fact(1, 4 * LIMIT).payload)
    await bus.api(f"STREAM.PURGE.{BLOBS}", {"filter": "$O.BLOB.C.>"})
    reference = await Blobs(bus).put(data, "again")
    assert await Blobs(bus).get(reference) == data


async def test_an_unrecorded_envelope_whose_payload_is_lost_is_cut(bus: Connection, store: Store) -> None:
    writer = await pen(bus)
    await record(bus, store)
    await writer.append([fact(1, 2 * LIMIT)])
    await bus.api(f"STREAM.PURGE.{BLOBS}")
    found = await inspect(bus, store)
    assert [(damage.where, damage.first) for damage in found.damages] == [("log", 2)]
    dropped: list[Item] = []

    async def cut(items: list[Item]) -> None:
        dropped.extend(items)

    assert (await repair(bus, store, "mender", cut)).cut == 1
    assert [item.sequence for item in dropped] == [2]
    assert (await inspect(bus, store)).whole


async def test_chunks_that_a_lagging_server_does_not_have_are_asked_of_the_leader(
    bus: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(5 * CHUNK)
    reference = await Blobs(bus).put(data, "n1")
    plain = batch.read_batch

    async def lagging(on: Connection, stream: str, subject: str, first: int) -> list[Item]:
        return [item for item in await plain(on, stream, subject, first) if item.sequence <= 2]

    monkeypatch.setattr(batch, "read_batch", lagging)
    assert await Blobs(bus).get(reference) == data


async def test_the_recorder_waits_for_a_payload_that_cannot_be_read_now(
    bus: Connection, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await pen(bus)
    await writer.append([fact(1, 2 * LIMIT)])
    plain, tries = Blobs.get, 0

    async def away(self: Blobs, reference: BlobReference) -> bytes:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("the object store is away")
        return await plain(self, reference)

    monkeypatch.setattr(Blobs, "get", away)
    await record(bus, store)
    assert tries == 3


async def test_an_append_waits_for_a_store_that_is_away_for_a_moment(
    bus: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await pen(bus)
    plain, tries = Blobs.put, 0

    async def away(self: Blobs, data: bytes, nuid: str) -> BlobReference:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("the object store is away")
        return await plain(self, data, nuid)

    monkeypatch.setattr(Blobs, "put", away)
    await writer.append([fact(1, 2 * LIMIT)])
    await writer.append([fact(2, 10)])
    assert tries == 3


def test_the_golden_reference_is_read_and_written_as_the_same_bytes() -> None:
    data = b'{"type":"blob.reference","hash":"ab","size":70000}'
    reference = BlobReference(hash="ab", size=70000)
    assert bytes(codec.reference_payload(reference)) == data
    assert codec.is_reference(data)
    assert codec.is_reference(msgspec.Raw(data))
    assert codec.reference_of(msgspec.Raw(data)) == reference
    assert not codec.is_reference(codec.payload(MemoryWritten(topic="a", text="b")))
