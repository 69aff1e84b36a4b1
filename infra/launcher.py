"""Starts the whole stack from settings, keeps it up, and takes it down in order."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.runtime.supervisor import DAMAGED, Child, ChildStatus, Crashes, Supervisor
from bus import subjects
from bus.address import masked
from bus.connection import Connection
from bus.errors import BusError
from bus.service import Numbers, serve_status
from bus.store import Store
from infra.agents import served_agents
from infra.batches.desk import batch_desk
from infra.bookkeeping import Books, bookkeeping
from infra.bridge.answers import Answers
from infra.bridge.app import Bridge
from infra.bridge.batches.routes import batch_doors
from infra.bridge.mcp.routes import at_hand
from infra.bridge.openai import AGENT_PREFIX
from infra.checkpoint import Tell, resolve_engine
from infra.draining import drain
from infra.environment import COMPUTING
from infra.errors import ServerError, ServerUnfit, StackFailed
from infra.metrics.scrape import Scrape
from infra.names import check_names
from infra.offers import offers
from infra.privacy import MASTER_VARIABLE, opened_record, stack_master
from infra.readback import opener, read_back_from
from infra.routed import routed_models
from infra.services.data_directory import DataDirectory
from infra.services.embedded import Servers, embedded
from infra.services.nats_server import NatsServer
from infra.services.outside import Outside, check_outside, prepare_streams, remember_outside
from infra.services.postgres import Postgres
from infra.serving import access_to, address_in_url, check_access, listen, places_of, scheme, serving
from infra.settings import PLACE_VARIABLE, Place, Settings, encode_place
from infra.telemetry import log_to_file
from infra.upkeep import mend, mend_at_start
from infra.watch import Watch
from schemas.about import DiskHealth, Health, ProcessHealth

log = logging.getLogger(__name__)

_HOST = "host"
READY_S = 120.0
"""How long the model may take to load."""

Progress = Callable[[str, float], None]
"""Told of each stage that is done: its name, and seconds since the start."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The running stack."""

    settings: Settings
    directory: DataDirectory
    servers: Servers
    connection: Connection
    store: Store
    supervisor: Supervisor
    url: str
    """Of the HTTP bridge."""
    watch: Watch | None
    """Of our own nats-server and its disk."""
    mended: list[str]
    """What was mended of the log on the way; empty if it was whole."""
    books: Books
    """What is kept of the log beside it."""
    answers: Answers = field(default_factory=Answers)
    """What the bridge answered."""

    def trouble(self) -> str:
        """Say why nothing can be taken now; empty while all is well."""
        return "" if self.watch is None else self.watch.trouble


def slots(settings: Settings) -> list[tuple[str, str]]:
    """Name the places of the process table, each with its role. Stopped in this order."""
    agents = [(f"agents-{n}", "agents") for n in range(settings.agent_processes)]
    pooler = [("pooler-0", "pooler")] if settings.pooling.model else []
    return [*agents, ("scheduler-0", "scheduler"), ("worker-0", "worker"), *pooler, ("recorder-0", "recorder")]


def table(settings: Settings, servers: Servers, master: bytes = b"") -> list[Place]:
    """Give the process table: what runs beside this process."""
    # who opens nothing need not know the key
    settings = msgspec.structs.replace(settings, privacy=msgspec.structs.replace(settings.privacy, master_key=""))
    about = (servers.nats_url, servers.postgres_url, settings)
    return [Place(role, slot, *about, master.decode() if role == "agents" else "") for slot, role in slots(settings)]


@asynccontextmanager
async def running(
    settings: Settings, progress: Progress, tell: Tell = lambda _: None, notice: Tell = lambda _: None
) -> AsyncIterator[Stack]:
    """Run the stack for as long as the block runs.

    Args:
        settings: what to run.
        progress: hears of each stage of the start.
        tell: hears how far a download is.
        notice: hears of what ended and is started again.

    Raises:
        InfraError: something is wrong with the machine or the settings; says what and how to mend it.
        BusError: the servers refuse what we need.
    """
    began = time.monotonic()

    def stage(name: str) -> None:
        progress(name, time.monotonic() - began)

    served = await _check(settings)
    directory = DataDirectory(Path(settings.data), shards=settings.shards)
    await asyncio.to_thread(directory.refuse_if_held)
    engine = await asyncio.to_thread(resolve_engine, settings.engine, tell)
    outside = Outside(settings.nats, settings.postgres, settings.replicas)
    await check_outside(outside)
    settings = msgspec.structs.replace(settings, engine=engine)
    stage("model")
    listening = listen(settings)
    with contextlib.closing(listening):
        async with contextlib.AsyncExitStack() as exits:
            servers = await exits.enter_async_context(embedded(directory, outside))
            connection = await exits.enter_async_context(await Connection.open(servers.nats_url, "host"))
            await _refuse_company(connection, settings)
            replicas = await prepare_streams(connection, settings.shards, outside)
            await asyncio.to_thread(
                remember_outside, directory.path, msgspec.structs.replace(outside, replicas=replicas)
            )
            store = await exits.enter_async_context(await opened_record(servers.postgres_url, connection, settings))
            mended = await mend_at_start(connection, store, tell)
            stage("servers")
            log_to_file("host", directory.logs / "host.log")
            supervisor = Supervisor(
                [_child(place, directory) for place in table(settings, servers, stack_master(store))],
                lambda name, code: notice(f"{name} {ended(code)}"),
            )
            supervisor.start()
            exits.push_async_callback(supervisor.stop)
            url = f"{scheme(settings.access)}://{address_in_url(settings.host)}:{listening.getsockname()[1]}"
            watching = asyncio.create_task(_keep_servers(servers, served, url, notice), name="servers")
            watching.add_done_callback(lambda _: supervisor.failed.set())
            exits.callback(watching.cancel)
            watch = exits.enter_context(_watching(directory, servers, connection, notice))
            books = exits.enter_context(bookkeeping(store, connection, settings))
            stack = Stack(settings, directory, servers, connection, store, supervisor, url, watch, mended, books)
            await _tell_who_asks(stack)
            await _wait_until_whole(stack, stage, tell)
            await exits.enter_async_context(_bridge(stack, listening))
            await servers.record(served, http=url)
            stage("ready")
            yield stack


async def _check(settings: Settings) -> tuple[str, ...]:
    """See that what was set can be used, before anything is made; return what may be given as `model`.

    Raises:
        InfraError: names the setting and the mend.
    """
    agents = served_agents(settings)
    check_names(settings)
    await asyncio.to_thread(check_access, settings.access)
    return (settings.engine.name, *settings.engine.adapters, *(AGENT_PREFIX + agent.name for agent in agents))


async def _refuse_company(connection: Connection, settings: Settings) -> None:
    """See that no other stack runs on the same NATS account: each would take the other's processes for its own.

    Raises:
        ServerUnfit: one does.
    """
    for slot in (_HOST, *(slot for slot, _ in slots(settings))) if settings.nats else ():
        if await status_of(connection, slot) is not None:
            problem = f"another stack runs on it ({slot!r} answers)"
            mend = "stop that one, or give each an account and a database of its own"
            raise ServerUnfit("nats", masked(settings.nats), problem, mend)


def _child(place: Place, directory: DataDirectory) -> Child:
    inherited = {name: value for name, value in os.environ.items() if name != MASTER_VARIABLE}
    environment = {**inherited, **COMPUTING, "PYTHONUNBUFFERED": "1", PLACE_VARIABLE: encode_place(place)}
    argv = (sys.executable, "-m", "infra.process", place.slot, str(os.getpid()))
    return Child(place.slot, argv, environment, directory.logs / f"{place.slot}.log")


async def _tell_who_asks(stack: Stack) -> None:
    """Answer on core NATS how the host does: it works where JetStream does not."""

    def status() -> bytes:
        return msgspec.json.encode({"trouble": stack.trouble()})

    def statistics() -> Numbers:
        children = {child.name: child.restarts for child in stack.supervisor.statistics()}
        free = None if stack.watch is None else stack.watch.free_mb
        http = {"http": stack.answers.statistics()}
        return {"restarts": children, "free_mb": free, **stack.books.statistics(), **http}

    version = importlib.metadata.version("ostinato")
    subject = subjects.status(_HOST)
    await serve_status(stack.connection, _HOST, version, _HOST, subject, status, statistics)


@contextlib.contextmanager
def _watching(
    directory: DataDirectory, servers: Servers, connection: Connection, notice: Tell
) -> Iterator[Watch | None]:
    if not isinstance(servers.nats, NatsServer):
        yield None  # the disk of somebody else's server is not ours to see
        return
    watch = Watch(connection, servers.nats, (directory.path, servers.nats.folder), notice)
    looking = asyncio.create_task(watch.run(), name="watch")
    try:
        yield watch
    finally:
        looking.cancel()


def ended(code: int) -> str:
    """Say in words how a process ended."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed ({signal.Signals(-code).name})"
    return f"ended with code {code}"


async def _keep_servers(servers: Servers, served: tuple[str, ...], url: str, notice: Tell) -> None:
    """Start a server of ours again that ended, on the port it had; end when one only keeps ending."""

    async def keep(server: NatsServer | Postgres, name: str) -> None:
        crashes = Crashes()
        while True:
            code = await server.wait()
            crashes = crashes.after(time.monotonic())
            if crashes.looping:
                log.error("%s keeps ending: given up", name)
                return
            log.warning("%s %s: starting it again", name, ended(code))
            notice(f"{name} {ended(code)}: starting it again")
            await asyncio.sleep(crashes.wait_s)
            try:
                await server.restart()
            except ServerError as error:
                log.error("%s", error)  # noqa: TRY400  the error is for people; it is tried again
                continue
            await servers.record(served, http=url)

    if not servers.own:
        await asyncio.Event().wait()  # those of others are theirs to keep
    kept = [asyncio.create_task(keep(server, name)) for name, server in servers.own.items()]
    try:
        await asyncio.wait(kept, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in kept:
            task.cancel()


async def _wait_until_whole(stack: Stack, stage: Callable[[str], None], tell: Tell) -> None:
    """Wait until every process is ready; mend a log that one of them found damaged as it read it, and start again.

    Raises:
        StackFailed: a process keeps ending, or is not ready in time.
        LogNeedsRepair: mending would cut something out.
        LogLost: an envelope is whole in neither copy.
    """
    try:
        await _wait_ready(stack, stage)
    except StackFailed:
        if all(child.code != DAMAGED for child in stack.supervisor.statistics()):
            raise
        await stack.supervisor.stop()
        stack.mended.append(await mend(stack.connection, stack.store, "a process found a gap as it read it", tell))
        stack.supervisor.start()
        await _wait_ready(stack, stage)


async def _wait_ready(stack: Stack, stage: Callable[[str], None]) -> None:
    """Wait until every process says so, and a worker has its model.

    Raises:
        StackFailed: a process keeps ending, or is not ready in time.
    """
    waiting = {child.name for child in stack.supervisor.statistics()}
    deadline = time.monotonic() + READY_S
    while waiting:
        for slot in sorted(waiting):
            status = await status_of(stack.connection, slot)
            if status is not None and status["ready"]:
                waiting.discard(slot)
                stage(slot)
        given_up = [child.name for child in stack.supervisor.statistics() if child.given_up]
        if given_up or time.monotonic() > deadline:
            slot = (given_up or sorted(waiting))[0]
            problem = "keeps ending" if given_up else f"was not ready within {READY_S:.0f} s"
            path = stack.directory.logs / f"{slot}.log"
            raise StackFailed(slot, problem, path, await asyncio.to_thread(_tail, path))
        await asyncio.sleep(0.05)


async def why_failed(stack: Stack) -> StackFailed:
    """Say why a stack that ran cannot go on."""
    given_up = next((child.name for child in stack.supervisor.statistics() if child.given_up), None)
    path = stack.directory.logs / f"{given_up or 'host'}.log"
    tail = await asyncio.to_thread(_tail, path)
    return StackFailed(given_up or "a server", "keeps ending", path, tail if given_up else "")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])


async def status_of(connection: Connection, slot: str) -> dict[str, Any] | None:
    """Ask a process how it does; None when it does not answer."""
    try:
        reply = await connection.request(subjects.status(slot), b"", 1.0)
    except (BusError, TimeoutError):
        return None
    return msgspec.json.decode(reply.data, type=dict[str, Any])


def _part(child: ChildStatus, answer: dict[str, Any] | None) -> ProcessHealth:
    """Tell of a process what `/health` shows."""
    told = answer or {"ready": False}
    return ProcessHealth(child.pid, child.restarts, bool(told["ready"]), told.get("trouble", msgspec.UNSET))


@asynccontextmanager
async def _bridge(stack: Stack, listening: socket.socket) -> AsyncIterator[None]:
    settings = stack.settings

    async def state() -> Health:
        children = stack.supervisor.statistics()
        answers = await asyncio.gather(*(status_of(stack.connection, child.name) for child in children))
        parts = {child.name: _part(child, answer) for child, answer in zip(children, answers, strict=True)}
        fine = all(part.ready and part.trouble is msgspec.UNSET for part in parts.values())
        watch = stack.watch
        fine &= watch is None or not watch.trouble
        disk = msgspec.UNSET if watch is None else DiskHealth(watch.free_mb, watch.closed)
        return Health("ok" if fine else "degraded", parts, disk)

    agents = served_agents(settings)
    async with access_to(settings, stack.connection, stack.store) as access:
        bridge = Bridge(
            connection=stack.connection,
            read_back=read_back_from(stack.store),
            ids=SystemIds(),
            clock=SystemClock(),
            chance=SystemChance(),
            models=(settings.engine.name,),
            adapters=tuple(settings.engine.adapters),
            poolers=(settings.pooling.served_name,) if settings.pooling.model else (),
            routed=routed_models(settings.models, agents),
            agents=tuple(agent.name for agent in agents),
            offered=offers(agents),
            store=opener(stack.store),
            tenant=settings.tenant,
            state=state,
            trouble=stack.trouble,
            metrics=Scrape(stack.connection, (_HOST, *(slot for slot, _ in slots(settings))), settings.shards),
            ask=access.caller,
            keyed=access.required,
            a2a=settings.a2a,
            limits=settings.limits,
            places=places_of(settings),
            answers=stack.answers,
            aside=stack.books.aside,
            origins=settings.access.origins,
            more=batch_doors(batch_desk(settings, stack.connection, stack.store)),
        )
        async with serving(bridge.application(), settings.access, settings.limits, listening), at_hand():
            try:
                yield
            finally:
                await drain(stack.connection, settings.engine, bridge.under_way)
