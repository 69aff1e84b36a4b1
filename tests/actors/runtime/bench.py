"""One process's worth of agents on a real server, for tests of a shard's owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.loop import ConversationMachine
from actors.models.provider import ModelCall
from actors.runtime.cells import ROOM, Record
from actors.runtime.context import SystemIds
from actors.runtime.replay import Recorded, verify
from actors.runtime.shard import Runtime, ShardOwner
from actors.services import BusServices
from actors.serving.generation import GenerationMachine
from actors.serving.prompt import GenerationPerformer
from actors.testing import FixedClock, KnownChance, NoRecord, Say, ScriptedModel
from actors.tools import ToolContext, tool
from bus.commands import send_command
from bus.commit import Writer
from bus.connection import Connection
from bus.live import Live, Watcher, watching
from bus.log import START, last_commit, read_shard
from infra.runs import BusRuns
from schemas import codec
from schemas.commands import Approve, Command, Deny, PostResult, Resume, RunAgent
from schemas.envelope import Fact
from schemas.generation import Sampling
from schemas.live import Committed, Frame, Outcome
from schemas.messages import ToolCall
from schemas.runs import RunFinished


@tool(effect="pure")
async def odd(what: str) -> str:
    """Behave oddly."""
    match what:
        case "raise":
            raise ValueError("so odd")
        case "exit":
            raise SystemExit(3)
        case "cancel":
            raise asyncio.CancelledError
        case "surrogate":
            return "a\ud800b"
        case _:
            return "x" * (20 << 20)


STUBBORN = asyncio.Event()


@tool(effect="pure")
async def stubborn() -> str:
    """Take a cancellation for an answer."""
    STUBBORN.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "late"
    return "never"


@tool(effect="pure", timeout_s=0.05)
async def endless() -> str:
    """Wait for what never comes."""
    await asyncio.Event().wait()
    return "never"


@tool(effect="pure")
def stop_iteration() -> str:
    """Raise what a future cannot carry."""
    return next(iter(()))


@dataclass
class Bench:
    """One process's worth of agents, models and tools on a NATS of its own."""

    connection: Connection
    url: str
    model: ScriptedModel
    used: list[str] = field(default_factory=list)
    """`<tool> <idempotency key>` of every tool call."""
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    """Tools that wait."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    paid: str | None = None
    """What the check of `pay` finds."""
    agents: Sequence[Agent] = ()
    """Beside the one that everybody uses."""
    record: Record = field(default_factory=NoRecord)
    room: int = ROOM

    def agent(self) -> Agent:
        async def use(name: str, context: ToolContext) -> str:
            self.used.append(f"{name} {context.key}")
            self.began.set()
            if name in self.hold:
                await self.hold[name].wait()
            return f"{name} done"

        @tool(effect="idempotent")
        async def look(context: ToolContext) -> str:
            """Look."""
            return await use("look", context)

        @tool(effect="checkable", check=self.found)
        async def pay(context: ToolContext) -> str:
            """Pay."""
            return await use("pay", context)

        @tool(effect="once")
        async def mail(context: ToolContext) -> str:
            """Mail."""
            return await use("mail", context)

        return Agent(name="demo", instructions="Help.", tools=(look, pay, mail, odd, endless, stubborn, stop_iteration))

    def found(self, context: ToolContext) -> str | None:
        """Say whether it was paid."""
        self.used.append(f"check {context.key}")
        return self.paid

    def runtime(self, process: str, connection: Connection | None = None, machine: Any = None) -> Runtime:
        on = connection or self.connection
        clock, live = FixedClock(), Live(on)
        models = {"m": self.model}
        return Runtime(
            connection=on,
            clock=clock,
            ids=SystemIds(),
            chance=KnownChance(),
            writer=Writer(process, "test"),
            slot=process,
            machines={"agent": machine or ConversationMachine(), "generation": GenerationMachine()},
            performers={
                "agent": AgentPerformer(
                    [self.agent(), *self.agents], models, "m", live, clock, BusServices(on), BusRuns(on, self.read_back)
                ),
                "generation": GenerationPerformer(models, Sampling(), live),
            },
            record=self.record,
            room=self.room,
        )

    async def facts(self) -> list[tuple[int, int, Fact]]:
        last = await last_commit(self.connection, 0)
        assert last is not None
        return [
            (stored.sequence, index, fact)
            async for stored in read_shard(self.connection, 0, START, last.sequence)
            for index, fact in enumerate(stored.envelope.facts)
            if fact.kind != "shard"
        ]

    async def read_back(self, tenant: str, thread: str, kind: str, entity: str, after: int) -> list[Committed]:
        """What a watcher missed, as the record would tell it."""
        place = (tenant, thread, kind, entity)
        return [
            Committed(
                id=f"{sequence}-{index}",
                type=fact.type,
                subject=fact.entity,
                thread=fact.thread,
                time="",
                tenant=fact.tenant,
                cause=fact.cause,
                version=fact.version,
                data=fact.payload,
            )
            for sequence, index, fact in await self.facts()
            if (fact.tenant, fact.thread, fact.kind, fact.entity) == place and fact.version > after
        ]

    async def types(self, kind: str, entity: str) -> list[str]:
        return [fact.type for _, _, fact in await self.facts() if (fact.kind, fact.entity) == (kind, entity)]

    async def finished(self) -> set[str]:
        return {fact.entity for _, _, fact in await self.facts() if fact.type == "run.finished"}

    async def events(self, shape: type[Any]) -> list[Any]:
        decoded = [codec.event_of(fact) for _, _, fact in await self.facts()]
        return [event for event in decoded if isinstance(event, shape)]

    async def verified(self, thread: str) -> None:
        log = [
            Recorded(
                f"{sequence}/{index}",
                0,
                fact.kind,
                fact.entity,
                fact.version,
                fact.type,
                bytes(fact.payload),
                fact.cause,
                sequence,
            )
            for sequence, index, fact in await self.facts()
            if fact.thread == thread
        ]
        assert log
        verify(ConversationMachine(), "acme", thread, log)


def answering(call: ModelCall) -> Say:
    """Call the tools that the user's last message names, then answer."""
    last = call.messages[-1]
    if last.role == "user" and last.content.startswith("use "):
        name, _, what = last.content.removeprefix("use ").partition(" ")
        return ToolCall("k1", name, codec.encode({"what": what} if what else {}).decode())
    return f"re: {last.content[:20]}"


@asynccontextmanager
async def owning(runtime: Runtime) -> AsyncIterator[ShardOwner]:
    owner = ShardOwner(runtime, 0)
    task = asyncio.create_task(owner.run())
    ready = asyncio.create_task(owner.ready.wait())
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        yield owner
    finally:
        task.cancel()
        ready.cancel()
        await asyncio.gather(task, ready, return_exceptions=True)


def run(identity: str, text: str = "hi", thread: str = "t1", agent: str = "demo", **data: Any) -> Command:
    return Command(
        id=identity, tenant="acme", kind="agent", thread=thread, verb="run", data=RunAgent(agent, text, **data)
    )


def settling(identity: str, data: Approve | Deny | Resume | PostResult, thread: str = "t1") -> Command:
    verb = str(data.__struct_config__.tag)
    return Command(id=identity, tenant="acme", kind="agent", thread=thread, verb=verb, data=data, source="test")


@asynccontextmanager
async def hearing(bench: Bench, *entities: str) -> AsyncIterator[Watcher]:
    async with watching(bench.connection, *(f"live.acme.{entity}" for entity in entities)) as watcher:
        yield watcher


async def until(watcher: Watcher, fits: Callable[[Frame], bool]) -> list[Frame]:
    heard: list[Frame] = []
    while True:
        frame = await watcher.next(5)
        assert frame is not None, f"heard only {heard}"
        heard.append(frame)
        if fits(frame):
            return heard


def ends(frame: Frame) -> bool:
    return isinstance(frame, Committed) and frame.type in {"run.finished", "run.failed"}


def is_outcome(frame: Frame) -> bool:
    return isinstance(frame, Outcome)


async def answer_of(bench: Bench, command: Command) -> str:
    async with hearing(bench, f"run.{command.id}") as watcher:
        await send_command(bench.connection, command)
        await until(watcher, ends)
    (finished,) = [
        codec.event_of(fact)
        for _, _, fact in await bench.facts()
        if fact.entity == command.id and fact.type in {"run.finished", "run.failed"}
    ]
    return finished.text if isinstance(finished, RunFinished) else f"failed: {finished}"
