"""A thread's events as spans: requests, runs, steps, model calls, tools, memory and processors. Pure.

Each event is taken once, in the order of the log, and gives the spans that end with it. The same events give the same
spans, whether they are taken as they happen or read years later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bus.store import StoredEvent
from infra.spans.content import NoContent
from infra.spans.heard import Transcript
from infra.spans.names import Names
from infra.spans.open_run import OpenRun
from infra.spans.span import Span
from schemas import codec
from schemas.commands import Command, Generate, RunAgent
from schemas.delegation import RunJoined
from schemas.memory import Observed, ThreadCreated, ThreadDeleted, ThreadRenamed, WorkingWritten
from schemas.messages import Message
from schemas.runs import (
    CommandAccepted,
    CommandRefused,
    Event,
    MemoryWritten,
    MessageAdded,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)
from schemas.times import microseconds
from schemas.tracing import request_span, span_id, trace_context
from schemas.waits import ToolHandedOver, ToolSuspended

_OPENING = RunQueued | RunStarted | ModelCalled | ToolCalled | ToolHandedOver | RunFinished | RunFailed
_MOST_REMEMBERED = 256
_REMEMBERED = MemoryWritten | WorkingWritten | Observed | ThreadCreated | ThreadRenamed | ThreadDeleted


@dataclass
class ThreadSpans:
    """Folds one thread."""

    tenant: str
    thread: str
    names: Names
    content: NoContent = field(default_factory=NoContent)
    _commands: dict[str, tuple[Command, int]] = field(default_factory=dict)
    """Those whose requests are not over, with when they were accepted."""
    _runs: dict[str, OpenRun] = field(default_factory=dict)
    _resource: str = ""
    _said: str = ""
    _transcript: Transcript | None = None
    """Where what was said is wanted."""
    _whose: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of the last runs and generations by id, whose they are: their engine requests may be told of after them."""

    def __post_init__(self) -> None:
        """Follow what is said, where it is wanted."""
        self._transcript = Transcript(self.tenant, self.thread) if self.content.wanted else None

    @property
    def open(self) -> bool:
        """Whether anything is under way."""
        return bool(self._runs or self._commands)

    def take(self, stored: StoredEvent) -> list[Span]:
        """Take the next event; one that was erased gives nothing.

        Raises:
            SchemaError: it cannot be read.
        """
        if codec.is_erased(stored.fact.payload):
            if self._transcript is not None:
                self._transcript.lose()
            return []
        return self._told(stored)

    def _told(self, stored: StoredEvent) -> list[Span]:
        fact, event = stored.fact, codec.event_of(stored.fact)
        if self._transcript is not None:
            self._transcript.take(fact, event)
        match event:
            case CommandAccepted(command=command):
                return self._accepted(command, stored.time)
            case CommandRefused(command=command, problem=problem):
                return [self._request(command, stored.time, problem.message)]
            case MessageAdded(message=message) if message.role == "user":
                self._said = message.content
                return []
            case MemoryWritten() | WorkingWritten() | Observed() | ThreadCreated() | ThreadRenamed() | ThreadDeleted():
                return self._remembered(event, stored)
            case _ if fact.kind in {"run", "generation"}:
                return self._run_event(event, stored)
            case _:
                return []

    def _accepted(self, command: Command, time: int) -> list[Span]:
        match command.data:
            case RunAgent(resource=resource):
                self._resource = resource or self._resource
            case Generate():
                pass
            case _:
                return [self._request(command, time)]
        self._commands[command.id] = command, time
        if len(self._whose) >= _MOST_REMEMBERED:
            del self._whose[next(iter(self._whose))]
        self._whose[command.id] = self._owner(command)
        return []

    def whose(self, effect: str) -> dict[str, str]:
        """Give the session and the user of a model call; it is named after its run, or after its generation."""
        found = effect
        while found not in self._whose and "-" in found:
            found = found.rpartition("-")[0]
        return self._whose.get(found) or self._owner(None)

    def _run_event(self, event: Event, stored: StoredEvent) -> list[Span]:
        fact = stored.fact
        if fact.entity not in self._runs and not isinstance(event, _OPENING):
            return []  # what is noted of a run that is over
        run = self._run_of(fact.kind, fact.entity, fact.traceparent)
        run.last = stored.time
        match event:
            case RunStarted(profile=profile):
                run.started(profile.agent, profile.model, stored.time)
            case ToolCalled(effect=effect, call=call) | ToolHandedOver(effect=effect, call=call):
                run.tool_called(effect, call, stored.time)
            case ModelCalled():
                return run.model_called(event, self._heard(event, fact.entity), stored.time)
            case ModelReturned() | ModelFailed():
                told = run.model_ended(event, stored.time)
                return told + (self._over(fact.entity, _problem(event)) if fact.kind == "generation" else [])
            case ToolReturned() | ToolFailed() | ToolIndeterminate() | ToolSuspended():
                return run.tool_ended(event, stored.time)
            case RunFinished() | RunFailed() | RunJoined():
                told = [] if isinstance(event, RunJoined) else run.ended(event, stored.time)
                return told + self._over(fact.entity, _problem(event))
            case _:
                run.noticed(fact.type, stored.time)
        return []

    def _heard(self, called: ModelCalled, run: str) -> Sequence[Message]:
        """Give what a model is asked with: the last that was said, where no more is known."""
        whole = () if self._transcript is None else self._transcript.input_of(called, run)
        return whole or (Message("user", self._said),)

    def _run_of(self, kind: str, entity: str, traceparent: str) -> OpenRun:
        """Find a run; of one whose command is elsewhere, as in a fork, the first event's trace is taken."""
        found = self._runs.get(entity)
        if found is None:
            command = self._commands[entity][0] if entity in self._commands else None
            about = self._about(command)
            context = trace_context(command.traceparent if command else traceparent, self.tenant, self.thread)
            parent = request_span(self.tenant, entity) if command else context.parent
            found = OpenRun(self.tenant, self.thread, kind, entity, context, parent, about, self.names, self.content)
            found.asked = self._said
            self._runs[entity] = found
        return found

    def _over(self, entity: str, problem: str) -> list[Span]:
        run = self._runs.pop(entity)
        found = self._commands.pop(entity, None)
        return [] if found is None else [self._request(found[0], run.last, problem, found[1])]

    def _request(self, command: Command, end: int, problem: str = "", accepted: int | None = None) -> Span:
        """Make a command's span; of one that was answered at once, what it ended with says when it came."""
        context = trace_context(command.traceparent, self.tenant, self.thread)
        own = request_span(self.tenant, command.id)
        parent = "" if context.parent == own else context.parent
        match command.data:
            case RunAgent(parent=above, agent=target) if above is not None:
                parent = span_id(self.tenant, above.thread, above.effect)
            case RunAgent(agent=target) | Generate(model=target):
                pass
            case _:
                target = command.kind
        start = end if accepted is None else accepted
        with suppress(ValueError):
            start = min(microseconds(command.time), start)
        about = {
            self.names.messaging_system: "nats",
            self.names.messaging_operation: "process",
            "ostinato.command": command.id,
            "ostinato.source": command.source,
        }
        if command.request_id:
            about["ostinato.request_id"] = command.request_id
        kind = "server" if command.source in {"http", "cli", "python"} else "consumer"
        return Span(
            trace=context.trace,
            span=own,
            parent=parent,
            name=f"{command.verb} {target}",
            start=start,
            end=end,
            kind="server" if kind == "server" else "consumer",
            attributes={**self._about(command), **about},
            problem=problem,
            sampled=context.sampled,
        )

    def _about(self, command: Command | None) -> dict[str, str]:
        return {**self._owner(command), "ostinato.tenant": self.tenant, "ostinato.thread": self.thread}

    def _owner(self, command: Command | None) -> dict[str, str]:
        """Say whose a command is: the user that its client names, else the person whose thread it is in."""
        data = None if command is None else command.data
        session = data.session_id if isinstance(data, Generate) else ""
        user = _user(data.note) if isinstance(data, Generate | RunAgent) else ""
        user = user or self._resource
        return {self.names.session: session or self.thread, **({self.names.user: user} if user else {})}

    def _remembered(self, event: _REMEMBERED, stored: StoredEvent) -> list[Span]:
        fact = stored.fact
        if isinstance(event, ThreadCreated):
            self._resource = event.resource or self._resource
        owner = next((run for run in self._runs.values() if fact.cause.startswith(run.entity)), None)
        context = trace_context(fact.traceparent, self.tenant, self.thread)
        parent = request_span(self.tenant, fact.cause)
        trace, sampled = context.trace, context.sampled
        if owner is not None:
            trace, sampled = owner.context.trace, owner.context.sampled
            # a command's id is its run's, and the cause of what it wrote itself; else it is an effect
            parent = owner.span if fact.cause == owner.entity else span_id(self.tenant, self.thread, fact.cause)
        operation, record, count = self._written(event, fact.type)
        about: dict[str, Any] = {self.names.operation: operation, "ostinato.memory": fact.type}
        told = {
            self.names.memory_store: self.thread,
            self.names.memory_record: record,
            self.names.memory_records: count,
        }
        about |= {name: value for name, value in told.items() if name and value}
        if isinstance(event, MemoryWritten):
            about["ostinato.memory.topic"] = event.topic
        return [
            Span(
                trace=trace,
                span=span_id(self.tenant, self.thread, f"{fact.kind} {fact.entity} {fact.version}"),
                parent=parent,
                name=f"{operation} {fact.type}",
                start=stored.time,
                end=stored.time,
                attributes={**self._about(None), **about},
                sampled=sampled,
            )
        ]

    def _written(self, event: _REMEMBERED, kind: str) -> tuple[str, str, int]:
        """Give the operation that a write is, what it is of, and of how many."""
        names = self.names
        operation = names.writes.get(kind, names.remember)
        match event:
            case MemoryWritten(topic=topic, text=text):
                return operation if text else names.forget or operation, topic, 1
            case WorkingWritten(content=content):
                return operation if content else names.forget or operation, "working", 1
            case Observed():
                return operation, "observation", 1
            case _:
                return operation, "", 0


def _user(note: Mapping[str, Any]) -> str:
    """Find the user in what a client says of itself; `safety_identifier` is what OpenAI calls the same now."""
    return next((user for name in ("user", "safety_identifier") if isinstance(user := note.get(name), str)), "")


def _problem(event: Event) -> str:
    return event.problem.message if isinstance(event, RunFailed | ModelFailed) else ""
