"""Servers that somebody else runs, used in place of our own: never started, stopped or restarted by us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bus.address import masked
from bus.connection import Connection
from bus.errors import Refused, Unavailable
from bus.fitness import Unfit, check_nats, check_postgres
from bus.streams import PASSING, TOO_FEW_SERVERS, ensure_streams, fitting_replicas
from infra.errors import ServerUnfit
from infra.services.data_directory import PRIVATE, write_atomically

PATIENCE_S = 60.0
"""How long JetStream may take to answer at a start: an election takes up to ten seconds, and is repeated at times."""
_AGAIN_S = 0.2
_FILE = "servers.json"


class Outside(msgspec.Struct, frozen=True):
    """Which servers are not ours, as settings name them; empty is our own."""

    nats: str = ""
    postgres: str = ""
    replicas: int = 0
    """Of each stream; 0 is by the cluster."""


@dataclass(frozen=True, slots=True)
class OutsideServer:
    """One of them."""

    url: str


def remember_outside(folder: Path, outside: Outside) -> None:
    """Keep in a data directory which servers hold its log, for who reads it while no stack runs. Blocks."""
    if outside.nats or outside.postgres:
        write_atomically(folder / _FILE, msgspec.json.encode(outside), PRIVATE)
    else:
        (folder / _FILE).unlink(missing_ok=True)


def remembered_outside(folder: Path) -> Outside:
    """Return what was kept. Blocks."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Outside)
    except FileNotFoundError:
        return Outside()


async def check_outside(outside: Outside) -> None:
    """See that the servers can be used.

    Raises:
        ServerUnfit: names the setting, what is wrong, and how to mend it.
    """
    if outside.nats:
        await _check("nats", outside.nats, check_nats)
    if outside.postgres:
        await _check("postgres", outside.postgres, check_postgres)


async def _check(setting: str, url: str, check: Callable[[str], Awaitable[None]]) -> None:
    try:
        await check(url)
    except Unfit as unfit:
        raise ServerUnfit(setting, masked(url), unfit.problem, unfit.mend) from unfit


async def prepare_streams(connection: Connection, shards: int, outside: Outside, patience_s: float = PATIENCE_S) -> int:
    """Make or update the streams; return how many replicas they have.

    A cluster that has just lost a server answers nothing of a stream until the others have chosen who leads it, and a
    disk that is busy holds up every answer: both are waited for.

    Args:
        connection: to JetStream.
        shards: of the log.
        outside: which servers are not ours.
        patience_s: how long JetStream may be silent, in seconds.

    Raises:
        ServerUnfit: there are fewer servers than replicas asked for, or somebody else's JetStream stays silent.
        Unavailable: ours stays silent.
        BusError: JetStream says no.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return await _prepare(connection, shards, outside)
        except (TimeoutError, Unavailable, Refused) as error:
            if isinstance(error, Refused) and error.code not in PASSING:
                raise
            if time.monotonic() > end:
                raise _silent(outside, str(error)) from error
            await asyncio.sleep(_AGAIN_S)


def _silent(outside: Outside, problem: str) -> Exception:
    if not outside.nats:
        return Unavailable(f"JetStream does not answer ({problem}): see that its disk has room and is not stuck")
    mend = "see that most of its servers run, and that their disks are well"
    return ServerUnfit("nats", masked(outside.nats), f"JetStream does not answer ({problem})", mend)


async def _prepare(connection: Connection, shards: int, outside: Outside) -> int:
    number = outside.replicas or (await fitting_replicas(connection) if outside.nats else 1)
    try:
        await ensure_streams(connection, shards, number)
    except Refused as refusal:
        if refusal.code not in TOO_FEW_SERVERS:
            raise
        mend = "set it to 1, or give 'nats' a cluster with that many servers that run JetStream"
        raise ServerUnfit("replicas", str(number), f"NATS says: {refusal.description}", mend) from refusal
    return number
