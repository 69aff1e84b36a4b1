"""Recorded events as the frames a watcher would have heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from bus.errors import Unavailable
from bus.log import START, Position
from bus.snapshots import (
    Checkpoint,
    Fold,
    History,
    Snapshot,
    ThreadKey,
    histories,
    keep,
    read_checkpoint,
    recorded_facts,
)
from bus.store import Store, StoredEvent
from infra.follow import ReadBack
from infra.privacy import opened_store
from schemas.live import Committed
from schemas.times import rfc3339

log = logging.getLogger(__name__)

_HEAD_S: Final = 2.0
_READ_S: Final = 5.0

T = TypeVar("T")


class LateStore:
    """A store that is opened when something must be read back; an owner's `Record`."""

    def __init__(self, url: str, master: bytes = b"") -> None:
        """Make it; with a master key it opens what is sealed."""
        self._url = url
        self._master = master
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._asking: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()

    async def read_back(self, tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        """Read from the recorder's tables.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        return await read_back_from(await self.opened())(tenant, thread, kind, entity, after)

    async def head(self, shard: int) -> Position:
        """Say where a shard has got by the record; `START` where it has nothing, or Postgres cannot be asked now."""
        try:
            sequence, digest = (await self._within(_HEAD_S, Store.heads)).get(shard, START[:2])
        except (Unavailable, TimeoutError) as error:
            log.warning("shard %s: the record cannot be asked now: %s", shard, error)
            return START
        return Position(sequence, digest, 0)

    async def checkpoint(self, shard: int) -> Checkpoint | None:
        """Return the shard's checkpoint; None where there is none, or Postgres cannot be asked now."""
        try:
            return await self._within(_HEAD_S, lambda store: read_checkpoint(store, shard))
        except (Unavailable, TimeoutError) as error:
            log.warning("shard %s is read from its beginning: %s", shard, error)
            return None

    async def histories(
        self, keys: Sequence[ThreadKey], folds: Mapping[str, Fold], until: int | None
    ) -> dict[ThreadKey, History]:
        """Read threads; as `bus.snapshots.histories`.

        Raises:
            Unavailable: Postgres cannot be reached.
            TimeoutError: it does not answer.
        """
        return await self._within(_READ_S, lambda store: histories(store, keys, folds, until))

    async def facts(self, shard: int, until: int) -> AsyncIterator[tuple[Position, list[StoredEvent]]]:
        """Read a shard's beginning; as `bus.snapshots.recorded_facts`.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        async for part in recorded_facts(await self.opened(), shard, until):
            yield part

    async def keep(self, shard: int, checkpoint: Checkpoint, snapshots: Sequence[Snapshot]) -> None:
        """Write a checkpoint and snapshots; as `bus.snapshots.keep`.

        Raises:
            Unavailable: Postgres cannot be reached.
            TimeoutError: it does not answer.
        """
        await self._within(_READ_S, lambda store: keep(store, shard, checkpoint, snapshots))

    async def _within(self, seconds: float, ask: Callable[[Store], Awaitable[T]]) -> T:
        """Ask something, and do without the answer after so many seconds.

        A query that is cancelled ends when the server has heeded that. One that says nothing does not, so the query is
        left to itself.

        Raises:
            TimeoutError: the answer did not come.
            Unavailable: Postgres cannot be reached.
        """

        async def asking() -> T:
            return await ask(await self.opened())

        task = asyncio.create_task(asking(), name="record")
        self._asking.add(task)
        task.add_done_callback(self._asked)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(task)
        finally:
            task.cancel()

    def _asked(self, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # it was raised to whoever still waited

    async def opened(self) -> Store:
        """Return the store.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        async with self._opening:
            if self._store is None:
                self._store = await opened_store(self._url, self._master)
            return self._store


def opener(store: Store) -> Callable[[], Awaitable[Store]]:
    """Give a record that is open to who asks for one to be opened."""

    async def opened() -> Store:
        return store

    return opened


def read_back_from(store: Store) -> ReadBack:
    """Read from the recorder's tables."""

    async def read_back(tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        return [
            Committed(
                id=f"{event.sequence}-{event.idx}",
                type=event.fact.type,
                subject=event.fact.entity,
                thread=event.fact.thread,
                time=rfc3339(event.time),
                tenant=event.fact.tenant,
                cause=event.fact.cause,
                version=event.fact.version,
                data=event.fact.payload,
                traceparent=event.fact.traceparent,
            )
            for event in await store.events_of_entity(tenant, kind, entity, after)
            if event.fact.thread == thread
        ]

    return read_back
