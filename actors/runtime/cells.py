"""The threads of one shard in memory: folded from the log when the shard is taken or a command needs one, and let go.

Taking a shard costs what happened since its last checkpoint, not its age: only the threads of the log's tail, and those
in which something was under way, are folded. The others stay in Postgres until somebody speaks in them. Memory holds
the latest used, and whatever is not recorded yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from actors.errors import NotNow
from actors.runtime.frozen import frozen, hidden, revealed, sealer, thawed
from actors.runtime.known import Known
from actors.runtime.machine import Emitted, Machine
from actors.runtime.reducer import reducers_of
from bus.connection import Connection
from bus.errors import LogDamaged, Unavailable
from bus.inspection import bounds_of
from bus.keyring import KeyDestroyed, Keyring
from bus.log import START, Position, last_commit, read_shard
from bus.snapshots import Checkpoint, Fold, History, Snapshot, ThreadKey, check_version
from bus.store import StoredEvent
from bus.streams import EV
from schemas import codec
from schemas.envelope import Fact
from schemas.errors import BadShape
from schemas.faults import fault

log = logging.getLogger(__name__)

FAMILY = {
    "thread": "agent",
    "run": "agent",
    "generation": "generation",
    "key": "key",
    "schedule": "schedule",
    "batch": "batch",
    "push": "push",
}
"""Entity kind to the kind of the commands that lead to it: one machine each."""
KINDS = {family: tuple(kind for kind in FAMILY if FAMILY[kind] == family) for family in set(FAMILY.values())}
ROOM = 1000
"""Idle threads that a shard keeps in memory."""
SNAPSHOT_EACH = 100
"""Events of a thread after which its state is worth a snapshot."""
_KEY_GONE = frozenset({"schedule.erased", "push.forgotten"})
"""A thread is over when its key is destroyed; a schedule may be added again, and who subscribes late is refused."""
_AT_ONCE = 200
"""Threads that are read in one query, and snapshots that are written with one checkpoint."""


class Record(Protocol):
    """The second copy of the log, as an owner uses it."""

    async def head(self, shard: int) -> Position:
        """Say where a shard has got by the record; `START` where that cannot be had."""

    async def checkpoint(self, shard: int) -> Checkpoint | None:
        """Return the shard's checkpoint; None where there is none, or it cannot be had."""

    async def histories(
        self, keys: Sequence[ThreadKey], folds: Mapping[str, Fold], until: int | None
    ) -> dict[ThreadKey, History]:
        """Read threads; as `bus.snapshots.histories`."""

    def facts(self, shard: int, until: int) -> AsyncIterator[tuple[Position, list[StoredEvent]]]:
        """Read a shard's beginning; as `bus.snapshots.recorded_facts`."""

    async def keep(self, shard: int, checkpoint: Checkpoint, snapshots: Sequence[Snapshot]) -> None:
        """Write a checkpoint and snapshots; as `bus.snapshots.keep`."""


@dataclass(slots=True)
class Cell:
    """One thread in memory."""

    key: ThreadKey
    state: Any
    loaded: bool
    """Whether `state` is the thread's; else it is still to be read."""
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sequence: int = 0
    """Of its last envelope."""
    fresh: int = 0
    """Events that are in no snapshot."""
    users: int = 0
    put_off: bool = False
    """Whether it could not be read when it was to be: who waits for it as well comes after whoever tried."""
    seal: str | None = None
    """What its payloads are sealed with; None where they are not."""
    stopped: str | None = None
    """Why this code cannot go on with the thread. The log has all of it: mended code takes it up again."""

    @property
    def family(self) -> str:
        """Which machine folds it."""
        return self.key.family

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.key.tenant

    @property
    def thread(self) -> str:
        """Its id."""
        return self.key.thread

    def sealed_with(self, key: str, keys: Keyring | None) -> None:
        """Note which key seals it, here and where its pieces of text are sealed; a schedule has none of those."""
        self.seal = key
        if keys is not None and self.family != "schedule":
            keys.use(self.tenant, self.thread, key)

    def noted(self, fact: Fact) -> None:
        """Note the version of a fact that is in the log; what follows an erasure has another key."""
        self.versions[fact.kind, fact.entity] = fact.version
        if fact.type in _KEY_GONE:
            self.seal = None

    def stop(self, place: str, reason: str, told: str = "") -> None:
        """Go no further with the thread until the shard is taken again.

        Args:
            place: where in it.
            reason: why, for who asks for the thread.
            told: why, for the log of this process, which may hold nothing of what was said; as the reason unless given.
        """
        log.error("thread %r of %r stopped: %s: %s", self.thread, self.tenant, place, told or reason)
        self.stopped = f"{place}: {reason}"


class Cells:
    """The threads of one shard that are in memory, by their keys; the latest used come last."""

    def __init__(
        self,
        machines: Mapping[str, Machine[Any]],
        record: Record,
        shard: int,
        room: int = ROOM,
        keys: Keyring | None = None,
    ) -> None:
        self._keys = keys
        self._machines = machines
        self._record = record
        self._shard = shard
        self._room = room
        self._folds: Mapping[str, Fold] = {}
        self._cells: dict[ThreadKey, Cell] = {}
        self._known = Known()
        self.kept = 0
        """Sequence of the last checkpoint."""

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return (cell for cell in list(self._cells.values()) if cell.loaded)

    async def take(self, connection: Connection, until: int) -> None:
        """Fold what an owner must know: from the shard's checkpoint on where there is one, else all of it.

        Args:
            connection: to NATS.
            until: the sequence of the owner's marker.

        Raises:
            LogDamaged: something is missing, in either copy.
            NotNow: Postgres went away meanwhile, or another owner took the shard, or the log was trimmed.
            TimeoutError: NATS stopped answering.
        """
        reducers = await asyncio.to_thread(reducers_of, self._machines)
        self._folds = {family: Fold(KINDS[family], reducer) for family, reducer in reducers.items()}
        first = (await bounds_of(connection)).first
        checkpoint = await self._record.checkpoint(self._shard)
        try:
            if checkpoint is None:
                await self._take_whole(connection, first, until)
            else:
                await self._take_tail(connection, checkpoint, until)
        except LogDamaged as damage:
            if (await bounds_of(connection)).first == first:
                raise
            raise NotNow(f"the log was trimmed meanwhile: {damage}") from damage

    async def _take_tail(self, connection: Connection, checkpoint: Checkpoint, until: int) -> None:
        if checkpoint.sequence >= until:
            last = await last_commit(connection, self._shard)
            if last is None or last.sequence < checkpoint.sequence:
                problem = f"shard {self._shard} ends there, and has a checkpoint at {checkpoint.sequence}"
                raise LogDamaged(EV, until, problem)
            raise NotNow(f"another owner has taken it, and got to {last.sequence}")
        self.kept, self._known = checkpoint.sequence, Known(checkpoint.known)
        tail = [
            (stored.sequence, fact)
            async for stored in read_shard(connection, self._shard, checkpoint.position, until)
            for fact in stored.envelope.facts
            if fact.kind in FAMILY
        ]
        wanted = {*checkpoint.open, *(_key(fact) for _, fact in tail)}
        unread = [cell for cell in map(self._cell, wanted) if not cell.loaded]
        await self._load(unread, checkpoint.sequence)
        for sequence, fact in tail:
            self._fold(sequence, fact)

    async def _take_whole(self, connection: Connection, first: int, until: int) -> None:
        """Fold from the record what the log does not hold any more, and then the log."""
        position = START
        try:
            if first > 1:
                async for after, events in self._record.facts(self._shard, first - 1):
                    position = after
                    for event in events:
                        self._fold(event.sequence, event.fact)
        except (Unavailable, TimeoutError) as error:
            raise NotNow(f"the log begins at {first}, and what was before cannot be read: {error}") from error
        async for stored in read_shard(connection, self._shard, position, until):
            for fact in stored.envelope.facts:
                self._fold(stored.sequence, fact)

    @asynccontextmanager
    async def using(self, key: ThreadKey) -> AsyncIterator[Cell]:
        """Hold a thread, one holder at a time; it is read first if it is not in memory.

        Raises:
            NotNow: it is in the record alone, and that cannot be read now.
            LogDamaged: something of it is missing there.
        """
        cell = self._cell(key)
        self._cells[key] = self._cells.pop(key)
        cell.users += 1
        try:
            async with cell.lock:
                if cell.put_off:
                    raise NotNow("a command before it was put off")
                if not cell.loaded:
                    cell.put_off = True
                    await self._load([cell])
                    cell.put_off = False
                yield cell
        finally:
            cell.users -= 1
            if not cell.loaded and not cell.users:
                self._cells.pop(key, None)

    def committed(self, cell: Cell, sequence: int, events: Sequence[Emitted], facts: Sequence[Fact]) -> None:
        """Fold what was acknowledged."""
        machine = self._machines[cell.family]
        for emitted, fact in zip(events, facts, strict=True):
            cell.state = machine.evolve(cell.state, emitted)
            cell.noted(fact)
        self._noted(cell, sequence, len(facts))

    async def checkpoint(self, position: int, busy: Container[ThreadKey]) -> None:
        """Note how far the shard is known, if more has been recorded, with snapshots; let go of idle threads.

        What is open is what is open now: a thread that changed after the recorded head is in the tail that the next
        owner reads, whatever is said of it here.

        Args:
            position: the owner's; a record beyond it is another owner's.
            busy: threads that something is done for.

        Raises:
            Unavailable: Postgres cannot be reached.
            TimeoutError: it does not answer.
        """
        head = await self._record.head(self._shard)
        if not self.kept < head.sequence <= position:
            return
        worth = (cell for cell in self if self._is_worth_a_snapshot(cell, head.sequence))
        cells = list(islice(worth, _AT_ONCE))
        snapshots = [self._snapshot(cell) for cell in cells]
        fresh = [cell.fresh for cell in cells]
        opened = tuple(cell.key for cell in self if cell.stopped is not None or self._is_open(cell))
        found = Checkpoint(head.sequence, head.hash, opened, bytes(self._known))
        await self._record.keep(self._shard, found, snapshots)
        for cell, count in zip(cells, fresh, strict=True):
            cell.fresh -= count
        self.kept = head.sequence
        self._let_go(lambda cell: cell.sequence <= head.sequence and cell.key not in busy)

    def _is_worth_a_snapshot(self, cell: Cell, recorded: int) -> bool:
        return cell.stopped is None and cell.fresh >= SNAPSHOT_EACH and cell.sequence <= recorded

    def _snapshot(self, cell: Cell) -> Snapshot:
        state = hidden(frozen(cell.versions, cell.state), cell.key, cell.seal, self._keys)
        return Snapshot(cell.key, self._folds[cell.family].reducer, cell.sequence, state)

    def _is_open(self, cell: Cell) -> bool:
        return bool(self._machines[cell.family].open_effects(cell.state))

    def _let_go(self, may_go: Callable[[Cell], bool]) -> None:
        spare = len(self._cells) - self._room
        for cell in self:
            if spare <= 0:
                return
            if not cell.users and cell.stopped is None and may_go(cell) and not self._is_open(cell):
                del self._cells[cell.key]
                spare -= 1

    def _cell(self, key: ThreadKey) -> Cell:
        if key not in self._cells:
            initial = self._machines[key.family].initial(key.tenant, key.thread)
            self._cells[key] = Cell(key, initial, loaded=key not in self._known)
        return self._cells[key]

    def _fold(self, sequence: int, fact: Fact) -> None:
        if fact.kind not in FAMILY:
            return
        self._evolve(self._cell(_key(fact)), sequence, fact)

    def _evolve(self, cell: Cell, sequence: int, fact: Fact) -> None:
        check_version(cell.versions, sequence, fact)
        self._noted(cell, sequence, 1)
        cell.noted(fact)
        if fact.key is not None:
            cell.sealed_with(fact.key, self._keys)
        if cell.stopped is not None or codec.is_erased(fact.payload):
            return  # what was erased is nothing any more; that its thread was deleted follows
        try:
            emitted = Emitted(fact.kind, fact.entity, codec.event_of(fact))
            cell.state = self._machines[cell.family].evolve(cell.state, emitted)
        except Exception as error:  # noqa: BLE001  an event that this code cannot fold stops its thread, not the shard
            place = f"its {fact.type} of {fact.kind} {fact.entity!r}, version {fact.version}"
            cell.stop(place, repr(error), fault(error))

    def _noted(self, cell: Cell, sequence: int, events: int) -> None:
        if not cell.sequence:
            self._known.add(cell.key)
        cell.sequence = sequence
        cell.fresh += events

    async def _load(self, cells: Sequence[Cell], until: int | None = None) -> None:
        for first in range(0, len(cells), _AT_ONCE):
            some = cells[first : first + _AT_ONCE]
            found = await self._histories(some, self._folds, until)
            await self._load_keys(found.values())
            spoiled = [cell for cell in some if not self._thaw(cell, found[cell.key].snapshot)]
            if spoiled:
                from_zero = {family: fold._replace(reducer="") for family, fold in self._folds.items()}
                found |= await self._histories(spoiled, from_zero, until)
            for cell in some:
                for event in found[cell.key].events:
                    self._evolve(cell, event.sequence, event.fact)
                cell.loaded = True

    async def _load_keys(self, found: Collection[History]) -> None:
        """Have at hand the keys of snapshots, and those with which what comes after them is written on."""
        sealers = {sealer(history.snapshot.state) for history in found if history.snapshot is not None}
        sealers |= {event.fact.key for history in found for event in history.events}
        try:
            if self._keys is not None:
                await self._keys.load({key for key in sealers if key is not None})
        except (Unavailable, TimeoutError) as error:
            raise NotNow(f"the keys of its threads cannot be read: {error}") from error

    async def _histories(
        self, cells: Sequence[Cell], folds: Mapping[str, Fold], until: int | None
    ) -> dict[ThreadKey, History]:
        try:
            return await self._record.histories([cell.key for cell in cells], folds, until)
        except (Unavailable, TimeoutError) as error:
            raise NotNow(f"what is recorded of its threads cannot be read: {error}") from error

    def _thaw(self, cell: Cell, kept: Snapshot | None) -> bool:
        """Begin with a snapshot where there is one; False if it cannot be read."""
        if kept is None:
            return True
        try:
            if (seal := sealer(kept.state)) is not None:
                cell.sealed_with(seal, self._keys)
            state = revealed(kept.state, cell.key, self._keys)
            cell.versions, cell.state = thawed(self._machines[cell.family], state)
        except (BadShape, KeyDestroyed) as error:
            log.warning("thread %r is folded from zero: its snapshot is damaged: %s", cell.thread, error)
            return False
        cell.sequence = kept.sequence
        return True


def _key(fact: Fact) -> ThreadKey:
    return ThreadKey(FAMILY[fact.kind], fact.tenant, fact.thread)
