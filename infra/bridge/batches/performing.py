"""Assembles who performs batches in a process of agents."""

from __future__ import annotations

from actors.batches.actor import BatchLimits, BatchPerformer
from actors.runtime.context import SystemClock
from bus.connection import Connection
from bus.files import Files
from bus.slots import Slots
from infra.bridge.batches.answering import Answering
from infra.bridge.pooling.calls import PoolerCalls
from infra.readback import LateStore
from infra.settings import Place, Settings


def batch_performer(place: Place, connection: Connection, record: LateStore) -> BatchPerformer:
    """Make it."""
    settings, clock = place.settings, SystemClock()
    names = (settings.pooling.served_name,) if settings.pooling.model else ()
    answering = Answering(connection, record.read_back, clock, PoolerCalls(connection, names), settings.limits.nesting)
    files = Files(record.opened, seals=settings.privacy.sealed != "off")
    width = width_of(settings)
    shared = Slots(record.opened, "lines of batches", width) if settings.agent_processes > 1 else None
    return BatchPerformer(files, answering, BatchLimits(settings.batches.lines, width), clock, shared)


def width_of(settings: Settings) -> int:
    """Say how many lines of batches are answered at a time: what is left of the engine is for who waits."""
    return settings.batches.concurrent or max(1, settings.engine.max_running // 4)
