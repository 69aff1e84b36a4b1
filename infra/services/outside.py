"""Servers that somebody else runs, used in place of our own: never started, stopped or restarted by us."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bus.address import masked
from bus.connection import Connection
from bus.errors import Refused
from bus.fitness import Unfit, check_nats, check_postgres
from bus.streams import TOO_FEW_SERVERS, ensure_streams, fitting_replicas
from infra.errors import ServerUnfit
from infra.services.data_directory import PRIVATE, write_atomically

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


async def prepare_streams(connection: Connection, shards: int, outside: Outside) -> int:
    """Make or update the streams; return how many replicas they have.

    Raises:
        ServerUnfit: there are fewer servers than replicas asked for.
        BusError: JetStream says no.
    """
    number = outside.replicas or (await fitting_replicas(connection) if outside.nats else 1)
    try:
        await ensure_streams(connection, shards, number)
    except Refused as refusal:
        if refusal.code not in TOO_FEW_SERVERS:
            raise
        mend = "set it to 1, or give 'nats' a cluster with that many servers that run JetStream"
        raise ServerUnfit("replicas", str(number), f"NATS says: {refusal.description}", mend) from refusal
    return number
