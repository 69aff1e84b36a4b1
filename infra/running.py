"""A run as a program follows it: every frame once and in order, its calls of the program's own tools answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

from actors.agent.conversation import Conversation
from actors.agent.delegation import child_thread, is_delegated
from actors.agent.effects import CallTool, RunTask
from actors.agent.loop import ConversationMachine
from actors.agent.progress import Reporter
from actors.agent.run import Pending
from actors.agent.task import Task
from actors.agent.wishes import waiting
from actors.errors import ActorError
from actors.partial import partial_value
from actors.request_context import RequestContext
from actors.runtime.context import SystemClock
from actors.runtime.machine import Effect, Emitted
from actors.runtime.performer import Site
from actors.tools import Suspend, Tool, ToolContext
from bus.live import Live
from bus.store import StoredEvent
from infra.answers import Answer, typed
from infra.errors import Joined, NoAnswer, SettlementRefused
from schemas import codec
from schemas.commands import Approve, Command, Deny, PostResult, Resume, RunAgent
from schemas.delegation import RunJoined
from schemas.errors import SchemaError
from schemas.live import Committed, Delta, Frame, Outcome, Progress
from schemas.messages import ToolCall
from schemas.runs import ApprovalRequested, Event, ModelReturned, Problem, RunFailed, RunFinished, ToolCalled
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
    agent: str = ""
    """Whose run it is; empty where that is not known."""

    def approve(self, *, always: bool = False) -> Approve:
        """Agree to the call with these arguments; `always` to further ones of the tool in the thread, too."""
        return Approve(effect=self.effect, arguments=self.call.arguments, always=always)

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
        live: Live | None = None,
        output_type: Any = None,
    ) -> None:
        """Make it.

        Args:
            command: the run's.
            frames: what is heard of it.
            tools: functions of this program that the model may call, by their names.
            on_wait: answers what it waits for.
            settle: sends an answer to the thread that waits for it.
            live: tells the run's watchers how far those functions are; nobody, unless given.
            output_type: what the last answer is to be.
        """
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
        self._live = live
        self._output_type = output_type
        self._thought = ""
        self._version = 0
        self._failure: BaseException | None = None
        """What an answer to something that the run waits for failed with."""
        self._calls: dict[str, ToolCall] = {}
        self._settling: set[asyncio.Task[None]] = set()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Yield every frame; what `on_wait` raises comes out of here at once, and what it was asked goes on waiting."""
        coming: asyncio.Task[Frame | None] | None = None
        try:
            while True:
                if self._settling:
                    coming = asyncio.create_task(self._next())
                    await self._answering(coming)
                frame = await (self._next() if coming is None else coming)
                coming = None
                self._fail()
                if frame is None:
                    return
                self._note(frame)
                yield frame
        finally:
            for task in self._settling:
                task.cancel()
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if isinstance(self._frames, AsyncGenerator):
                await self._frames.aclose()

    async def _next(self) -> Frame | None:
        return await anext(self._frames, None)

    async def _answering(self, coming: asyncio.Task[Frame | None]) -> None:
        """Wait for the next frame for as long as something is being answered."""
        while self._settling and not coming.done():
            await asyncio.wait({coming, *self._settling}, return_when=asyncio.FIRST_COMPLETED)
            self._fail()

    def _fail(self) -> None:
        if self._failure is not None:
            raise self._failure

    def answer(self) -> Answer:
        """Give what the run came to, once all of it was heard.

        Raises:
            Joined: another run took the message along, and answers it.
            NoAnswer: it was refused or failed, or its answer is not of the type that was asked for.
        """
        if self.problem is not None:
            raise NoAnswer(self.problem)
        if self.joined:
            raise Joined(self.thread, self.joined)
        finished = self.finished
        if finished is None:
            raise NoAnswer(Problem(kind="engine", message="nobody listened until the end of the run"))
        told = (finished.usage, finished.steps, finished.cost, finished.stopped_by)
        answer = Answer(finished.text, self.thread, self.run, *told, reasoning=self._thought)
        return typed(answer, self._output_type, finished)

    async def texts(self) -> AsyncIterator[str]:
        """Yield what the model says, as it comes."""
        async for frame in self:
            if isinstance(frame, Delta) and frame.text:
                yield frame.text

    async def reasoning(self) -> AsyncIterator[str]:
        """Yield what the model thinks, as it comes."""
        async for frame in self:
            if isinstance(frame, Delta) and frame.reasoning:
                yield frame.reasoning

    async def partials(self) -> AsyncIterator[Any]:
        """Yield what is certain of the JSON that the model writes, each time that there is more.

        Where a type was asked for, the last one is the whole answer as that type.

        Raises:
            NoAnswer: a type was asked for, and the run's answer is none of it.
        """
        text, effect, last = "", "", None
        async for frame in self:
            if not isinstance(frame, Delta):
                continue
            text = frame.text if frame.effect != effect else text + frame.text
            effect = frame.effect
            value = partial_value(text)
            if value is not None and value != last:
                yield (last := value)
        if self._output_type is not None:
            yield self.answer().output

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, Outcome) and frame.problem is not None:
            self.problem = frame.problem
        if isinstance(frame, Progress) and (told := _from_below(frame.data)) is not None:
            self._ask_below(*told, str(frame.data.get("agent", "")))
        if not isinstance(frame, Committed):
            return
        self._version = frame.version
        event = codec.decode_event(frame.data)
        match event:
            case RunFinished():
                self.finished = event
            case RunFailed(problem=problem):
                self.problem = problem
            case ToolCalled(effect=effect, call=call):
                self._calls[effect] = call
            case ModelReturned(reasoning=reasoning):
                self._thought = reasoning
            case ApprovalRequested() | ToolSuspended() | ToolHandedOver():
                data = self._command.data
                self._ask(self._waiting(self.thread, event, data.agent if isinstance(data, RunAgent) else ""))
            case RunJoined(into=into):
                self.joined = into
            case _:
                pass

    def _ask_below(self, thread: str, event: Event, agent: str) -> None:
        """Ask for what another agent further down waits for."""
        match event:
            case ToolCalled(effect=effect, call=call):
                self._calls[effect] = call
            case ApprovalRequested() | ToolSuspended() | ToolHandedOver():
                self._ask(self._waiting(thread, event, agent))
            case _:
                pass

    def _ask(self, waits: Waiting) -> None:
        task = asyncio.create_task(self._answer(waits))
        self._settling.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    def _waiting(self, thread: str, event: Event, agent: str) -> Waiting:
        match event:
            case ToolSuspended(effect=effect, payload=payload, schema=schema, problem=problem):
                # what another agent says further down is heard now or never: of its call, too
                call = self._calls.get(effect) or ToolCall("", "", "")
                return Waiting("data", thread, effect, call, payload, schema, problem, agent)
            case ToolHandedOver(effect=effect, call=call):
                return Waiting("caller", thread, effect, call, agent=agent)
            case ApprovalRequested(effect=effect, call=call):
                return Waiting("approval", thread, effect, call, agent=agent)
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
        try:
            async with AsyncExitStack() as stack:
                context = await self._context(waits, stack)
                async with asyncio.timeout(tool.timeout_s):
                    output = await tool.call(waits.call.arguments, context)
        except Suspend:
            return PostResult(effect=waits.effect, error="a tool of the caller's cannot be suspended")
        except ActorError as error:
            return PostResult(effect=waits.effect, error=str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a tool raises is the model's to read
            return PostResult(effect=waits.effect, error=str(error) or type(error).__name__)
        return PostResult(effect=waits.effect, content=output.content)

    async def _context(self, waits: Waiting, stack: AsyncExitStack) -> ToolContext:
        """Give what a function of this program may know: what it says of itself is told to the run's watchers."""
        command, run = self._command, waits.effect.rsplit("-", 2)[0]
        data, key = command.data, f"{command.tenant}/{waits.thread}/{waits.effect}"
        context = ToolContext(command.tenant, waits.thread, key, SystemClock().now(), {}, run=run, agent=waits.agent)
        if isinstance(data, RunAgent):
            context.request = RequestContext(data.context)
        if self._live is not None:
            effect = Effect(waits.effect, "run", run, command.traceparent)
            reporter = Reporter(self._live, effect, Site(command.tenant, waits.thread, self._version))
            context.report = (await stack.enter_async_context(reporter)).tell
        return context


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
    own = [stored for stored in events if stored.fact.kind in {"thread", "run"}]
    if any(codec.is_erased(stored.fact.payload) for stored in own):
        return state  # whatever went on there, nothing is left of it
    for stored in own:
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
