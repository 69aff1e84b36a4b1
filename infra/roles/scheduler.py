"""The `scheduler` role: one per engine, without torch."""

from __future__ import annotations

import asyncio

from actors.runtime.context import SystemClock
from actors.serving.scheduler import SchedulerActor
from bus.connection import Connection
from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from infra.checkpoint import read_groups
from infra.process import Status, until
from infra.settings import Place
from schemas.generation import Announce


async def run(place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
    """Schedule until told to stop."""
    engine = place.settings.engine
    groups = await asyncio.to_thread(read_groups, engine.model)
    config = SchedulerConfig(
        # with no number given as many as could be of use: the worker says how many there are
        blocks=engine.kv_blocks or engine.max_running * -(-engine.context_length // engine.block_size) * groups.count,
        context_length=engine.context_length,
        block_size=engine.block_size,
        window=engine.window or None,
        groups=groups.count,
        windowed=max(groups.windowed, 1),
        policy=engine.policy,
        max_running=engine.max_running,
        max_step_tokens=engine.max_step_tokens,
        prefill_chunk=engine.prefill_chunk,
        max_waiting=engine.max_waiting,
        max_waiting_tokens=engine.max_waiting_tokens,
    )
    announce = Announce(engine=engine.name, epoch=status.run, model=engine.name, context_length=engine.context_length)
    actor = SchedulerActor(connection, Scheduler(config, status.run), announce, SystemClock(), engine.stall_s)
    told = {"block_size": engine.block_size, "num_gpu_blocks": config.blocks, "enable_prefix_caching": True}
    status.statistics = lambda: {**actor.statistics(), "config": told, "most_adapters": len(engine.adapters)}
    status.trouble = actor.trouble
    status.ready = True
    await until(stopping, asyncio.create_task(actor.run()))
