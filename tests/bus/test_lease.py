"""Who owns which shard: everyone comes to the same answer, and the dead are not counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.connection import Connection, Message
from bus.lease import Leases, shards_of
from bus.streams import ensure_streams
from infra.services.nats_server import NatsServer

slots = st.lists(st.from_regex(r"agents-[0-9]{1,2}", fullmatch=True), unique=True, min_size=1, max_size=8).map(sorted)


@given(slots, st.integers(1, 32))
def test_every_shard_has_exactly_one_owner(alive: list[str], shards: int) -> None:
    owned = [shards_of(slot, alive, shards) for slot in alive]
    assert sorted(shard for own in owned for shard in own) == list(range(shards))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


@given(slots, st.integers(1, 32))
def test_who_is_not_alive_owns_nothing(alive: list[str], shards: int) -> None:
    assert shards_of("someone-else", alive, shards) == frozenset()


pytestmark = pytest.mark.servers


class Process:
    """What a process believes to own."""

    def __init__(self) -> None:
        self.owned: frozenset[int] = frozenset()
        self.most = 0
        """How many it ever believed to own."""
        self.changed = asyncio.Condition()

    async def follow(self, leases: Leases, shards: int) -> None:
        async for owned in leases.ownership(shards):
            async with self.changed:
                self.owned = owned
                self.most = max(self.most, len(owned))
                self.changed.notify_all()

    async def owns(self, shards: set[int], seconds: float) -> None:
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(lambda: self.owned == shards)


@asynccontextmanager
async def living(connection: Connection, slot: str) -> AsyncIterator[Process]:
    process = Process()
    task = asyncio.create_task(process.follow(Leases(connection, slot, f"{slot}-run"), 4))
    try:
        yield process
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
@pytest.mark.deadline(12)
async def test_two_processes_share_and_a_dead_ones_shards_move_within_three_seconds(connection: Connection) -> None:
    await ensure_streams(connection, 4)
    async with living(connection, "agents-0") as one:
        await one.owns({0, 1, 2, 3}, 2)
        async with living(connection, "agents-1") as other:
            await one.owns({0, 2}, 2)
            await other.owns({1, 3}, 2)
        await one.owns({0, 1, 2, 3}, 3.2)


class Deaf(Connection):
    """A connection whose requests arrive, and which hears nothing of it once it is deaf."""

    deaf = False

    async def request(
        self, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Message:
        reply = await super().request(subject, data, timeout_s, headers)
        if self.deaf:
            raise TimeoutError("nothing was heard")
        return reply


@pytest.mark.anyio
@pytest.mark.deadline(12)
async def test_a_process_that_hears_nothing_does_not_keep_its_shards_from_the_others(
    connection: Connection, nats_url: str
) -> None:
    await ensure_streams(connection, 4)
    async with (
        await Deaf.open(nats_url, "deaf") as half,
        living(connection, "agents-0") as one,
        living(half, "agents-1") as other,
    ):
        await one.owns({0, 2}, 2)
        await other.owns({1, 3}, 2)
        half.deaf = True
        await one.owns({0, 1, 2, 3}, 3.2)
        half.deaf = False
        await other.owns({1, 3}, 2)
        await one.owns({0, 2}, 2)


@pytest.mark.anyio
async def test_a_process_that_leaves_in_peace_is_not_waited_for(connection: Connection) -> None:
    await ensure_streams(connection, 4)
    async with living(connection, "agents-0") as one:
        async with living(connection, "agents-1") as other:
            await one.owns({0, 2}, 2)
            await other.owns({1, 3}, 2)
        await Leases(connection, "agents-1", "run").release()
        await one.owns({0, 1, 2, 3}, 1)


@pytest.mark.anyio
async def test_a_process_that_restarts_takes_the_same_shards(connection: Connection) -> None:
    await ensure_streams(connection, 4)
    async with living(connection, "agents-1") as other:
        async with living(connection, "agents-0") as one:
            await one.owns({0, 2}, 2)
        async with living(connection, "agents-0") as one:
            await one.owns({0, 2}, 1)
            await other.owns({1, 3}, 1)


@pytest.mark.anyio
@pytest.mark.deadline(20)
async def test_leases_outlive_a_restart_of_the_server(connection: Connection, nats_server: NatsServer) -> None:
    await ensure_streams(connection, 4)
    async with living(connection, "agents-0") as one, living(connection, "agents-1") as other:
        await one.owns({0, 2}, 2)
        await other.owns({1, 3}, 2)
        one.most = other.most = 0
        await nats_server.kill()
        await nats_server.start(nats_server.port)
        async with living(connection, "agents-2") as third:
            await third.owns({2}, 5)
            await one.owns({0, 3}, 5)
            await other.owns({1}, 5)
        assert one.most <= 2
        assert other.most <= 2
