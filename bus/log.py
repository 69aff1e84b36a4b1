"""Reads a shard's log from JetStream and checks, as it reads, that nothing is missing or altered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from bus import subjects
from bus.batch import next_on_leader, on_leader, read_batch, read_surely
from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import LogDamaged
from bus.feed import Item
from bus.streams import EV
from schemas import codec
from schemas.envelope import GENESIS, Envelope


class Stored(NamedTuple):
    """One envelope as the log holds it."""

    sequence: int
    envelope: Envelope
    hash: str
    """Digest of its bytes: what the shard's next envelope names as `previous`."""


class Position(NamedTuple):
    """Where a shard's log ends for whoever has read it."""

    sequence: int
    hash: str
    term: int


START = Position(0, GENESIS, 0)


async def last_commit(connection: Connection, shard: int) -> Stored | None:
    """Read the shard's newest envelope from the stream's leader; None when it has none."""
    item = await on_leader(connection, EV, {"last_by_subj": subjects.events(shard)})
    if item is None:
        return None
    return Stored(item.sequence, codec.decode_envelope(item.data), codec.digest(item.data))


async def read_shard(connection: Connection, shard: int, after: Position, until: int) -> AsyncIterator[Stored]:
    """Yield the shard's envelopes after `after`, up to and including sequence `until`, with their payloads whole.

    Raises:
        LogDamaged: an envelope does not name the hash of the one before it, or `until` is never reached.
        TimeoutError: the server stopped answering.
    """
    position, blobs = after, Blobs(connection)
    while position.sequence < until:
        batch = await read_surely(connection, EV, subjects.events(shard), position.sequence + 1)
        if not batch:
            raise LogDamaged(EV, position.sequence, f"shard {shard} ends before sequence {until}")
        for item in batch:
            envelope = codec.decode_envelope(item.data)
            if envelope.previous != position.hash:
                raise LogDamaged(
                    EV, item.sequence, f"shard {shard}: previous is {envelope.previous}, not {position.hash}"
                )
            position = Position(item.sequence, codec.digest(item.data), envelope.term)
            yield Stored(item.sequence, await opened(connection, await blobs.whole(envelope)), position.hash)
            if item.sequence >= until:
                return


async def opened(connection: Connection, envelope: Envelope) -> Envelope:
    """Open an envelope's sealed payloads, where there are keys for that.

    Raises:
        Unavailable: the keys cannot be read.
    """
    return envelope if connection.keys is None else await connection.keys.open_envelope(envelope)


async def read_stream(connection: Connection, first: int, until: int) -> AsyncIterator[Item]:
    """Yield what stream EV holds of the sequences `first` to `until`, unchecked: what is missing is passed over.

    Raises:
        TimeoutError: the server stopped answering.
        Unavailable: it is not there.
    """
    expected = first
    while expected <= until:
        batch = await read_batch(connection, EV, subjects.EVENTS, expected)
        if not batch or batch[0].sequence > expected:
            there = await next_on_leader(connection, EV, subjects.EVENTS, expected)
            if there is None:
                return
            if not batch or there.sequence < batch[0].sequence:
                batch = [there]
            expected = batch[0].sequence
        for item in batch:
            if item.sequence > until:
                return
            if item.sequence != expected:
                break
            yield item
            expected += 1
