"""Recorded events as the frames a watcher would have heard."""

from __future__ import annotations

from bus.store import Store
from infra.follow import ReadBack
from schemas.live import Committed
from schemas.times import rfc3339


def read_back_from(store: Store) -> ReadBack:
    """Read from the recorder's tables."""

    async def read_back(tenant: str, kind: str, entity: str, after: int) -> list[Committed]:
        return [
            Committed(
                id=f"{event.sequence}-{event.idx}",
                type=event.fact.type,
                subject=event.fact.entity,
                time=rfc3339(event.time),
                tenant=event.fact.tenant,
                cause=event.fact.cause,
                version=event.fact.version,
                data=event.fact.payload,
                traceparent=event.fact.traceparent,
            )
            for event in await store.events_of_entity(tenant, kind, entity, after)
        ]

    return read_back
