"""A running stack for Python programs: runs of its agents, what they say as it comes, and what they wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from actors.agent.definition import Agent
from actors.agent.stack import around
from actors.agent.task import Task
from actors.classifier import Classified, Classifier
from actors.parameters import schema_of
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from actors.tools import Tool
from bus import subjects
from bus.connection import Connection
from bus.live import Live
from bus.steps import frames_of_call
from bus.store import Store
from infra.access import runtime_of
from infra.answers import Answer
from infra.classifying import asking
from infra.conversations import Threads
from infra.errors import Joined, Misfit, SettlementRefused
from infra.follow import ReadBack, attend, send
from infra.goals import Goals
from infra.memories import Memories
from infra.pictures import follow_pictured, picture
from infra.privacy import known_master
from infra.readback import LateStore
from infra.running import Running, Waiting, children_of, folded, tasks_of, waits_of
from infra.schedules import Schedules
from schemas.commands import (
    AbortRun,
    Approve,
    CancelTask,
    Command,
    CommandData,
    Deny,
    Generate,
    PostResult,
    Resume,
    RunAgent,
)
from schemas.context import TRACE
from schemas.live import Delta, Frame
from schemas.messages import Message
from schemas.structured import Structured
from schemas.times import rfc3339
from schemas.tracing import beginning

_DAY_S = 86_400.0
_LONGEST_S = 10 * 365 * _DAY_S
_SETTLED_S = 60.0
"""How long an answer may take to be decided: whoever owns its thread may just have gone."""

OnWait = Callable[[Waiting], Awaitable[Approve | Deny | Resume | PostResult | None]]
"""Answers what a run waits for; None leaves it to somebody else."""


@dataclass(frozen=True, slots=True)
class Client:
    """Sends commands to a stack, and hears what becomes of them."""

    connection: Connection
    read_back: ReadBack
    store: Callable[[], Awaitable[Store]]
    tenant: str = "default"
    source: str = "python"
    """What the log calls whoever sent its commands."""
    _ids: SystemIds = field(default_factory=SystemIds)

    async def run(
        self,
        agent: Agent | str,
        text: str,
        *,
        thread: str | None = None,
        context: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        on_wait: OnWait | None = None,
        images: Sequence[bytes | str] = (),
        output_type: Any = None,
        repairs: int = 1,
        fallback: Any = msgspec.UNSET,
        timeout_s: float | None = None,
        **wanted: Any,
    ) -> Answer:
        """Run an agent on a message, and return its answer.

        Args:
            agent: one that the stack serves, or its name.
            text: the message.
            thread: the conversation to go on with; a new one unless given.
            context: what the agent's functions and tools may know of the request.
            tools: functions of this program that the model may call: they are run here.
            on_wait: answers what the run waits for; where it is left out, nobody can be asked.
            images: shown after the text: each the bytes of a PNG, JPEG, GIF or WebP, or its address.
            output_type: a struct, dataclass or other type that JSON can carry: the answer is one of it, in `output`.
                Where the model's engine can bind what is written, it is; where not, the model is told what does not
                fit.
            repairs: how often it is told so.
            fallback: what `output` is where the answer does not fit even then, and `misfit` says why; without it
                there is no answer.
            timeout_s: how long the run may take, with its repairs, seconds: then it fails with kind `timeout`.
            wanted: any other field of `schemas.commands.RunAgent`, such as `model`, `max_steps` or `active_tools`.

        Raises:
            NoAnswer: the run was refused or failed; carries the `Problem`.
            ValueError: `timeout_s` is not above 0, or `deadline` is given too; or a `fallback` without `output_type`.
            PictureRefused: an image is none that models take.
            TimeoutError: it did not end within a day.
        """
        if fallback is not msgspec.UNSET and output_type is None:
            raise ValueError("fallback: leave it out, or say by `output_type` what it stands in for")
        wanted |= _deadline(timeout_s, wanted)
        about = {"context": context, "tools": tools, "on_wait": on_wait, "output_type": output_type, **wanted}
        running = self.stream(agent, text, thread=thread, images=images, **about)
        async for _ in running:
            pass
        try:
            return await self._answer(running, output_type)
        except Misfit as misfit:
            unfit: Answer = misfit.answer
            if not repairs and fallback is msgspec.UNSET:
                raise
            if not repairs:
                return replace(unfit, output=fallback, misfit=misfit.why)
            again = f"Your answer does not fit: {misfit.why}. Answer again, with JSON alone."
            about |= {"repairs": repairs - 1, "fallback": fallback}
            return (await self.run(agent, again, thread=running.thread, **about)).after(unfit)

    async def _answer(self, running: Running, output_type: Any) -> Answer:
        """Give what a run came to; of a message that another run took along, what that one comes to.

        Raises:
            NoAnswer: it was refused or failed, or is not of the type that was asked for.
        """
        try:
            return running.answer()
        except Joined as joined:
            # whoever began it answers what it waits for
            command = self._command(joined.run, joined.thread, "run", RunAgent(agent=""))
            frames = attend(self.connection, self.read_back, command, _no_frames, timeout_s=_DAY_S)
            other = Running(command, frames, {}, None, self.settle, output_type=output_type)
        async for _ in other:
            pass
        return replace(other.answer(), joined=True)

    def stream(
        self,
        agent: Agent | str,
        text: str,
        *,
        thread: str | None = None,
        context: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        on_wait: OnWait | None = None,
        images: Sequence[bytes | str] = (),
        output_type: Any = None,
        timeout_s: float | None = None,
        **wanted: Any,
    ) -> Running:
        """Run an agent as `run` does; iterate over what is returned to hear of everything that happens.

        An answer that is not of `output_type` is not mended, and a message that another run took along
        (`when_busy="steer"`) ends with `run.joined`: `Running.answer` raises `Joined`.
        """
        wanted |= _deadline(timeout_s, wanted)
        data = RunAgent(
            agent=agent if isinstance(agent, str) else agent.name,
            text=None if images else text,
            messages=(Message("user", text, images=tuple(map(picture, images))),) if images else (),
            context=dict(context or {}),
            tools=tuple(tool.spec for tool in tools),
            approvals="refuse" if on_wait is None else "ask",
            structured=None if output_type is None else _bound(output_type),
            **wanted,
        )
        where = self._ids.new("t") if thread is None else subjects.checked(thread, "thread")
        command = self._command(self._ids.new("r"), where, "run", data)
        frames = follow_pictured(self.connection, self.read_back, command, SystemChance(), self._ids, _DAY_S)
        own = {tool.name: tool for tool in tools}
        return Running(command, frames, own, on_wait, self.settle, Live(self.connection), output_type)

    def attend(self, thread: str, run: str) -> AsyncIterator[Frame]:
        """Hear all of a run, from its first event on, whoever began it and however late; what nobody began never ends.

        Raises:
            TimeoutError: it did not end within a day.
        """

        async def frames_of(effect: str) -> Sequence[Delta]:
            return (await frames_of_call(await self.store(), self.tenant, "run", run, effect)).deltas

        command = self._command(run, subjects.checked(thread, "thread"), "run", RunAgent(agent=""))
        return attend(self.connection, self.read_back, command, frames_of, timeout_s=_DAY_S)

    @property
    def memory(self) -> Memories:
        """What the tenant's agents remember."""
        return Memories(self.connection, self.tenant)

    @property
    def threads(self) -> Threads:
        """Conversations, and whose they are."""
        return Threads(self.tell, self.store, self.tenant, self._ids)

    @property
    def goals(self) -> Goals:
        """What agents are to reach by themselves."""
        return Goals(self.tell, self.store, self.tenant, self._ids)

    async def classify(self, classifier: Classifier, text: str, model: str = "") -> dict[str, Classified[Any]]:
        """Ask a model questions about a text that have few answers.

        Args:
            classifier: the questions, and perhaps the model.
            text: what they are about.
            model: who is asked, where the classifier names nobody.

        Raises:
            CallFailed: the model failed; carries the `Problem`.
        """
        return await classifier.classify(text, asking(self.connection, self.read_back, self._generation, model))

    def _generation(self, data: Generate) -> Command:
        identity = self._ids.new("g")
        return self._command(identity, identity, "generate", data, "generation")

    async def waiting(self, thread: str) -> tuple[Waiting, ...]:
        """List what a thread's run waits for, and those of other agents that it has asked, as far as is recorded."""
        store, found = await self.store(), list[Waiting]()
        threads = [thread]
        while threads:
            name = threads.pop(0)
            state = folded(self.tenant, name, await store.events_of_thread(self.tenant, name))
            found += waits_of(state)
            threads += children_of(state)
        return tuple(found)

    async def tasks(self, thread: str) -> tuple[Task, ...]:
        """List the tool calls of a thread that go on in the background, as far as is recorded."""
        state = folded(self.tenant, thread, await (await self.store()).events_of_thread(self.tenant, thread))
        return tasks_of(state)

    async def cancel(self, thread: str, task: str, reason: str = "") -> None:
        """End a tool call that goes on in the background.

        Raises:
            SettlementRefused: it does not go on; carries the `Problem`.
        """
        await self.tell(thread, CancelTask(task=task, reason=reason))

    async def settle(self, thread: str, data: Approve | Deny | Resume | PostResult) -> None:
        """Answer what a run waits for.

        Raises:
            SettlementRefused: nothing waits for that any more; carries the `Problem`.
        """
        await self.tell(thread, data)

    async def abort(self, thread: str, run: str = "", reason: str = "") -> None:
        """End a run; the one under way unless it is named.

        Raises:
            SettlementRefused: it is not under way; carries the `Problem`.
        """
        await self.tell(thread, AbortRun(run=run, reason=reason))

    @property
    def schedules(self) -> Schedules:
        """What is asked by the clock."""

        async def tell(schedule: str, data: CommandData) -> None:
            await self.tell(schedule, data, "schedule")

        return Schedules(tell, self.store, self.tenant)

    async def tell(self, thread: str, data: CommandData, kind: str = "agent") -> None:
        """Send any command that is decided at once: it goes by the name that its shape has.

        Raises:
            SettlementRefused: it was refused; carries the `Problem`.
            TimeoutError: nobody decided it in time; it may still be done.
        """
        verb = str(data.__struct_config__.tag)
        command = self._command(self._ids.new("a"), thread, verb, data, kind)
        outcome = await send(self.connection, command, _SETTLED_S)
        if outcome.problem is not None:
            raise SettlementRefused(outcome.problem)

    def _command(self, identity: str, thread: str, verb: str, data: CommandData, kind: str = "agent") -> Command:
        chance = SystemChance()
        return Command(
            id=identity,
            tenant=self.tenant,
            kind=kind,
            thread=thread,
            verb=verb,
            data=data,
            source=self.source,
            time=rfc3339(SystemClock().now()),
            traceparent=TRACE.get() or beginning(chance.bits(128), self.tenant, identity),
        )


@asynccontextmanager
async def connect(data: str = ".ostinato", tenant: str = "default") -> AsyncIterator[Client]:
    """Reach the stack that runs on a data directory (`ostinato up --data DATA`).

    Raises:
        NotRunning: none does.
        Unavailable: its bus does not answer.
    """
    urls, master = await asyncio.to_thread(lambda: (runtime_of(data).urls, known_master(data)))
    async with connected(urls["nats"], urls["postgres"], tenant, master) as client:
        yield client


@asynccontextmanager
async def connected(
    nats_url: str, postgres_url: str, tenant: str = "default", master: bytes = b""
) -> AsyncIterator[Client]:
    """Reach a stack by the addresses of its servers, and read what is sealed with its master key.

    Raises:
        Unavailable: NATS does not answer.
    """
    async with (
        await Connection.open(nats_url, "python") as connection,
        LateStore(postgres_url, master) as late,
    ):
        client = Client(connection, late.read_back, late.opened, tenant)
        with around(client):
            yield client


def _deadline(timeout_s: float | None, wanted: Mapping[str, Any]) -> dict[str, int]:
    """Give what a request says of when it is to be over.

    Raises:
        ValueError: that is not in the future, or was said already.
    """
    if timeout_s is None:
        return {}
    if not 0 < timeout_s <= _LONGEST_S:
        raise ValueError(f"timeout_s={timeout_s!r}: give seconds above 0 and at most {_LONGEST_S:.0f}, or leave it out")
    if wanted.get("deadline"):
        raise ValueError("timeout_s: leave it out, or `deadline`: both say when the run is to be over")
    return {"deadline": SystemClock().now() + max(1, round(timeout_s * 1e6))}


async def _no_frames(_effect: str) -> Sequence[Delta]:
    """Tell nothing of what was said: only the end is wanted."""
    return ()


def _bound(kind: Any) -> Structured:
    """Give the grammar of a type's JSON."""
    text = msgspec.json.encode(schema_of(kind)).decode()
    return Structured(kind="json_schema", text=text, additional_properties=False, field="output_type")
