"""An agent's own functions around a run: what they are told, what they may change, and how they are called.

What they say is recorded (`step.prepared`), so that replay needs none of them. Observers change nothing; each is called
at least once, and again where a crash leaves it open whether it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from actors.agent.around_tools import AfterTool, BeforeTool
from actors.agent.effects import PrepareStep, TellEnd
from actors.agent.run import Run
from actors.blocking import called
from actors.models.aside import Ask, Asker
from actors.request_context import RequestContext
from schemas.faults import fault
from schemas.hooks import HooksTold, StepPrepared
from schemas.messages import Calling, Message, ToolCall, Usage
from schemas.runs import Problem, RunFailed, RunFinished

log = logging.getLogger(__name__)

HOOK_S = 30.0
"""How long one function may take."""
LONGEST_WHY = 1_000
"""Characters of what they say of it that are kept."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call of the step that is over, and what the model reads of it."""

    call: ToolCall
    result: str
    returned: bool
    """Whether the tool said that, or it is why there is nothing from it."""


@dataclass(frozen=True, slots=True)
class StepView:
    """Where a run stands before a step."""

    run: str
    agent: str
    thread: str
    step: int
    """The model call that is to come, from 1: of a run's last step, the one that does not come any more."""
    messages: Sequence[Message]
    """The thread so far."""
    text: str
    """What the model said last in this run."""
    calls: Sequence[Called]
    """Of the step before."""
    usage: Usage
    """Of the run so far."""
    cost: float | None
    """Of that, US dollars; None where a price is not known."""
    context: RequestContext
    notes: dict[str, str]
    """The thread's memory."""
    model: str = ""
    """That made the step before; empty before the first."""
    ask: Ask | None = None
    """Asks a model beside the run, which counts what that takes; not before `on_step`."""


@dataclass(frozen=True, slots=True)
class StepChanges:
    """How one step differs from what the agent is; None leaves it."""

    model: str | None = None
    instructions: str | None = None
    active_tools: Sequence[str] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    calling: Calling | None = None
    """Which tools may or must be called."""
    why: str = ""
    """What the record says of it."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended."""

    run: str
    agent: str
    thread: str
    text: str
    """Empty where it failed."""
    problem: Problem | None
    steps: int
    usage: Usage
    cost: float | None
    """Of that, US dollars; None where a price is not known."""
    stopped_by: str
    context: RequestContext


Prepare = Callable[[StepView], StepChanges | Awaitable[StepChanges | None] | None]
StopWhen = Callable[[StepView], bool | Awaitable[bool]]
OnStep = Callable[[StepView], Any]
OnEnd = Callable[[RunEnd], Any]


@dataclass(frozen=True, slots=True)
class Hooks:
    """The functions of one agent."""

    prepare_step: Prepare | None = None
    stop_when: tuple[StopWhen, ...] = ()
    on_step: OnStep | None = None
    on_finish: OnEnd | None = None
    on_error: OnEnd | None = None
    before_tool: BeforeTool | None = None
    after_tool: AfterTool | None = None

    @property
    def prepares(self) -> bool:
        """Whether there is something to call before each step."""
        return self.prepare_step is not None or bool(self.stop_when) or self.on_step is not None

    @property
    def observes(self) -> bool:
        """Whether there is something to call at the end."""
        return self.on_step is not None or self.on_finish is not None or self.on_error is not None


async def prepared(hooks: Hooks, effect: PrepareStep, thread: str, asker: Asker | None = None) -> StepPrepared:
    """Tell the observer of the step before, ask whether the run goes on, and how; count what that asks a model."""
    found = await _prepared(hooks, effect, thread, asker)
    if asker is None:
        return found
    await asker.abort()  # what a function asked that has failed, or took too long
    return msgspec.structs.replace(found, usage=asker.used, cost=asker.paid, engines=asker.by)


async def _prepared(hooks: Hooks, effect: PrepareStep, thread: str, asker: Asker | None) -> StepPrepared:
    view = _view(effect, thread)
    if hooks.on_step is not None and view.step > 1:
        await _observed(hooks.on_step, view)
    view = replace(view, ask=asker)
    try:
        for condition in hooks.stop_when if view.step > 1 else ():
            if await called_hook(view.agent, condition, view):
                return StepPrepared(effect=effect.id, stop=getattr(condition, "__name__", "stop_when"))
        changes = None if hooks.prepare_step is None else await called_hook(view.agent, hooks.prepare_step, view)
        return _recorded(effect.id, changes or StepChanges())
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the author's function raises ends this run alone
        log.warning("a hook of agent %r failed: %s", view.agent, fault(error))
        why = f"before step {view.step} a function of agent {view.agent!r} failed: {reason_of(error)}"
        return StepPrepared(effect=effect.id, failure=why)


async def told(hooks: Hooks, effect: TellEnd, thread: str) -> HooksTold:
    """Tell the observers of a run's end."""
    end = _end(effect.run, effect.ended, thread, RequestContext(effect.context))
    if hooks.on_step is not None and _has_untold_step(effect):
        await _observed(hooks.on_step, replace(_view(effect, thread), text=end.text))
    observer = hooks.on_finish if end.problem is None else hooks.on_error
    if observer is not None:
        await _observed(observer, end)
    return HooksTold(effect=effect.id)


def _has_untold_step(effect: TellEnd) -> bool:
    """Say whether a run's last step was made, and its observer was not asked about the one after it."""
    stopped = effect.run.prepared is not None and effect.run.prepared.stop
    return isinstance(effect.ended, RunFinished) and not stopped


def _view(effect: PrepareStep | TellEnd, thread: str) -> StepView:
    run = effect.run
    return StepView(
        run=run.id,
        agent=run.profile.agent,
        thread=thread,
        step=effect.step,
        messages=effect.messages,
        text="" if run.answer is None else run.answer.text,
        calls=tuple(Called(item.call, item.result or "", item.returned) for item in run.pending),
        usage=run.usage,
        cost=run.cost,
        context=RequestContext(effect.context),
        notes=effect.notes,
        model=run.asked_model,
    )


def _end(run: Run, ended: RunFinished | RunFailed, thread: str, context: RequestContext) -> RunEnd:
    finished = ended if isinstance(ended, RunFinished) else None
    return RunEnd(
        run=run.id,
        agent=run.profile.agent,
        thread=thread,
        text="" if finished is None else finished.text,
        problem=ended.problem if isinstance(ended, RunFailed) else None,
        steps=ended.steps,
        usage=run.usage,
        cost=run.cost,
        stopped_by="" if finished is None else finished.stopped_by,
        context=context,
    )


def _recorded(effect: str, changes: StepChanges) -> StepPrepared:
    """Make the record of what was changed.

    Raises:
        TypeError: something else than changes was returned.
    """
    if not isinstance(changes, StepChanges):
        raise TypeError(f"prepare_step returned {changes!r}: return StepChanges, or None")
    active = changes.active_tools
    return StepPrepared(
        effect=effect,
        model=changes.model,
        instructions=changes.instructions,
        active_tools=None if active is None else tuple(active),
        temperature=changes.temperature,
        max_tokens=changes.max_tokens,
        calling=changes.calling,
        why=changes.why[:LONGEST_WHY].encode("utf-8", "replace").decode(),
    )


async def _observed(observer: Callable[[Any], Any], view: Any) -> None:
    """Call what changes nothing; nor does its failure."""
    try:
        await called_hook(view.agent, observer, view)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a run does not depend on who watches it
        log.warning("an observer of agent %r failed: %s", view.agent, fault(error))


async def called_hook(agent: str, function: Callable[[Any], Any], view: Any) -> Any:
    """Call a function of an agent's, for as long as one may take.

    Raises:
        TimeoutError: it takes longer.
        NoThreadLeft: calls that are over still run in all threads that the agent's functions may have.
    """
    async with asyncio.timeout(HOOK_S):
        return await called(f"a function of agent {agent!r}", function, view)


def reason_of(error: BaseException) -> str:
    """Say why a function of the author's came to nothing."""
    if isinstance(error, TimeoutError):
        return f"it took longer than {HOOK_S:g} s"
    return f"{type(error).__name__}: {error}"
