"""The shards of one process: an owner for each that falls to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from actors.runtime.shard import Runtime, ShardOwner


async def own_shards(
    runtime: Runtime,
    ownership: AsyncIterator[frozenset[int]],
    on_ready: Callable[[frozenset[int]], Awaitable[None]],
    owners: dict[int, ShardOwner],
) -> None:
    """Run an owner for each shard this process should own, following `ownership`, until cancelled.

    Args:
        runtime: what they share.
        ownership: the shards to own, each time they change.
        on_ready: told of them once they are taken and folded.
        owners: holds the owners, by shard, for who wants to know how they do.
    """
    async with asyncio.TaskGroup() as tasks:
        running: dict[int, asyncio.Task[None]] = {}
        announcing: asyncio.Task[None] | None = None
        async for shards in ownership:
            for shard in sorted(owners.keys() - shards):
                del owners[shard]
                running.pop(shard).cancel()
            for shard in sorted(shards - owners.keys()):
                owners[shard] = ShardOwner(runtime, shard)
                running[shard] = tasks.create_task(owners[shard].run(), name=f"shard-{shard}")
            if announcing is not None:
                announcing.cancel()
            announcing = tasks.create_task(_when_ready(list(owners.values()), shards, on_ready))


async def _when_ready(
    owners: Sequence[ShardOwner], shards: frozenset[int], on_ready: Callable[[frozenset[int]], Awaitable[None]]
) -> None:
    for owner in owners:
        await owner.ready.wait()
    await on_ready(shards)
