"""The envelopes of EV as they are recorded in Postgres: made again from their rows, and mended there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import asyncpg
import msgspec

from bus.blobs import content_hash
from bus.store import COLUMNS, Rows, Store, stored_fact
from schemas import codec
from schemas.blobs import BlobReference
from schemas.envelope import FORMAT, Envelope, Fact

_PAGE = 500
"""Envelopes that are read at once."""


class Recorded(NamedTuple):
    """One envelope as its rows have it."""

    incarnation: int
    sequence: int
    hash: str
    """What its bytes hashed to when they were recorded."""
    envelope: Envelope
    blobs: tuple[str, ...] = ()
    """Hashes of the payloads that are in the object store."""
    raw: bytes | None = None
    """Its bytes, where the rows cannot give them back."""

    def data(self) -> bytes:
        """Make its bytes again."""
        return codec.encode(self.envelope) if self.raw is None else self.raw

    def whole(self) -> bool:
        """Whether the rows still are what was recorded."""
        return codec.digest(self.data()) == self.hash


async def recorded_envelopes(store: Store, after: int, until: int) -> AsyncIterator[Recorded]:
    """Yield the recorded envelopes of the sequences above `after`, up to and including `until`, in order.

    A new incarnation goes on where the log was restored to, so their order is that of the sequences.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    place = (0, 0)
    while True:
        commits = await store.rows(_COMMITS, *place, after, until, _PAGE)
        if not commits:
            return
        first, place = _place(commits[0]), _place(commits[-1])
        rows = await store.rows(_EVENTS, *first, *place)
        facts = {key: [_fact(row) for row in group] for key, group in groupby(rows, _place)}
        for commit in commits:
            yield _recorded(commit, facts.get(_place(commit), []))


async def recorded_payloads(store: Store, first: int, last: int) -> list[bytes]:
    """Return the payloads of these sequences that are in the object store too.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows("SELECT payload FROM event WHERE seq BETWEEN $1 AND $2 AND blob IS NOT NULL", first, last)
    return [row["payload"] for row in rows]


async def rewrite(store: Store, incarnation: int, sequence: int, tables: Mapping[str, Rows]) -> None:
    """Put these rows in place of what is recorded of one envelope, all or nothing.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    async with store.transaction() as connection:
        for table in ("event", "commit"):  # both names are ours
            await connection.execute(f"DELETE FROM {table} WHERE incarnation = $1 AND seq = $2", incarnation, sequence)
            await connection.copy_records_to_table(table, records=tables[table], columns=COLUMNS[table])
        # projections may have been made of what was there before, or without it: they are to be made again, and one
        # that is being made is not to be finished
        await connection.execute("UPDATE projection SET code = ''")
        await connection.execute(_BREAK_OFF)


def _place(row: asyncpg.Record) -> tuple[int, int]:
    return row["incarnation"], row["seq"]


def _recorded(commit: asyncpg.Record, facts: Sequence[Fact]) -> Recorded:
    envelope = Envelope(
        format=FORMAT,
        shard=commit["shard"],
        term=commit["term"],
        writer=commit["writer"],
        commit=commit["commit_id"],
        code=commit["code"],
        time=commit["time"],
        previous=commit["previous"],
        facts=tuple(facts),
    )
    blobs = tuple(codec.reference_of(fact.payload).hash for fact in facts if codec.is_reference(fact.payload))
    return Recorded(commit["incarnation"], commit["seq"], commit["hash"], envelope, blobs, commit["raw"])


def _fact(row: asyncpg.Record) -> Fact:
    return stored_fact(row, _payload(row["payload"], row["blob"]))


def _payload(data: bytes, blob: str | None) -> msgspec.Raw:
    """Give what the envelope held."""
    if blob is None:
        return msgspec.Raw(data)
    # of what is there now: a payload that was altered makes another envelope
    return codec.reference_payload(BlobReference(hash=content_hash(data), size=len(data)))


_BREAK_OFF = """
DELETE FROM cursor WHERE name LIKE 'projection.%' AND name NOT IN (
    SELECT 'projection.' || name || '.' || build FROM projection
)
"""

_COMMITS = """
SELECT incarnation, seq, shard, term, writer, commit_id, code, time, previous, hash, raw FROM commit
WHERE (incarnation, seq) > ($1, $2) AND seq > $3 AND seq <= $4 ORDER BY incarnation, seq LIMIT $5
"""

_EVENTS = """
SELECT incarnation, seq, tenant, thread, kind, entity, version, type, cause, payload, blob, traceparent, key_id
FROM event
WHERE (incarnation, seq) >= ($1, $2) AND (incarnation, seq) <= ($3, $4) ORDER BY incarnation, seq, idx
"""
