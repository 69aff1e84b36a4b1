"""Assembles who performs batches in a process of agents."""

from __future__ import annotations

from actors.batches.actor import BatchLimits, BatchPerformer
from actors.runtime.context import SystemClock
from bus.connection import Connection
from bus.files import Files
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
    return BatchPerformer(files, answering, BatchLimits(settings.batches.lines, width_of(settings)), clock)


def width_of(settings: Settings) -> int:
    """Say how many lines of batches a process answers at a time: what is left of the engine is for who waits."""
    wanted = settings.batches.concurrent or settings.engine.max_running // 4
    return max(1, wanted // settings.agent_processes)
