"""Recorded events as the frames a watcher would have heard."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bus.store import Store
from infra.follow import ReadBack
from schemas.live import Committed
from schemas.times import rfc3339


class LateStore:
    """A store that is opened when something must be read back: mostly never."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._store: Store | None = None

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
        if self._store is None:
            self._store = await Store.open(self._url)
        return await read_back_from(self._store)(tenant, thread, kind, entity, after)


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
