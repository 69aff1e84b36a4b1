"""Threads as the recorder would have written them: the log of a `World`, as stored events and as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
import msgspec

from actors.runtime.replay import Recorded
from bus.store import COLUMNS, StoredEvent
from schemas.envelope import Fact
from tests.actors.agent.test_loop import World, call, returned, said


def stored(thread: str, log: Sequence[Recorded], base: int = 0, tenant: str = "acme") -> list[StoredEvent]:
    """A thread's log as it is read back, its envelopes after sequence `base`."""
    return [
        StoredEvent(
            1,
            base + item.sequence,
            int(item.place.partition("/")[2]),
            1_700_000_000_000_000 + item.sequence,
            Fact(
                tenant=tenant,
                thread=thread,
                kind=item.kind,
                entity=item.entity,
                version=item.version,
                type=item.type,
                cause=item.cause,
                payload=msgspec.Raw(item.payload),
            ),
        )
        for item in log
    ]


def conversation(thread: str, turns: int = 1) -> World:
    """A thread in which each turn calls a tool."""
    world = World(thread)
    for turn in range(turns):
        run = f"{thread}-r{turn}"
        world.ask(run, text=f"question {turn}")
        world.result(said(f"{run}-1-m", calls=[call(turn)]))
        returned(world, f"{run}-1-t0")
        world.result(said(f"{run}-2-m", "answer"))
    return world


async def insert(url: str, events: Iterable[StoredEvent]) -> None:
    """Write events into table `event`."""
    client = await asyncpg.connect(url)
    try:
        await client.copy_records_to_table("event", records=[*map(_row, events)], columns=COLUMNS["event"])
    finally:
        await client.close()


def _row(event: StoredEvent) -> tuple[Any, ...]:
    fact = event.fact
    return (
        *(event.incarnation, event.sequence, event.idx, fact.tenant, fact.thread, fact.kind, fact.entity),
        *(fact.version, fact.type, fact.cause, event.time, fact.traceparent, fact.key, bytes(fact.payload), None),
    )
