"""The `pooler` role: a model that gives vectors or scores, in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os

import torch

from actors.serving.pooler import PoolerActor
from bus.connection import Connection
from engine.pooling import Pooler, load_pooler
from infra.process import Status, until
from infra.settings import Place, PoolingSettings


async def run(place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
    """Load the model, then serve until told to stop."""
    settings = place.settings.pooling
    threads = place.settings.engine.threads or max(1, (os.cpu_count() or 2) // 2)
    model = await asyncio.to_thread(_load, settings, threads)
    actor = PoolerActor(connection, settings.served_name, model, settings.max_waiting)
    status.statistics = actor.statistics
    status.ready = True
    await until(stopping, asyncio.create_task(actor.run(importlib.metadata.version("ostinato"))))


def _load(settings: PoolingSettings, threads: int) -> Pooler:
    torch.set_num_threads(threads)
    return load_pooler(settings.model, device=settings.device, dtype=settings.dtype, batch_tokens=settings.batch_tokens)
