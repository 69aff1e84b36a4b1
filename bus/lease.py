"""Signs of life: one lease per process in a memory store whose entries expire, and who owns which shard by them.

Leases give liveness only. Two processes that both believe to own a shard do no harm: the fence of `bus.commit`
lets only the one that took it last write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.errors import BusError, Refused, Unavailable
from bus.streams import LEASE, restore_leases

log = logging.getLogger(__name__)

RENEW_S = 0.6
"""A third of the entries' lifetime (2 s, set on the stream)."""


class Lease(msgspec.Struct, frozen=True):
    """What a living process says of itself."""

    slot: str
    """The process's place in the process table, `agents-0`; a restart takes the same place."""
    run: str
    """Changes with every start."""


def shards_of(slot: str, alive: list[str], shards: int) -> frozenset[int]:
    """Say which shards a process owns, given the sorted slots of all that live: the same answer everywhere."""
    if slot not in alive:
        return frozenset()
    place = alive.index(slot)
    return frozenset(shard for shard in range(shards) if shard % len(alive) == place)


class Leases:
    """Keeps this process's lease alive and watches the others'."""

    def __init__(self, connection: Connection, slot: str, run: str) -> None:
        self._connection = connection
        self._lease = Lease(slot, run)

    async def ownership(self, shards: int) -> AsyncIterator[frozenset[int]]:
        """Renew for ever; yield the set of shards to own, whenever it changes."""
        mine: frozenset[int] | None = None
        while True:
            try:
                await self._renew()
                alive = await self._alive()
            except (BusError, TimeoutError) as error:
                log.warning("lease of %s: %s", self._lease.slot, error)
            else:
                now = shards_of(self._lease.slot, alive, shards)
                if now != mine:
                    mine = now
                    yield now
            await asyncio.sleep(RENEW_S)

    async def _renew(self) -> None:
        subject, data = subjects.lease(self._lease.slot), msgspec.json.encode(self._lease)
        try:
            reply = await self._connection.request(subject, data, 1.0)
        except Unavailable:
            await restore_leases(self._connection)
            reply = await self._connection.request(subject, data, 1.0)
        problem = msgspec.json.decode(reply.data).get("error")
        if problem is not None:
            raise Refused(int(problem.get("err_code", 0)), str(problem.get("description")))

    async def _alive(self) -> list[str]:
        answer = await self._connection.api(f"STREAM.INFO.{LEASE}", {"subjects_filter": subjects.LEASES}, 1.0)
        held = answer["state"].get("subjects") or {}
        return sorted(subject.rsplit(".", 1)[1] for subject in held)

    async def release(self) -> None:
        """Give the place up at once, so that others need not wait for it to expire."""
        try:
            await self._connection.api(f"STREAM.PURGE.{LEASE}", {"filter": subjects.lease(self._lease.slot)}, 1.0)
        except (BusError, TimeoutError) as error:
            log.debug("releasing the lease: %s", error)
