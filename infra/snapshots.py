"""Checks snapshots of threads: a fold from zero must give what each holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from actors.machines import MACHINES
from actors.runtime.cells import KINDS
from actors.runtime.frozen import revealed, sealer, thawed
from actors.runtime.machine import Emitted
from actors.runtime.reducer import reducers_of
from bus.keyring import KeyDestroyed
from bus.snapshots import Snapshot, snapshots_of
from bus.store import Store, StoredEvent
from schemas import codec
from schemas.errors import SchemaError


class SnapshotsChecked(NamedTuple):
    """What was found."""

    checked: int
    """Snapshots that this code made, of this log."""
    wrong: tuple[Snapshot, ...]


async def check_snapshots(store: Store, told: Callable[[int, int], None]) -> SnapshotsChecked:
    """Fold the thread of every snapshot from zero, and compare. Those of other code are never used, nor looked at.

    Args:
        store: the record.
        told: hears how many are checked, of how many.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    reducers = await asyncio.to_thread(reducers_of, MACHINES)
    checked, wrong = 0, []
    async for snapshot, count in snapshots_of(store, reducers):
        events = [
            event
            for event in await store.events_of_thread(snapshot.key.tenant, snapshot.key.thread)
            if event.sequence <= snapshot.sequence and event.fact.kind in KINDS[snapshot.key.family]
        ]
        if not holds(await _plain(store, snapshot), events):
            wrong.append(snapshot)
        checked += 1
        told(checked, count)
    return SnapshotsChecked(checked, tuple(wrong))


async def _plain(store: Store, snapshot: Snapshot) -> Snapshot:
    """Open a sealed snapshot; one that cannot be stays as it is, and holds nothing."""
    key = sealer(snapshot.state)
    if key is None or store.keys is None:
        return snapshot
    await store.keys.load([key], surely=True)
    try:
        return snapshot._replace(state=revealed(snapshot.state, snapshot.key, store.keys))
    except (SchemaError, KeyDestroyed):
        return snapshot


def holds(snapshot: Snapshot, events: list[StoredEvent]) -> bool:
    """Say whether a snapshot is what folding these events gives."""
    machine = MACHINES[snapshot.key.family]
    versions: dict[tuple[str, str], int] = {}
    state = machine.initial(snapshot.key.tenant, snapshot.key.thread)
    try:
        for event in events:
            fact = event.fact
            state = machine.evolve(state, Emitted(fact.kind, fact.entity, codec.event_of(fact)))
            versions[fact.kind, fact.entity] = fact.version
        return thawed(machine, snapshot.state) == (versions, state)
    except (SchemaError, LookupError):
        return False
