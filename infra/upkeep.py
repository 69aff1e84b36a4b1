"""Keeps the log whole: looks for damage before a start, and has it mended where nothing is lost by it."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from actors.runtime.context import SystemIds
from bus.connection import Connection
from bus.feed import Item
from bus.inspection import suspicion
from bus.repair import Repaired, repair
from bus.store import Store
from infra.checkpoint import Tell
from infra.errors import LogNeedsRepair
from schemas.times import rfc3339


async def mend_at_start(connection: Connection, store: Store, tell: Tell) -> list[str]:
    """Look for signs of damage, and mend what can be mended without cutting anything out; say what was done, if so.

    Args:
        connection: to NATS; nobody else may append.
        store: the record.
        tell: hears how far it is.

    Raises:
        LogNeedsRepair: something would have to be cut out, which is for a person to decide.
        LogLost: an envelope is whole in neither copy.
    """
    reason = await suspicion(connection, store)
    return [await mend(connection, store, reason, tell)] if reason else []


async def mend(connection: Connection, store: Store, reason: str, tell: Tell) -> str:
    """Mend a log that is damaged, unless something would have to be cut out; say what was done.

    Args:
        connection: to NATS; nobody else may append.
        store: the record.
        reason: what looks damaged.
        tell: hears how far it is.

    Raises:
        LogNeedsRepair: something would have to be cut out, which is for a person to decide.
        LogLost: an envelope is whole in neither copy.
    """

    async def refuse(items: list[Item]) -> None:
        raise LogNeedsRepair(reason, len(items))

    def told(done: int, of_all: int) -> None:
        tell(f"mending the log: {done} of {of_all}")

    done = await repair(connection, store, SystemIds().new("p"), refuse, told)
    return f"the log was damaged ({reason}) and is whole again: {summary(done)}"


def summary(done: Repaired) -> str:
    """Say in words what a repair did."""
    parts = [
        (done.restored, "restored from Postgres"),
        (done.rerecorded, "restored in Postgres"),
        (done.kept, "kept that were not recorded yet"),
        (done.cut, "cut out"),
        (done.lost, "lost"),
    ]
    return ", ".join(f"{count} {what}" for count, what in parts if count) or "nothing was damaged"


async def set_aside(items: Sequence[Item], file: Path) -> None:
    """Write what is cut out of the log to a file of JSON lines, synced, before it is cut."""
    await asyncio.to_thread(_write, items, file)


def _write(items: Sequence[Item], file: Path) -> None:
    with file.open("ab") as output:
        for item in items:
            output.write(msgspec.json.encode(_line(item)) + b"\n")
        output.flush()
        os.fsync(output.fileno())


def _line(item: Item) -> dict[str, object]:
    where = {"sequence": item.sequence, "subject": item.subject, "time": rfc3339(item.time)}
    try:
        return {**where, "data": item.data.decode()}
    except UnicodeDecodeError:
        return {**where, "base64": base64.b64encode(item.data).decode()}
