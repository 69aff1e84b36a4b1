"""A run as a program follows it: every frame once and in order, its calls of the program's own tools answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.agent.conversation import Conversation
from actors.agent.delegation import child_thread, is_delegated
from actors.agent.effects import CallTool, RunTask
from actors.agent.loop import ConversationMachine
from actors.agent.run import Pending
from actors.agent.task import Task
from actors.agent.wishes import waiting
from actors.errors import ActorError
from actors.partial import partial_value
from actors.runtime.context import SystemClock
from actors.runtime.machine import Emitted
from actors.tools import Suspend, Tool, ToolContext
from bus.store import StoredEvent
from infra.errors import SettlementRefused
from schemas import codec
from schemas.commands import Approve, Command, Deny, PostResult, Resume
from schemas.delegation import RunJoined
from schemas.errors import SchemaError
from schemas.live import Committed, Delta, Frame, Outcome, Progress
from schemas.messages import ToolCall
from schemas.runs import ApprovalRequested, Event, Problem, RunFailed, RunFinished, ToolCalled
from schemas.waits import ToolHandedOver, ToolSuspended

log = logging.getLogger(__name__)

Settling = Approve | Deny | Resume | PostResult


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that a run waits for somebody to say."""

    kind: Literal["approval", "data", "caller"]
    thread: str
    effect: str
    """What an answer names."""
    call: ToolCall
    payload: Any = None
    """What a suspended tool has to show."""
    schema: Mapping[str, Any] | None = None
    """Of the data that it wants."""
    problem: str = ""
    """Why the data that it was given last did not do."""

    def approve(self) -> Approve:
        """Agree to the call with these arguments."""
        return Approve(effect=self.effect, arguments=self.call.arguments)

    def deny(self, reason: str = "") -> Deny:
        """Refuse it; the model reads the reason."""
        return Deny(effect=self.effect, reason=reason)

    def resume(self, answer: Any) -> Resume:
        """Give a suspended tool its data."""
        return Resume(effect=self.effect, answer=answer)

    def result(self, content: str) -> PostResult:
        """Give the result of a call that the caller ran."""
        return PostResult(effect=self.effect, content=content)


class Running:
    """A run under way. Iterating hears of it from its beginning to its end, once."""

    def __init__(
        self,
        command: Command,
        frames: AsyncIterator[Frame],
        tools: Mapping[str, Tool],
        on_wait: Callable[[Waiting], Awaitable[Settling | None]] | None,
        settle: Callable[[str, Settling], Awaitable[None]],
    ) -> None:
        self.thread = command.thread
        self.run = command.id
        self.finished: RunFinished | None = None
        self.problem: Problem | None = None
        """Why there is no answer."""
        self.joined = ""
        """The run under way that took the message along, and answers it: with `when_busy="steer"`."""
        self._command = command
        self._frames = frames
        self._tools = tools
        self._on_wait = on_wait
        self._settle = settle
        self._calls: dict[str, ToolCall] = {}
        self._settling: set[asyncio.Task[None]] = set()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        try:
            async for frame in self._frames:
                self._note(frame)
                yield frame
        finally:
            for task in self._settling:
                task.cancel()

    async def texts(self) -> AsyncIterator[str]:
        """Yield what the model says, as it comes."""
        async for frame in self:
            if isinstance(frame, Delta) and frame.text:
                yield frame.text

    async def partials(self) -> AsyncIterator[Any]:
        """Yield what is certain of the JSON that the model writes, each time that there is more."""
        text, effect, last = "", "", None
        async for frame in self:
            if not isinstance(frame, Delta):
                continue
            text = frame.text if frame.effect != effect else text + frame.text
            effect = frame.effect
            value = partial_value(text)
            if value is not None and value != last:
                yield (last := value)

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, Outcome) and frame.problem is not None:
            self.problem = frame.problem
        if isinstance(frame, Progress) and (told := _from_below(frame.data)) is not None:
            self._ask_below(*told)
        if not isinstance(frame, Committed):
            return
        event = codec.decode_event(frame.data)
        match event:
            case RunFinished():
                self.finished = event
            case RunFailed(problem=problem):
                self.problem = problem
            case ToolCalled(effect=effect, call=call):
                self._calls[effect] = call
            case ApprovalRequested() | ToolSuspended() | ToolHandedOver():
                self._ask(self._waiting(self.thread, event))
            case RunJoined(into=into):
                self.joined = into
            case _:
                pass

    def _ask_below(self, thread: str, event: Event) -> None:
        """Ask for what another agent further down waits for."""
        match event:
            case ToolCalled(effect=effect, call=call):
                self._calls[effect] = call
            case ApprovalRequested() | ToolSuspended():
                self._ask(self._waiting(thread, event))
            case _:
                pass

    def _ask(self, waits: Waiting) -> None:
        task = asyncio.create_task(self._answer(waits))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _waiting(self, thread: str, event: Event) -> Waiting:
        match event:
            case ToolSuspended(effect=effect, payload=payload, schema=schema, problem=problem):
                # what another agent says further down is heard now or never: of its call, too
                call = self._calls.get(effect) or ToolCall("", "", "")
                return Waiting("data", thread, effect, call, payload, schema, problem)
            case ToolHandedOver(effect=effect, call=call):
                return Waiting("caller", thread, effect, call)
            case ApprovalRequested(effect=effect, call=call):
                return Waiting("approval", thread, effect, call)
            case _:
                raise AssertionError(f"nothing waits after {event!r}")

    async def _answer(self, waits: Waiting) -> None:
        tool = self._tools.get(waits.call.name) if waits.kind == "caller" else None
        if tool is not None:
            answer: Settling | None = await self._called(tool, waits)
        else:
            answer = None if self._on_wait is None else await self._on_wait(waits)
        if answer is None:
            return
        try:
            await self._settle(waits.thread, answer)
        except SettlementRefused as refusal:
            log.info("%s was settled by somebody else: %s", waits.effect, refusal)

    async def _called(self, tool: Tool, waits: Waiting) -> PostResult:
        """Run a function of this program."""
        command = self._command
        key = f"{command.tenant}/{self.thread}/{waits.effect}"
        context = ToolContext(command.tenant, self.thread, key, SystemClock().now(), {}, run=self.run)
        try:
            async with asyncio.timeout(tool.timeout_s):
                output = await tool.call(waits.call.arguments, context)
        except Suspend:
            return PostResult(effect=waits.effect, error="a tool of the caller's cannot be suspended")
        except ActorError as error:
            return PostResult(effect=waits.effect, error=str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a tool raises is the model's to read
            return PostResult(effect=waits.effect, error=str(error) or type(error).__name__)
        return PostResult(effect=waits.effect, content=output.content)


def _from_below(told: Any) -> tuple[str, Event] | None:
    """Read what another agent's run says of itself; a tool may say anything, also under the same names."""
    if not isinstance(told, dict) or not isinstance(thread := told.get("thread"), str):
        return None
    try:
        return thread, codec.decode_event(codec.encode(told.get("event")))
    except SchemaError:
        return None


def folded(tenant: str, thread: str, events: Sequence[StoredEvent]) -> Conversation:
    """Fold a thread's events."""
    machine = ConversationMachine()
    state = machine.initial(tenant, thread)
    if any(codec.is_erased(stored.fact.payload) for stored in events):
        return state  # whatever went on there, nothing is left of it
    for stored in events:
        if stored.fact.kind in {"thread", "run"}:
            state = machine.evolve(state, Emitted(stored.fact.kind, stored.fact.entity, codec.event_of(stored.fact)))
    return state


def tasks_of(state: Conversation) -> tuple[Task, ...]:
    """List a thread's tool calls that go on in the background."""
    return tuple(task for task in state.tasks.values() if not task.ended)


def waits_of(state: Conversation) -> tuple[Waiting, ...]:
    """List what a thread's active run waits for."""
    return tuple(_waits(state.thread, item) for item in waiting(state))


def children_of(state: Conversation) -> tuple[str, ...]:
    """Name the threads of other agents' runs that a thread waits for."""
    machine = ConversationMachine()
    effects = (effect.call if isinstance(effect, RunTask) else effect for effect in machine.open_effects(state))
    calls = (effect.id for effect in effects if isinstance(effect, CallTool) and is_delegated(effect))
    return tuple(child_thread(state.tenant, state.thread, call) for call in calls)


def _waits(thread: str, item: Pending) -> Waiting:
    assert item.waits is not None
    if item.waits == "data" and item.asked is not None:
        asked = item.asked
        return Waiting("data", thread, asked.effect, item.call, asked.payload, asked.schema, asked.problem)
    return Waiting(item.waits, thread, item.effect, item.call)
