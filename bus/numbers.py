"""The numbers of every process, asked for over NATS: each answers `$SRV.STATS` for itself (ADR-32)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from bus import subjects
from bus.connection import Connection, Message
from bus.errors import Refused
from bus.streams import CMD, DEAD, EV, NOT_FOUND, TRACE

_PREFIX = "ostinato-"
_SETTLE_S = 0.05
"""How long others may take after the last one that was waited for."""
NO_CONSUMER = 10014
"""JetStream's code for a consumer that is not there."""


class ProcessNumbers(NamedTuple):
    """What one process says."""

    role: str
    slot: str
    numbers: dict[str, Any]


class StreamNumbers(NamedTuple):
    """How full a stream is."""

    messages: int
    bytes: int
    last: int
    """The sequence of its last message."""


class Backlog(NamedTuple):
    """What waits in the streams."""

    streams: dict[str, StreamNumbers]
    commands: dict[int, int]
    """Commands that are not answered, by shard."""
    dead: dict[str, int]
    """Commands that nobody could handle, by kind."""


class _Endpoint(msgspec.Struct):
    data: dict[str, Any] = {}


class _Stats(msgspec.Struct):
    name: str
    metadata: dict[str, str] | None = None
    endpoints: tuple[_Endpoint, ...] = ()


async def numbers_of_all(
    connection: Connection, slots: Collection[str], timeout_s: float = 1.0, least_s: float = _SETTLE_S
) -> list[ProcessNumbers]:
    """Ask every process, and wait until all of `slots` have answered, or for so long; by slot.

    Args:
        connection: the bus.
        slots: who is known.
        timeout_s: how long they are waited for.
        least_s: how long answers of others are heard.

    Raises:
        Unavailable: the connection is closed.
    """
    found: dict[str, ProcessNumbers] = {}
    all_there = asyncio.Event()

    async def hear(message: Message) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            stats = msgspec.json.decode(message.data, type=_Stats)
            slot = (stats.metadata or {}).get("slot")
            if stats.name.startswith(_PREFIX) and slot and stats.endpoints:
                role = stats.name.removeprefix(_PREFIX)
                found[slot] = ProcessNumbers(role, slot, stats.endpoints[0].data)
        if slots and found.keys() >= set(slots):
            all_there.set()

    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, hear)
    try:
        await connection.publish("$SRV.STATS", b"", reply=inbox)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(all_there.wait(), asyncio.sleep(least_s))
    finally:
        await subscription.unsubscribe()
    return [found[slot] for slot in sorted(found)]


async def backlog(connection: Connection, shards: int) -> Backlog:
    """Say what waits in the streams.

    Raises:
        Refused: JetStream says no.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    streams = (EV, CMD, TRACE, DEAD)
    ask_dead = {"subjects_filter": subjects.DEAD}
    asked = [connection.api(f"STREAM.INFO.{name}", ask_dead if name == DEAD else None, 2.0) for name in streams]
    waiting = [_waiting(connection, shard) for shard in range(shards)]
    infos = await asyncio.gather(*asked)
    found = {name: _stream(info["state"]) for name, info in zip(streams, infos, strict=True)}
    dead: dict[str, int] = {}
    for subject, count in (infos[-1]["state"].get("subjects") or {}).items():
        kind = subject.split(".")[-1]
        dead[kind] = dead.get(kind, 0) + count
    return Backlog(found, dict(enumerate(await asyncio.gather(*waiting))), dead)


def _stream(state: dict[str, Any]) -> StreamNumbers:
    return StreamNumbers(state["messages"], state["bytes"], state["last_seq"])


async def _waiting(connection: Connection, shard: int) -> int:
    """Count a shard's commands that were not delivered, or not answered; 0 where nobody ever pulled."""
    try:
        info = await connection.api(f"CONSUMER.INFO.{CMD}.shard-{shard}", None, 2.0)
    except Refused as refusal:
        if refusal.code not in {NOT_FOUND, NO_CONSUMER}:
            raise
        return 0
    return int(info["num_pending"]) + int(info["num_ack_pending"])
