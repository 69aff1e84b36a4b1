"""Reads the whole log, in JetStream and in Postgres beside one another, and says where either is damaged.

JetStream may lose messages without a word: one flipped bit takes a message, or the rest of its block. Every sequence
must therefore be there, hold what was recorded of it, and continue its shard's chain of hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from bus import subjects
from bus.batch import on_leader
from bus.blobs import Blobs
from bus.connection import Connection
from bus.errors import Refused
from bus.feed import Item
from bus.log import read_stream
from bus.record import Recorded, recorded_envelopes
from bus.store import Cursor, Store
from bus.streams import EV, NOT_FOUND
from schemas import codec
from schemas.envelope import GENESIS, Envelope
from schemas.errors import BadShape, UnknownFormat

Told = Callable[[int, int], None]
"""Hears how far it is: sequences done, and how many there are."""

LOST = "missing, and not recorded"
"""The problem of a sequence that neither copy has."""
_TELL_EACH = 1000


Where = Literal["log", "record", "blob"]


class Bounds(NamedTuple):
    """What stream EV says that it holds."""

    first: int
    """One above the last, where it holds nothing."""
    last: int
    messages: int

    @property
    def holes(self) -> int:
        """How many sequences between the first and the last are not there."""
        return self.last - self.first + 1 - self.messages


class Damage(NamedTuple):
    """What is wrong with a range of sequences."""

    where: Where
    """JetStream's copy, Postgres's, or the object store with the large payloads of JetStream's."""
    first: int
    last: int
    problem: str


@dataclass(slots=True)
class Inspection:
    """What was found."""

    bounds: Bounds
    cursor: Cursor
    envelopes: int = 0
    """Read from JetStream."""
    facts: int = 0
    begins: int = 1
    """The first sequence that JetStream should have: what is before it was trimmed."""
    recorded: int = 0
    """Envelopes read from Postgres."""
    damages: list[Damage] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages

    @property
    def log_damages(self) -> list[Damage]:
        """What is wrong with JetStream's copy."""
        return [damage for damage in self.damages if damage.where == "log"]

    @property
    def record_damages(self) -> list[Damage]:
        """What is wrong with Postgres's copy."""
        return [damage for damage in self.damages if damage.where == "record"]

    @property
    def blob_damages(self) -> list[Damage]:
        """What is wrong with large payloads."""
        return [damage for damage in self.damages if damage.where == "blob"]

    def note(self, where: Where, sequence: int, problem: str) -> None:
        """Add a damaged sequence, in order; neighbours with the same problem are one damage."""
        for index in range(len(self.damages) - 1, -1, -1):
            before = self.damages[index]
            if before.where == where:
                if before.last == sequence - 1 and before.problem == problem:
                    self.damages[index] = before._replace(last=sequence)
                    return
                break
        self.damages.append(Damage(where, sequence, sequence, problem))

    def trimmed(self, until: int) -> None:
        """Hear that the log was trimmed meanwhile: what it does not have up to there is none of its damages."""
        self.begins = until + 1
        self.damages = [
            damage._replace(first=max(damage.first, self.begins)) if damage.where == "log" else damage
            for damage in self.damages
            if damage.where != "log" or damage.last >= self.begins
        ]


async def bounds_of(connection: Connection) -> Bounds:
    """Ask what EV holds: nothing, where the stream is gone.

    Raises:
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    try:
        state = (await connection.api(f"STREAM.INFO.{EV}"))["state"]
    except Refused as refusal:
        if refusal.code != NOT_FOUND:
            raise
        return Bounds(1, 0, 0)
    last, messages = int(state["last_seq"]), int(state["messages"])
    return Bounds(int(state["first_seq"]) if messages else last + 1, last, messages)


async def trimmed_to(store: Store) -> int:
    """Say up to which sequence JetStream's copy of the log was trimmed; 0 if it never was.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    rows = await store.rows("SELECT seq FROM trim WHERE stream = $1", EV)
    return int(rows[0]["seq"]) if rows else 0


async def suspicion(connection: Connection, store: Store) -> str:
    """Say what looks damaged without reading the log: empty if nothing does.

    A server that lost messages at its start tells by its counts; one that lost the log's end, by the record.

    Raises:
        Unavailable: NATS or Postgres cannot be reached.
        TimeoutError: NATS does not answer.
    """
    cursor = await store.cursor(EV)
    bounds = await bounds_of(connection)
    lost = max(0, bounds.first - 1 - await trimmed_to(store))
    if bounds.holes + lost:
        return f"{bounds.holes + lost} of its {bounds.last} envelopes are missing"
    if cursor is None or cursor.sequence == 0:
        return ""
    if bounds.last < cursor.sequence:
        return f"it ends at {bounds.last}, and is recorded up to {cursor.sequence}"
    item = await on_leader(connection, EV, {"seq": cursor.sequence})
    if item is None or codec.digest(item.data) != cursor.hash:
        return f"it holds another envelope at {cursor.sequence} than was recorded"
    return ""


async def inspect(connection: Connection, store: Store, told: Told = lambda _done, _all: None) -> Inspection:
    """Compare every envelope; what is appended meanwhile is left out.

    Raises:
        Unavailable: NATS or Postgres cannot be reached.
        TimeoutError: NATS stopped answering.
        UnknownFormat: newer code wrote the log.
    """
    cursor = await store.cursor(EV) or Cursor(EV, 1, 0, "")
    bounds = await bounds_of(connection)
    found = Inspection(bounds, cursor)
    until = max(bounds.last, cursor.sequence)
    walk, blobs = _Walk(found), Blobs(connection)
    trimmed = await trimmed_to(store)
    found.begins = min(bounds.first, trimmed + 1)
    items = read_stream(connection, found.begins, bounds.last)
    rows = recorded_envelopes(store, 0, until)
    item, row = await anext(items, None), await anext(rows, None)
    for expected in range(1, until + 1):
        mine = item if item is not None and item.sequence == expected else None
        theirs = row if row is not None and row.sequence == expected else None
        if mine is not None and theirs is None and await _refers_to_nothing(blobs, mine):
            found.note("log", expected, "a payload of it is missing, and was not recorded")
        else:
            walk.step(expected, mine, theirs)
        if theirs is not None and theirs.blobs and theirs.whole() and await lost_payload(blobs, theirs.envelope):
            found.note("blob", expected, "a payload is missing")
        if mine is not None:
            item = await anext(items, None)
        if theirs is not None:
            row = await anext(rows, None)
        if expected % _TELL_EACH == 0:
            told(expected, until)
    if (since := await trimmed_to(store)) > trimmed:
        found.trimmed(since)
    told(until, until)
    return found


class _Walk:
    """Judges one sequence after the other. No I/O."""

    def __init__(self, found: Inspection) -> None:
        self._found = found
        self._heads: dict[int, str] = {}

    def step(self, sequence: int, item: Item | None, row: Recorded | None) -> None:
        """Judge what JetStream and Postgres have at a sequence."""
        if sequence < self._found.begins:
            self._trimmed(sequence, row)
        elif row is not None:
            self._recorded(sequence, item, row)
        elif item is not None:
            self._unrecorded(sequence, item)
        else:
            self._found.note("log", sequence, LOST)

    def _trimmed(self, sequence: int, row: Recorded | None) -> None:
        if row is None:
            self._found.note("record", sequence, "missing, and trimmed from the log")
        else:
            self._sound(sequence, row)
            self._heads[row.envelope.shard] = row.hash

    def _sound(self, sequence: int, row: Recorded) -> bool:
        """Judge what Postgres has."""
        found, shard = self._found, row.envelope.shard
        found.recorded += 1
        sound = row.whole()
        if not sound:
            found.note("record", sequence, "not what was recorded")
        elif row.envelope.previous != self._head(shard):
            found.note("record", sequence, f"does not continue shard {shard}")
        return sound

    def _recorded(self, sequence: int, item: Item | None, row: Recorded) -> None:
        found, shard = self._found, row.envelope.shard
        sound = self._sound(sequence, row)
        # where only the recorded hash is wrong, both copies hold the same bytes
        told = row.hash if sound or item is None or item.data != row.data() else codec.digest(item.data)
        if item is None:
            found.note("log", sequence, "missing" if sound else "missing, and the record is damaged")
        elif codec.digest(item.data) == told:
            found.envelopes += 1
            found.facts += len(row.envelope.facts)
        else:
            found.note("log", sequence, "another envelope than was recorded")
        self._heads[shard] = told

    def _unrecorded(self, sequence: int, item: Item) -> None:
        found, envelope = self._found, envelope_of(item)
        if envelope is None:
            found.note("log", sequence, "not an envelope")
        elif envelope.previous != self._head(envelope.shard):
            found.note("log", sequence, f"does not continue shard {envelope.shard}")
        else:
            found.envelopes += 1
            found.facts += len(envelope.facts)
            if sequence <= found.cursor.sequence:
                found.note("record", sequence, "missing")
            self._heads[envelope.shard] = codec.digest(item.data)

    def _head(self, shard: int) -> str:
        return self._heads.get(shard, GENESIS)


async def lost_payload(blobs: Blobs, envelope: Envelope) -> bool:
    """Say whether a large payload of an envelope is not in the object store, or not whole."""
    for fact in envelope.facts:
        if codec.is_reference(fact.payload) and not await blobs.sound(codec.reference_of(fact.payload)):
            return True
    return False


async def _refers_to_nothing(blobs: Blobs, item: Item) -> bool:
    envelope = envelope_of(item)
    return envelope is not None and await lost_payload(blobs, envelope)


def envelope_of(item: Item) -> Envelope | None:
    """Decode a message of EV; None if it is no envelope of its subject's shard.

    Raises:
        UnknownFormat: newer code wrote it.
    """
    try:
        envelope = codec.decode_envelope(item.data)
    except UnknownFormat:
        raise
    except BadShape:
        return None
    return envelope if item.subject == subjects.events(envelope.shard) else None
