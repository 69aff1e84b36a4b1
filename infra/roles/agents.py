"""The `agents` role: owns shards of threads, runs agents and generations, cuts text in its frontend."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from actors.access.key import KeyPerformer
from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.entitling import Entitler
from actors.blocking import left_behind
from actors.machines import MACHINES
from actors.memory.embedding import Embedder
from actors.memory.indexing import index
from actors.models.direct import DIRECT, DirectCalls
from actors.models.metering import CallMeter
from actors.models.nearby import Nearby, offer_model
from actors.models.poolers import Poolers
from actors.models.provider import ModelProvider
from actors.models.router import Router
from actors.processors.recall import RecordedLibrary, SemanticRecall
from actors.processors.shared import SharedMemories
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.runtime.partitions import own_shards
from actors.runtime.performer import Performer
from actors.runtime.shard import Runtime, ShardOwner
from actors.runtime.supervisor import STOP_S
from actors.schedules.actor import SchedulePerformer
from actors.services import BusServices
from actors.serving.adapted import Adapted
from actors.serving.frontend import Frontend
from actors.serving.prompt import GenerationPerformer
from actors.serving.texts import Texts, offer_texts
from bus.blobs import Blobs
from bus.commands import send_command
from bus.commit import Writer
from bus.connection import Connection
from bus.keyring import Keyring
from bus.lease import Leases
from bus.live import Live
from bus.pictures import Pictures
from bus.trace import Trace
from engine.text.prompts import Customs
from infra.agents import served_agents
from infra.bridge.a2a.pushing import push_performer
from infra.bridge.batches.performing import batch_performer
from infra.client import Client
from infra.erasing import StackEraser, heed_destruction, heed_erasure
from infra.mcp.opened import OpenedService, opened_agents
from infra.memories import serve_memory
from infra.process import Status, until
from infra.prompts import offered
from infra.providers import Models, bind_embedders, keep_books, make_models, serve_embeddings, teller
from infra.readback import LateStore
from infra.recollections import MemoryService
from infra.runs import BusRuns
from infra.settings import McpSettings, Place
from schemas.generation import Sampling

DRAIN_S = STOP_S - 1.0
"""How long tools may take to come to their end when the process is to stop; the supervisor kills it soon after."""


async def run(place: Place, connection: Connection, status: Status, stopping: asyncio.Event) -> None:
    """Own shards until told to stop, then give the lease back."""
    record = LateStore(place.postgres_url, place.master.encode())
    if place.master:
        sealed = place.settings.privacy.sealed != "off"
        connection.keys = Keyring(record.opened, place.master.encode(), SystemChance(), sealed)
        await heed_destruction(connection, connection.keys)
        if sealed:
            connection.keys.prepare()
    async with Trace(connection, status.run) as trace, record:
        await _run(place, connection, status, stopping, trace, record)


async def _run(
    place: Place, connection: Connection, status: Status, stopping: asyncio.Event, trace: Trace, record: LateStore
) -> None:
    settings, engine, clock = place.settings, place.settings.engine, SystemClock()
    agents, meter, version = served_agents(settings), CallMeter(), importlib.metadata.version("ostinato")
    frontend = await _frontend(place, connection, status)
    made, reading = await _models(place, connection, status, frontend, record)
    for name, model in _served(place, frontend).items():
        await offer_model(connection, name, version, model)
    texts = await asyncio.to_thread(Texts, frontend.prompter, Path(engine.model), engine.context_length)
    await offer_texts(connection, engine.name, version, texts)
    runtime = Runtime(
        connection=connection,
        clock=clock,
        ids=SystemIds(),
        chance=SystemChance(),
        writer=Writer(status.run, version),
        slot=place.slot,
        machines=MACHINES,
        performers=_performers(place, connection, agents, made.router, Live(connection, trace), record, meter),
        record=record,
    )
    embedders = _embedders(agents)
    bind_embedders(embedders, made)
    await serve_memory(connection, MemoryService(record.opened, embedders))
    await OpenedService(connection, agents, settings.mcp, BusServices(connection)).serve()
    leases = Leases(connection, place.slot, status.run)

    async def ready(shards: frozenset[int]) -> None:
        status.ready, status.detail = True, {"shards": sorted(shards)}

    owners: dict[int, ShardOwner] = {}
    status.statistics = lambda: {
        "shards": {str(shard): owner.statistics() for shard, owner in owners.items()},
        "model_calls": frontend.under_way,
        "calls": meter.numbers(),
        "trace": trace.statistics(),
        "budgets": [] if made.ledger is None else made.ledger.statistics(),
        "threads_left_behind": left_behind(),
    }
    client = Client(connection, record.read_back, record.opened, settings.tenant)
    async with offered(connection, client, agents, version, clock):
        owning = asyncio.create_task(own_shards(runtime, leases.ownership(settings.shards), ready, owners))
        indexing = [asyncio.create_task(index(record.opened, embedder)) for embedder in embedders]
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, owning}, return_when=asyncio.FIRST_COMPLETED)
        if not owning.done():
            # the lease lives on meanwhile: who took the shards now could not know what became of a tool
            await _drain(owners)
        for task in (stop, reading, *indexing):
            task.cancel()
        await until(stopping, owning)
    await leases.release()


async def _models(
    place: Place, connection: Connection, status: Status, frontend: Frontend, record: LateStore
) -> tuple[Models, asyncio.Task[None]]:
    """Put the models together that may be asked here, and what reads their books; offer vectors of those elsewhere."""
    tell, nearby = teller(connection, status), partial(Nearby, connection=connection)
    show = Pictures(Blobs(connection), SystemChance(), SystemIds()).shown
    engines, settings = _served(place, frontend), place.settings.models
    if place.settings.mcp != McpSettings():
        engines = {**engines, DIRECT: DirectCalls()}
    make = partial(make_models, engines, settings, SystemClock(), tell, nearby, show=show, poolers=Poolers(connection))
    made = await asyncio.to_thread(make)
    await heed_erasure(connection, made.answers)
    reading = await keep_books(made, connection, record, status)
    await serve_embeddings(connection, importlib.metadata.version("ostinato"), made.embeddings)
    return made, reading


def _served(place: Place, frontend: Frontend) -> dict[str, ModelProvider]:
    """Give what the engine serves, by name: its model, and that with each adapter."""
    engine = place.settings.engine
    return {engine.name: frontend, **{name: Adapted(name, frontend) for name in engine.adapters}}


def _embedders(agents: Sequence[Agent]) -> list[Embedder]:
    """List what makes vectors for these agents, each once."""
    fixed = (agent.processors for agent in agents if not callable(agent.processors))
    processors = (processor for several in fixed for processor in several)
    found = {one.embedder.name: one.embedder for one in processors if isinstance(one, SemanticRecall)}
    return list(found.values())


async def _frontend(place: Place, connection: Connection, status: Status) -> Frontend:
    """Start the engine's frontend."""
    engine = place.settings.engine
    customs = Customs(**{name: getattr(engine, name) for name in Customs.__struct_fields__})
    about = (connection, engine.name, Path(engine.model), status.run, engine.context_length, customs)
    frontend = await asyncio.to_thread(Frontend, *about, frozenset(engine.adapters))
    await frontend.start()
    return frontend


def _performers(
    place: Place,
    connection: Connection,
    agents: Sequence[Agent],
    models: Router,
    live: Live,
    record: LateStore,
    meter: CallMeter,
) -> dict[str, Performer]:
    """Make those who do what runs and generations ask for."""
    settings, engine, clock = place.settings, place.settings.engine, SystemClock()
    eraser, send = StackEraser(connection, record.opened), partial(send_command, connection)
    runs = AgentPerformer(
        [*agents, *opened_agents(agents, settings.mcp)],
        models,
        settings.models.default or engine.name,
        live,
        clock,
        BusServices(connection),
        BusRuns(connection, record.read_back),
        RecordedLibrary(record.opened),
        Entitler(send, clock),
        eraser,
        SharedMemories(record.opened, send),
        meter,
    )
    return {
        "agent": runs,
        "generation": GenerationPerformer(models, Sampling(temperature=engine.temperature), live, meter),
        "key": KeyPerformer(),
        "batch": batch_performer(place, connection, record),
        "push": push_performer(place, connection, record),
        "schedule": SchedulePerformer([agent.name for agent in agents], send, clock, erase=eraser.erase_schedule),
    }


async def _drain(owners: dict[int, ShardOwner]) -> None:
    """Drain every owner, also those of shards that fall to this process meanwhile."""
    drained: set[ShardOwner] = set()
    while left := set(owners.values()) - drained:
        await asyncio.gather(*(owner.drain(DRAIN_S) for owner in left))
        drained |= left
