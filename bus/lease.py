"""Signs of life: one lease per process in a memory store whose entries expire, and who owns which shard by them.

Leases give liveness only. Two processes that both believe to own a shard do no harm: the fence of `bus.commit`
lets only the one that took it last write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

import msgspec
from nats.errors import Error as NatsError

from bus import subjects
from bus.connection import Connection, Message, accepted
from bus.errors import BusError, Unavailable
from bus.streams import LEASE, restore_leases

log = logging.getLogger(__name__)

RENEW_S = 0.6
"""A third of the entries' lifetime."""
LIFE_S = 2.0
"""How long an entry lives, as the stream says."""


class Lease(msgspec.Struct, frozen=True):
    """What a living process says of itself."""

    slot: str
    """The process's place in the process table, `agents-0`; a restart takes the same place."""
    run: str
    """Changes with every start."""


class Held(NamedTuple):
    """The leases that there are."""

    slots: list[str]
    """Sorted."""
    born: str
    """When their stream was made: it lives in memory, and a single server that restarts makes it anew."""
    age_s: float


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
        born = ""
        hears = True
        changed = asyncio.Event()

        async def heard(_: Message) -> None:
            changed.set()

        subscription = await self._connection.subscribe(subjects.LEASES_CHANGED, heard)
        try:
            while True:
                try:
                    if not hears:
                        # what it sends may arrive all the same: a lease kept alive by who hears nothing is in the way
                        await self._held()
                    await self._renew()
                    held = await self._held()
                except (BusError, TimeoutError) as error:
                    log.warning("lease of %s: %s", self._lease.slot, error)
                    hears = not isinstance(error, TimeoutError)
                else:
                    hears = True
                    now = shards_of(self._lease.slot, held.slots, shards)
                    if mine is None:
                        born = held.born
                        await self._connection.publish(subjects.LEASES_CHANGED, b"")
                    elif held.born != born and held.age_s < LIFE_S:
                        # the server has forgotten the leases: who is not heard of may be about to renew
                        now = mine & now or mine
                    if now != mine:
                        mine = now
                        yield now
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RENEW_S):
                        await changed.wait()
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def _renew(self) -> None:
        subject, data = subjects.lease(self._lease.slot), msgspec.json.encode(self._lease)
        try:
            reply = await self._connection.request(subject, data, 1.0)
        except Unavailable:
            await restore_leases(self._connection)
            reply = await self._connection.request(subject, data, 1.0)
        accepted(reply)

    async def _held(self) -> Held:
        answer = await self._connection.api(f"STREAM.INFO.{LEASE}", {"subjects_filter": subjects.LEASES}, 1.0)
        held = answer["state"].get("subjects") or {}
        age = datetime.fromisoformat(answer["ts"]) - datetime.fromisoformat(answer["created"])
        return Held(sorted(subject.rsplit(".", 1)[1] for subject in held), answer["created"], age.total_seconds())

    async def release(self) -> None:
        """Give the place up at once, so that others need not wait for it to expire."""
        try:
            await self._connection.api(f"STREAM.PURGE.{LEASE}", {"filter": subjects.lease(self._lease.slot)}, 1.0)
            await self._connection.publish(subjects.LEASES_CHANGED, b"")
            await self._connection.flush()
        except (BusError, TimeoutError) as error:
            log.debug("releasing the lease: %s", error)
