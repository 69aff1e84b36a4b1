"""Fenced, group-committed, hash-chained appends to a shard: where correctness lives.

A synced server pays one fsync per message, whatever the concurrency, so the group commit is ours: while one
envelope is in flight everything else queues, and the next envelope carries it all. Safety comes from the expected
sequence: an owner knows its shard's last sequence only from its own takeover and its own acknowledged appends, so
whoever has been overtaken cannot write. After a lost acknowledgement a retry of the same bytes is answered in two
ways: a single server checks the sequence first and says "wrong last sequence", a replicated one checks the message
id first and says "duplicate". Both mean success if the last envelope of the shard is ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bus import subjects
from bus.blobs import Blobs, is_large
from bus.connection import Connection
from bus.errors import BusError, Fenced, LogDamaged, OutcomeUnknown, Refused, Unavailable
from bus.log import START, Position, Stored, last_commit
from bus.streams import EV
from schemas import codec
from schemas.context import Clock, Ids
from schemas.envelope import FORMAT, Envelope, Fact
from schemas.runs import OwnershipTaken

log = logging.getLogger(__name__)

WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
MAX_FACTS = 512
MAX_BYTES = 256 * 1024
_ATTEMPT_S = 1.0
_RETRY_S = 0.05
_BEHIND_S = 2.0
"""How long a refusal is not believed that the log contradicts: a leader of a cluster may have to catch up."""


class Place(NamedTuple):
    """Where a group of facts begins in the log."""

    sequence: int
    first: int
    """Index of the group's first fact in its envelope."""
    time: int
    """The envelope's, microseconds since the Unix epoch."""


class Writer(msgspec.Struct, frozen=True):
    """Who signs the envelopes."""

    process: str
    """The `producer_run`: changes with every start of the process."""
    code: str
    """Version of the deciding code."""


class _Waiting(NamedTuple):
    facts: Sequence[Fact]
    size: int
    done: asyncio.Future[Place]


class ShardWriter:
    """The one owner's pen for `ev.<shard>`. Made by `take`; useless once fenced."""

    def __init__(
        self, connection: Connection, shard: int, writer: Writer, clock: Clock, ids: Ids, position: Position
    ) -> None:
        self._connection = connection
        self._shard = shard
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._position = position
        self._blobs = Blobs(connection)
        self._queue: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self._failed: Exception | None = None
        self.deadline_s = 10.0
        """How long an append may take before its outcome is called unknown, seconds."""
        self.on_commit: Callable[[int, Envelope], Awaitable[None]] | None = None
        """Called after each acknowledged envelope with its sequence, before its waiters go on."""
        self.before: Stored | None = None
        """The envelope before the marker by which the shard was taken, of which perhaps nobody was told."""

    @classmethod
    async def take(
        cls,
        connection: Connection,
        shard: int,
        writer: Writer,
        clock: Clock,
        ids: Ids,
        owner: str,
        known: Position = START,
    ) -> ShardWriter:
        """Become the shard's owner: append a marker that fences every older owner for good.

        The caller folds the log up to `position.sequence` before it appends anything.

        Args:
            connection: to NATS.
            shard: which one.
            writer: who signs.
            clock: the time of envelopes.
            ids: the commits' ids.
            owner: the slot that takes it.
            known: where the shard is known to have got: what was told to others must not be built over.

        Raises:
            LogDamaged: the shard ends before `known`, or holds another envelope there.
            Fenced: another process took the shard at the same moment.
            OutcomeUnknown: no acknowledgement in time.
        """
        last = await last_commit(connection, shard)
        position = START if last is None else Position(last.sequence, last.hash, last.envelope.term)
        if position.sequence < known.sequence:
            raise LogDamaged(EV, position.sequence, f"shard {shard} ends there, and was at {known.sequence} before")
        if position.sequence == known.sequence and position.hash != known.hash:
            raise LogDamaged(EV, position.sequence, f"shard {shard} holds another envelope there than before")
        pen = cls(connection, shard, writer, clock, ids, position._replace(term=position.term + 1))
        pen.before = last
        marker = OwnershipTaken(owner=owner, process=writer.process)
        await pen.append(
            [
                Fact(
                    tenant="",
                    thread="",
                    kind="shard",
                    entity=str(shard),
                    version=pen._position.term,
                    type=codec.tag(marker),
                    cause="",
                    payload=codec.payload(marker),
                )
            ]
        )
        return pen

    @property
    def position(self) -> Position:
        """The last envelope that was acknowledged and told of: its sequence and hash, and this owner's term."""
        return self._position

    @property
    def waiting(self) -> int:
        """How many appends wait for the one under way."""
        return len(self._queue)

    @property
    def is_writing(self) -> bool:
        """Whether more can be appended; if not, its owner may not have folded all that was."""
        return self._failed is None

    def give_up(self) -> None:
        """Take no more appends: the owner no longer knows what is written. Those under way go on."""
        self._failed = self._failed or OutcomeUnknown(self._shard, "under way")

    async def append(self, facts: Sequence[Fact]) -> Place:
        """Commit `facts` together and in order.

        Raises:
            Fenced: somebody else owns the shard; nothing of this was written.
            OutcomeUnknown: an acknowledgement was lost, and the deadline passed or another owner came meanwhile;
                only a new takeover tells.
            Unavailable: the keys that seal them cannot be had; nothing of this was written.
            Refused: JetStream said no, for good (full, too large, not permitted); nothing of this was written.
        """
        if self._failed is not None:
            raise self._failed
        assert facts, "an append of nothing has no place"
        await self._have_keys(facts)
        if self._failed is not None:
            raise self._failed
        size = sum(len(bytes(fact.payload)) + len(fact.cause) + 200 for fact in facts)
        waiting = _Waiting(facts, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name=f"commit-{self._shard}")
        return await waiting.done

    async def _flush(self) -> None:
        """Send what has queued until nothing has."""
        while self._queue:
            group = self._next_group()
            try:
                await self._commit(group)
            except Refused as refusal:
                _tell(group, refusal)
            except Exception as error:
                # fenced, uncertain or broken: this pen never writes again, which is no fault of those who wait
                failed = error
                if not isinstance(error, BusError | TimeoutError):
                    log.exception("shard %s: this pen is broken", self._shard)
                    failed = OutcomeUnknown(self._shard, "under way")
                self._failed = failed
                _tell([*group, *self._queue], failed)
                self._queue = []
        self._flushing = None

    def _next_group(self) -> list[_Waiting]:
        facts = size = count = 0
        for waiting in self._queue:
            facts += len(waiting.facts)
            size += waiting.size
            if count and (facts > MAX_FACTS or size > MAX_BYTES):
                break
            count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        envelope = Envelope(
            format=FORMAT,
            shard=self._shard,
            term=self._position.term,
            writer=self._writer.process,
            commit=self._ids.new("c"),
            code=self._writer.code,
            time=self._clock.now(),
            previous=self._position.hash,
            facts=tuple(fact for waiting in group for fact in waiting.facts),
        )
        stored = envelope
        if (keys := self._connection.keys) is not None:
            # who is told live hears it plain: that is kept nowhere
            stored = replace(stored, facts=tuple(map(keys.sealed, stored.facts)))
        if any(is_large(fact) for fact in stored.facts):
            stored = replace(stored, facts=await self._slim(stored.facts))
        data = codec.encode(stored)
        sequence = await self._send(envelope.commit, data)
        await self._announce(sequence, envelope)
        # not before those who wait are about to hear of it: an owner takes all up to here for folded
        self._position = Position(sequence, codec.digest(data), self._position.term)
        index = 0
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_result(Place(sequence, index, envelope.time))
            index += len(waiting.facts)

    async def _have_keys(self, facts: Sequence[Fact]) -> None:
        """Have at hand what seals facts, which is so already but for threads that nobody was asked of for long."""
        wanted, keys = {fact.key for fact in facts if fact.key is not None}, self._connection.keys
        if keys is None or not wanted:
            return
        deadline = time.monotonic() + self.deadline_s
        while True:
            try:
                return await keys.load(wanted)
            except (TimeoutError, Unavailable) as error:
                if time.monotonic() >= deadline:
                    raise Unavailable(f"keys cannot be read: {error}") from error
                log.warning("shard %s: keys cannot be read yet: %s", self._shard, error)
                await asyncio.sleep(_RETRY_S)

    async def _slim(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """Put large payloads away, again and again while the store is away."""
        deadline = time.monotonic() + self.deadline_s
        while True:
            try:
                return await self._blobs.slim(facts, self._ids)
            except (TimeoutError, Unavailable) as error:
                if time.monotonic() >= deadline:
                    raise
                log.warning("shard %s: a large payload cannot be put away yet: %s", self._shard, error)
                await asyncio.sleep(_RETRY_S)

    async def _announce(self, sequence: int, envelope: Envelope) -> None:
        if self.on_commit is None:
            return
        try:
            await self.on_commit(sequence, envelope)
        except Exception as error:  # noqa: BLE001  what is committed stays so, whether or not its hearers could be told
            log.warning("shard %s: telling of commit %s: %s", self._shard, envelope.commit, error)

    async def _send(self, commit: str, data: bytes) -> int:
        """Publish until answered, with the same bytes; return the sequence."""
        headers = {
            "Nats-Msg-Id": commit,
            "Nats-Expected-Last-Subject-Sequence": str(self._position.sequence),
        }
        began = time.monotonic()
        deadline = began + self.deadline_s
        lost = False
        while True:
            try:
                reply = await self._connection.request(subjects.events(self._shard), data, _ATTEMPT_S, headers)
                answer = msgspec.json.decode(reply.data)
                problem = answer.get("error")
                if problem is None:
                    return int(answer["seq"])
                refused = Refused(int(problem.get("err_code", 0)), str(problem.get("description")))
                last = await self._last_if_asked(refused, lost)
            except (TimeoutError, Unavailable) as error:
                lost = True
                if time.monotonic() >= deadline:
                    raise OutcomeUnknown(self._shard, commit) from error
                log.warning("shard %s: no acknowledgement of %s yet: %s", self._shard, commit, error)
                await asyncio.sleep(_RETRY_S)
                continue
            if last is not None and last.envelope.commit == commit:
                return last.sequence
            if lost:
                raise OutcomeUnknown(self._shard, commit)
            if refused.code not in WRONG_LAST_SEQUENCE:
                raise refused
            if self._is_past(last) or time.monotonic() >= min(began + _BEHIND_S, deadline):
                raise Fenced(self._shard, self._position.sequence)
            log.warning("shard %s: %s, though nobody wrote after us: again", self._shard, refused.description)
            await asyncio.sleep(_RETRY_S)

    def _is_past(self, last: Stored | None) -> bool:
        """Say whether somebody has written after us; if not, a new leader does not know yet all that we wrote."""
        return last is not None and last.sequence > self._position.sequence

    async def _last_if_asked(self, refused: Refused, lost: bool) -> Stored | None:
        """Read the shard's last envelope when a refusal may mean that an earlier attempt was stored.

        Raises:
            TimeoutError: it cannot be read.
            Unavailable: it cannot be read.
        """
        if refused.code not in WRONG_LAST_SEQUENCE and not lost:
            return None
        try:
            return await last_commit(self._connection, self._shard)
        except Refused as error:
            raise Unavailable(f"the end of shard {self._shard} cannot be read: {error}") from error


def _tell(group: Sequence[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)
