"""What an owner decided, as facts of the log: numbered, encoded, and named with the key that is to seal them."""

from __future__ import annotations

from collections.abc import Sequence

from actors.runtime.cells import Cell
from actors.runtime.machine import Emitted
from schemas import codec
from schemas.envelope import Fact
from schemas.memory import ThreadDeleted, ThreadErased
from schemas.pushes import PushForgotten
from schemas.schedules import ScheduleClosed, ScheduleErased, ScheduleRemoved

_LEGIBLE = frozenset({ThreadDeleted, ThreadErased, ScheduleRemoved, ScheduleClosed, ScheduleErased, PushForgotten})
"""Events that are never sealed: they say of what is erased that it is."""


def facts_of(cell: Cell, events: Sequence[Emitted], cause: str, traceparent: str) -> list[Fact]:
    """Number and encode the events of one decision."""
    versions = dict(cell.versions)
    facts = []
    for emitted in events:
        key = (emitted.kind, emitted.entity)
        versions[key] = versions.get(key, 0) + 1
        facts.append(
            Fact(
                tenant=cell.tenant,
                thread=cell.thread,
                kind=emitted.kind,
                entity=emitted.entity,
                version=versions[key],
                type=codec.tag(emitted.event),
                cause=cause,
                payload=codec.payload(emitted.event),
                traceparent=traceparent,
                key=None if emitted.event.__class__ in _LEGIBLE else cell.seal,
            )
        )
    return facts
