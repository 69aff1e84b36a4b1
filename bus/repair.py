"""Mends the log: what JetStream lost comes back from Postgres, what Postgres lost from JetStream.

Nobody may append meanwhile: the stack is stopped. Each step can be broken off and done again:

1. what cannot be kept is handed to `cut`, which puts it in a safe place;
2. what is damaged in Postgres is written anew from JetStream;
3. what JetStream holds beyond the record and continues its shard is recorded, in a new incarnation: sequences that
   JetStream forgot may have named other envelopes;
4. the stream is written anew from the record, which by then has all there is, under the same sequences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from bus import subjects
from bus.blobs import Blobs
from bus.commit import WRONG_LAST_SEQUENCE
from bus.connection import Connection, accepted
from bus.errors import LogLost, Refused
from bus.feed import Item
from bus.inspection import LOST, Damage, Inspection, Told, bounds_of, envelope_of, inspect, lost_payload
from bus.log import read_stream
from bus.record import Recorded, recorded_envelopes, recorded_payloads, rewrite
from bus.rows import EventRows, with_blobs
from bus.snapshots import forget
from bus.store import Cursor, Store
from bus.streams import EV
from schemas import codec
from schemas.envelope import GENESIS

Cut = Callable[[list[Item]], Awaitable[None]]
"""Takes what is cut out of the log; it is gone from there once this returns."""

_WINDOW = 256
"""Messages that are under way to JetStream at once."""
_PUBLISH_S = 30.0


class Repaired(NamedTuple):
    """What was done."""

    before: Inspection
    restored: int
    """Envelopes or large payloads that were missing in JetStream and came back from Postgres."""
    rerecorded: int
    """Envelopes that were missing or altered in Postgres and came back from JetStream."""
    kept: int
    """Envelopes beyond the record that were kept."""
    cut: int
    """Messages that could not be kept."""
    lost: int
    """Sequences that neither copy has any more."""
    incarnation: int


async def repair(
    connection: Connection, store: Store, writer: str, cut: Cut, told: Told = lambda _done, _all: None
) -> Repaired:
    """Make both copies whole again; does nothing where they are.

    Args:
        connection: to a NATS that has its streams, with whatever is left in them.
        store: the record.
        writer: this process, unlike every recorder's: it takes the cursor over.
        cut: takes what cannot be kept, before anything is changed.
        told: hears how far it is.

    Raises:
        LogLost: an envelope is whole in neither copy; nothing was changed.
        Unavailable: a server cannot be reached; repairing again goes on.
    """
    cursor = await store.claim(EV, writer)
    found = await inspect(connection, store, told)
    if found.whole:
        return Repaired(found, 0, 0, 0, 0, 0, cursor.incarnation)
    _refuse_hopeless(found)
    async with store.transaction() as client:
        await forget(client)
    kept, dropped = await _sorted_out(connection, store, found)
    if dropped:
        await cut(dropped)
    rerecorded = await _rerecord(connection, store, found)
    payloads = await _restore_payloads(connection, store, found, writer)
    if not found.log_damages:
        return Repaired(found, payloads, rerecorded, 0, 0, 0, cursor.incarnation)
    cursor = await _record(connection, store, cursor, kept, writer)
    await _rebuild(connection, store, found, cursor, told)
    return Repaired(
        before=found,
        restored=payloads + sum(_upto(damage, found.cursor.sequence) for damage in found.log_damages),
        rerecorded=rerecorded,
        kept=len(kept),
        cut=len(dropped),
        lost=sum(_size(damage) for damage in found.log_damages if damage.problem == LOST),
        incarnation=cursor.incarnation,
    )


def _size(damage: Damage) -> int:
    return damage.last - damage.first + 1


def _upto(damage: Damage, sequence: int) -> int:
    return max(0, min(damage.last, sequence) - damage.first + 1)


def _refuse_hopeless(found: Inspection) -> None:
    """See that every recorded envelope is whole in one copy.

    Raises:
        LogLost: one is in neither.
    """
    good = {damage.first: damage for damage in found.log_damages}
    for damage in found.record_damages:
        if damage.first < found.begins:
            raise LogLost(damage.first)
        for sequence in range(damage.first, damage.last + 1):
            if any(other.first <= sequence <= other.last for other in good.values()):
                raise LogLost(sequence)
    for damage in found.log_damages:
        if damage.problem == LOST and damage.first <= found.cursor.sequence:
            raise LogLost(damage.first)


async def _sorted_out(connection: Connection, store: Store, found: Inspection) -> tuple[list[Item], list[Item]]:
    """Part what JetStream holds and Postgres does not: what continues its shard, and what cannot be kept."""
    if not found.log_damages:
        return [], []
    first = min(found.log_damages[0].first, found.cursor.sequence + 1)
    recorded = {row.hash async for row in recorded_envelopes(store, first - 1, found.cursor.sequence)}
    heads = {shard: head for shard, (_, head) in (await store.heads()).items()}
    kept, dropped, blobs = [], [], Blobs(connection)
    async for item in read_stream(connection, first, found.bounds.last):
        digest = codec.digest(item.data)
        if digest in recorded:
            continue  # perhaps under another number, by a repair that was broken off
        envelope = envelope_of(item)
        unsound = envelope is None or await lost_payload(blobs, envelope)
        if envelope is None or unsound or envelope.previous != heads.get(envelope.shard, GENESIS):
            dropped.append(item)
        else:
            heads[envelope.shard] = digest
            kept.append(item)
    return kept, dropped


async def _rerecord(connection: Connection, store: Store, found: Inspection) -> int:
    """Write anew in Postgres what is damaged there."""
    count = 0
    for damage in found.record_damages:
        async for item in read_stream(connection, damage.first, damage.last):
            envelope = codec.decode_envelope(item.data)
            incarnation = await _incarnation_at(store, item.sequence) or found.cursor.incarnation
            before = Cursor(EV, incarnation, item.sequence - 1, "")
            rows = EventRows(EV, {envelope.shard: (0, envelope.previous)}).batch(before, [item])
            whole = await with_blobs(rows, Blobs(connection))
            await rewrite(store, incarnation, item.sequence, whole.tables)
            count += 1
    return count


async def _restore_payloads(connection: Connection, store: Store, found: Inspection, writer: str) -> int:
    """Put large payloads back into the object store."""
    count, blobs = 0, Blobs(connection)
    for damage in found.blob_damages:
        for data in await recorded_payloads(store, damage.first, damage.last):
            await blobs.put(data, f"{writer}-{damage.first}-{count}")
            count += 1
    return count


async def _incarnation_at(store: Store, sequence: int) -> int | None:
    (row,) = await store.rows("SELECT min(incarnation) FROM commit WHERE seq >= $1", sequence)
    found: int | None = row["min"]
    return found


async def _record(connection: Connection, store: Store, cursor: Cursor, kept: list[Item], writer: str) -> Cursor:
    """Record what is kept, numbered on from the record's end, as a new incarnation."""
    begun = cursor._replace(incarnation=cursor.incarnation + 1)
    rows = EventRows(EV, await store.heads())
    numbered = [item._replace(sequence=begun.sequence + n) for n, item in enumerate(kept, start=1)]
    batch = await with_blobs(rows.batch(begun, numbered), Blobs(connection))
    await store.advance(cursor, batch, writer)
    return batch.cursor


async def _rebuild(connection: Connection, store: Store, found: Inspection, end: Cursor, told: Told) -> None:
    """Write the stream anew from the record, or go on where it ends if all it has is sound.

    Raises:
        LogLost: the record is not whole; the stream is as it was.
    """
    async for row in recorded_envelopes(store, 0, end.sequence):
        if not row.whole():
            raise LogLost(row.sequence)
    agreed = found.log_damages[0].first - 1
    if (await bounds_of(connection)).last <= agreed and await _continued(connection, store, agreed):
        agreed += 1
    else:
        config = (await connection.api(f"STREAM.INFO.{EV}"))["config"]
        await connection.api(f"STREAM.DELETE.{EV}")
        await connection.api(f"STREAM.CREATE.{EV}", {**config, "first_seq": found.begins})
        agreed = found.begins - 1
    under_way: set[asyncio.Task[None]] = set()
    try:
        async for row in recorded_envelopes(store, agreed, end.sequence):
            under_way.add(asyncio.create_task(_publish(connection, row)))
            if len(under_way) >= _WINDOW:
                under_way = await _after_some(under_way)
                told(row.sequence, end.sequence)
        while under_way:
            under_way = await _after_some(under_way)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    told(end.sequence, end.sequence)


async def _after_some(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for some of the tasks, and return the others; raise what one of them raised."""
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for error in [task.exception() for task in done]:
        if error is not None:
            raise error
    return others


async def _continued(connection: Connection, store: Store, agreed: int) -> bool:
    """Append the first envelope that is missing at the end.

    False where the server will not: it may have forgotten messages and still count them.
    """
    async for row in recorded_envelopes(store, agreed, agreed + 1):
        try:
            await _publish(connection, row)
        except Refused as refusal:
            if refusal.code not in WRONG_LAST_SEQUENCE:
                raise
            return False
    return True


async def _publish(connection: Connection, row: Recorded) -> None:
    headers = {"Nats-Expected-Last-Sequence": str(row.sequence - 1)}
    accepted(await connection.request(subjects.events(row.envelope.shard), row.data(), _PUBLISH_S, headers))
