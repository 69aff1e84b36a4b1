"""The `worker` role: one per device; the only process that loads torch."""

from __future__ import annotations

import asyncio
import logging
import os

import torch

from actors.serving.worker import WorkerActor
from bus.connection import Connection
from engine.platforms import detect
from engine.runner.loading import RunnerConfig, load_runner
from engine.runner.model_runner import ModelRunner
from infra.process import Status, until
from infra.profiles import began_with
from infra.settings import EngineSettings, Place
from schemas.steps import WorkerBegan

log = logging.getLogger(__name__)


async def run(place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
    """Load the model, then run plans until told to stop."""
    engine = place.settings.engine
    runner, began = await asyncio.to_thread(_load, engine, status.run)
    actor = WorkerActor(connection, engine.name, runner, status.run, began)
    status.statistics = actor.statistics
    status.ready = True
    await until(stopping, asyncio.create_task(actor.run()))


def _load(engine: EngineSettings, worker: str) -> tuple[ModelRunner, WorkerBegan]:
    torch.set_num_threads(engine.threads or max(1, (os.cpu_count() or 2) // 2))
    platform = detect(engine.device)
    log.info("%s", platform.describe())
    config = RunnerConfig(
        model=engine.model,
        dtype=engine.dtype,
        block_size=engine.block_size,
        grammar_backend=engine.grammar_backend,
        load_format=engine.load_format,
        quantization=engine.quantization,
        blocks=engine.kv_blocks or None,
        context_length=engine.context_length,
        most_contexts=engine.max_running,
        threads=torch.get_num_threads(),
        logprobs_mode=engine.logprobs_mode,
        enforce_eager=engine.enforce_eager,
        batch_invariant=engine.batch_invariant,
        adapters=engine.adapters,
    )
    runner = load_runner(config, platform, worker)
    log.info("%s", runner.describe())
    began = began_with(config, engine.device, platform, runner)
    log.info("kernel profile %s: %s", began.profile, began.parts)
    return runner, began
