"""What the recorder writes: stream messages made into rows, and the checks on the way. No I/O."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from bus.blobs import Blobs
from bus.errors import LogDamaged
from bus.feed import Item
from bus.store import COLUMNS, Batch, Cursor
from schemas import codec
from schemas.envelope import GENESIS, Envelope
from schemas.errors import BadShape
from schemas.live import Shed, Traced
from schemas.steps import Served, Stalled, StepPlan, StepResult, ToldMore, WorkerBegan

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

_HELD_BYTES = 64 << 20
_MARK = b"blob.reference"
_REFERRED = re.compile(rb'\{"type":"blob\.reference","hash":"[0-9a-f]{64}","size":(\d+)\}')

_PAYLOAD = COLUMNS["event"].index("payload")
assert COLUMNS["event"][_PAYLOAD + 1 :] == ("blob",)


class EventRows:
    """Rows of stream EV. A gap, or an envelope that does not continue its shard's chain, is damage."""

    missing = 0
    """Always: what is missing is damage."""

    def __init__(self, stream: str, heads: dict[int, tuple[int, str]]) -> None:
        self._stream = stream
        self._heads = heads

    def batch(self, cursor: Cursor, items: Iterable[Item]) -> Batch:
        """Return what follows `cursor`; nothing is kept until `keep`.

        Raises:
            LogDamaged: a message is missing, altered or not an envelope.
            UnknownFormat: newer code wrote it.
        """
        commits: list[Row] = []
        events: list[Row] = []
        heads: dict[int, tuple[int, str]] = {}
        expected = cursor.sequence + 1
        digest = cursor.hash
        for item in items:
            if item.sequence != expected:
                raise LogDamaged(self._stream, expected, f"messages {expected} to {item.sequence - 1} are missing")
            expected += 1
            envelope = self._envelope(item)
            digest = codec.digest(item.data)
            _, previous = heads.get(envelope.shard) or self._heads.get(envelope.shard, (0, GENESIS))
            if envelope.previous != previous:
                raise LogDamaged(
                    self._stream,
                    item.sequence,
                    f"shard {envelope.shard}: previous is {envelope.previous!r}, not {previous!r}",
                )
            heads[envelope.shard] = (item.sequence, digest)
            commits.append(_commit_row(cursor.incarnation, item.sequence, envelope, digest))
            _add_event_rows(events, cursor.incarnation, item.sequence, envelope)
            if rb"\u0000" in item.data:
                commits[-1] = (*commits[-1][:-1], item.data)
                _without_nul(commits, -1)
                for index in range(len(events) - len(envelope.facts), len(events)):
                    _without_nul(events, index)
        after = cursor._replace(sequence=expected - 1, hash=digest)
        return Batch(after, {"commit": commits, "event": events}, heads)

    def keep(self, batch: Batch) -> None:
        """The batch is in Postgres: go on from its heads."""
        self._heads.update(batch.heads)

    def _envelope(self, item: Item) -> Envelope:
        try:
            envelope = codec.decode_envelope(item.data)
        except BadShape as error:
            raise LogDamaged(self._stream, item.sequence, str(error)) from error
        if item.subject != f"ev.{envelope.shard}":
            raise LogDamaged(self._stream, item.sequence, f"shard {envelope.shard} on subject {item.subject!r}")
        return envelope


def parts(items: list[Item]) -> Iterator[list[Item]]:
    """Cut a batch so that the large payloads of each part fit the memory."""
    start = held = 0
    for at, item in enumerate(items):
        size = sum(int(found) for found in _REFERRED.findall(item.data)) if _MARK in item.data else 0
        if held and held + size > _HELD_BYTES:
            yield items[start:at]
            start, held = at, 0
        held += size
    yield items[start:]


async def with_blobs(batch: Batch, blobs: Blobs) -> Batch:
    """Put the payloads back in the place of their references, and the references' hashes beside them.

    Raises:
        LogDamaged: one is missing or altered.
    """
    rows = list(batch.tables.get("event", ()))
    found = [at for at, row in enumerate(rows) if codec.is_reference(row[_PAYLOAD])]
    if not found:
        return batch
    for at in found:
        reference = codec.reference_of(rows[at][_PAYLOAD])
        rows[at] = (*rows[at][:_PAYLOAD], await blobs.get(reference), reference.hash)
    return batch._replace(tables={**batch.tables, "event": rows})


class TraceRows:
    """Rows of stream TRACE. A gap is written down and passed over; what cannot be decoded is kept as it is.

    A stream that is offered more than it can take drops messages before they have a sequence: that shows in the
    numbers of the step plans, which have no gaps where they are made.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._plans: dict[str, tuple[str, int]] = {}
        """The epoch and number of each engine's last plan, by subject."""
        self._holes: list[tuple[str, str, int, int]] = []
        self.missing = 0
        """How many plans never came, since this process began."""

    def batch(self, cursor: Cursor, items: Iterable[Item]) -> Batch:
        """Return what follows `cursor`."""
        records: list[Row] = []
        gaps: list[Row] = []
        ranges: dict[tuple[str, str, str], tuple[int, int, int]] = {}
        self._holes = []
        expected = cursor.sequence + 1
        data = b""
        for item in items:
            if item.sequence != expected:
                gaps.append((self._stream, cursor.incarnation, expected, item.sequence - 1))
            expected = item.sequence + 1
            data = item.data
            parts = item.subject.split(".")
            tenant = parts[1] if parts[0] == "trace" else ""
            producer, n = _origin(parts, item, ranges)
            if parts[-1] == "plan" and n is not None:
                self._follow(item.subject, producer, n)
            records.append((cursor.incarnation, item.sequence, tenant, item.subject, producer, n, item.time, data))
        digest = codec.digest(data) if records else cursor.hash
        steps = [(request, engine, epoch, *bounds) for (request, engine, epoch), bounds in ranges.items()]
        after = cursor._replace(sequence=expected - 1, hash=digest)
        return Batch(after, {"record": records, "step_request": steps, "gap": gaps}, {})

    def keep(self, batch: Batch) -> None:
        """The batch is in Postgres: say what its plans' numbers leave out."""
        for subject, epoch, first, last in self._holes:
            self.missing += last - first + 1
            log.warning("%s: plans %s to %s of %s are missing", subject, first, last, epoch)

    def _follow(self, subject: str, epoch: str, n: int) -> None:
        before, last = self._plans.get(subject, ("", n))
        if before == epoch and n > last + 1:
            self._holes.append((subject, epoch, last + 1, n - 1))
        self._plans[subject] = (epoch, n)


_TOLD = {"result": StepResult, "told": ToldMore, "stall": Stalled, "worker": WorkerBegan, "served": Served}
"""What schedulers and workers say beside plans, by the end of the subject."""


def _origin(
    parts: list[str], item: Item, ranges: dict[tuple[str, str, str], tuple[int, int, int]]
) -> tuple[str, int | None]:
    """Return a trace message's (producer, n), and note which requests a plan serves, and when."""
    data = item.data
    try:
        if parts[0] == "trace":
            frame: Traced = codec.decode(data, Traced)
            if isinstance(frame, Shed):
                return _text(frame.producer), frame.first
            return _text(frame.effect), frame.offset
        shape = _TOLD.get(parts[-1])
        if shape is not None:
            return _teller(codec.decode(data, shape))
        plan: StepPlan = codec.decode(data, StepPlan)
    except BadShape:
        return "", None
    epoch = _text(plan.epoch)
    for part in plan.slices:
        key = (_text(part.request), parts[1], epoch)
        first, *_ = ranges.get(key, (plan.n,))
        ranges[key] = (first, plan.n, item.time)
    return epoch, plan.n


def _teller(told: StepResult | ToldMore | Stalled | WorkerBegan | Served) -> tuple[str, int]:
    """Return what it is found by: the (scheduler, step), but the worker, or the request that is over."""
    match told:
        case WorkerBegan(worker=worker):
            return _text(worker), 0
        case Served(request=request, n=n):
            return _text(request), n
        case _:
            return _text(told.epoch), told.n


def _commit_row(incarnation: int, sequence: int, envelope: Envelope, digest: str) -> Row:
    return (
        incarnation,
        sequence,
        envelope.shard,
        envelope.term,
        envelope.writer,
        envelope.commit,
        envelope.code,
        envelope.time,
        envelope.previous,
        digest,
        None,
    )


def _add_event_rows(rows: list[Row], incarnation: int, sequence: int, envelope: Envelope) -> None:
    time = envelope.time
    for index, fact in enumerate(envelope.facts):
        rows.append(
            (
                incarnation,
                sequence,
                index,
                fact.tenant,
                fact.thread,
                fact.kind,
                fact.entity,
                fact.version,
                fact.type,
                fact.cause,
                time,
                fact.traceparent,
                fact.key,
                bytes(fact.payload),
                None,
            )
        )


def _without_nul(rows: list[Row], index: int) -> None:
    """Postgres text cannot hold NUL, which only a client's free text could have brought."""
    rows[index] = tuple(_text(value) if isinstance(value, str) else value for value in rows[index])


def _text(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
