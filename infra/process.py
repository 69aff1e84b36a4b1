"""A child of the process table: `python -m infra.process SLOT PARENT`, started by the launcher.

Its place comes as JSON in the environment, which only its user may read: it may hold passwords, and `ps` shows
arguments to all.

The role's module is imported on demand, so that torch is loaded by workers alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import msgspec
import uvloop

from actors.runtime.context import SystemIds
from actors.runtime.supervisor import DAMAGED, HOPELESS
from bus import subjects
from bus.connection import Connection
from bus.errors import LogDamaged
from bus.service import Numbers, serve_status
from engine.errors import EngineError
from infra.errors import InfraError
from infra.settings import PLACE_VARIABLE, Place, decode_place
from infra.telemetry import log_to_stderr

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Status:
    """What a process says of itself: on `rpc.<slot>.status` how it stands, on `$SRV.STATS` its numbers."""

    slot: str
    run: str
    """The `producer_run`: changes with every start."""
    ready: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    statistics: Callable[[], Numbers] = dict
    """How full its queues are, and what it has done."""
    trouble: Callable[[], str] = str
    """Why it does not get on with its work, though it lives; empty while it does."""

    def numbers(self) -> Numbers:
        """Give its numbers as they are now."""
        return self.statistics()

    def encoded(self) -> bytes:
        """Give how it stands."""
        shown = {"slot": self.slot, "run": self.run, "ready": self.ready, "detail": self.detail}
        if trouble := self.trouble():
            shown["trouble"] = trouble
        return msgspec.json.encode(shown)


class Role(Protocol):
    """A module of `infra.roles`."""

    async def run(self, place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
        """Do the role's work until `stopping` is set; return when all is put away."""


async def until(stopping: asyncio.Event, work: asyncio.Task[None]) -> None:
    """Wait for the stop, then cancel the work; raise what the work raised if it ended first."""
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({stop, work}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if work.done():
        work.result()
        return
    work.cancel()
    await asyncio.wait({work})


async def run_place(place: Place) -> None:
    """Run one place of the process table until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    status = Status(place.slot, SystemIds().new("p"))
    role = cast("Role", importlib.import_module(f"infra.roles.{place.role}"))
    gc.freeze()  # what was imported stays: garbage is not looked for in it, again and again
    async with await Connection.open(place.nats_url, place.slot, wait_s=10) as connection:
        subject = subjects.status(place.slot)
        version = importlib.metadata.version("ostinato")
        await serve_status(connection, place.role, version, place.slot, subject, status.encoded, status.numbers)
        await role.run(place, connection, status, stopping)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its launcher goes, whatever ends it: an orphan would fight its successor
    for the shards. The log is safe: everything here may be killed at any moment. Linux only; elsewhere the bus's
    server goes with the launcher and orphans find no work.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(f"the launcher (process {parent}) is gone")


def main() -> None:
    """Run the place given in the environment, for the launcher whose process id is the second argument."""
    die_with(int(sys.argv[2]))
    place = decode_place(os.environ.pop(PLACE_VARIABLE))  # taken away: what a tool starts need not know it
    log_to_stderr(place.slot, wanted=place.settings.telemetry.log_format)
    try:
        uvloop.run(run_place(place))
    except (EngineError, InfraError, LogDamaged, ExceptionGroup) as error:
        reason = _hopeless(error)
        if reason is None:
            raise
        # trying again cannot mend it: the launcher shows this line
        sys.stderr.write(f"ostinato: {reason}\n")
        raise SystemExit(DAMAGED if isinstance(reason, LogDamaged) else HOPELESS) from error


def _hopeless(error: Exception) -> Exception | None:
    """Find what trying again cannot mend, in a group of errors too."""
    if not isinstance(error, ExceptionGroup):
        return error if isinstance(error, EngineError | InfraError | LogDamaged) else None
    return next(filter(None, map(_hopeless, error.exceptions)), None)


if __name__ == "__main__":
    main()
