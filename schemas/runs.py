"""What happens in a thread: events of the thread and of its runs, tool calls and memory.

Events are past tense, carry values, and never change meaning: a changed shape gets a new class and tag, the old
one stays readable by `schemas.old`. Every event here has a golden file in `tests/golden/events`.
"""

from __future__ import annotations

from typing import Any, Literal

from schemas.answers import Alternative, AnswerFinish, Sampled, TokenTold
from schemas.batches import BatchEvent
from schemas.commands import Command
from schemas.delegation import ChildDisowned, ChildEnded, RunHandedOver, RunJoined
from schemas.forks import Change
from schemas.generation import Sampling
from schemas.hooks import HooksTold, Judgement, StepOpened, StepPrepared
from schemas.memory import (
    CondensingBegun,
    CondensingEnded,
    MemoryWrite,
    Observed,
    ThreadCreated,
    ThreadDeleted,
    ThreadErased,
    ThreadRenamed,
    WorkingWritten,
)
from schemas.messages import Message, Thought, ToolCall, Usage
from schemas.models import PassedOver
from schemas.processing import Processed
from schemas.profiles import Profile, ToolEffect
from schemas.pushes import PushEvent
from schemas.schedules import ScheduleEvent
from schemas.standing import StandingEvent
from schemas.tasks import TaskEvent
from schemas.waits import ToolContinued, ToolHandedOver, ToolSuspended
from schemas.wire import Wire

ErrorKind = Literal[
    "unknown_agent", "unknown_model", "unknown_thread", "invalid", "too_long", "overloaded", "engine", "max_steps",
    "aborted", "timeout", "tool", "definition", "key", "budget", "tripwire",
]  # fmt: skip
LOOKED_UP = frozenset({"unknown_agent", "unknown_model", "definition", "key", "overloaded"})
"""Kinds of problems that are found before a decision, where a command's agent is looked up, or room for it."""


class Problem(Wire, frozen=True):
    """Why something did not happen, for people and programs."""

    kind: ErrorKind
    message: str
    """Names the field or thing, and the mend."""
    field: str | None = None
    retry_after_ms: int = 0


class CommandAccepted(Wire, frozen=True, tag="command.accepted"):
    """A command was taken on; with it the log alone tells the story."""

    command: Command


class CommandRefused(Wire, frozen=True, tag="command.refused"):
    """A command was understood and turned down; nothing else came of it."""

    command: Command
    problem: Problem


class MessageAdded(Wire, frozen=True, tag="message.added"):
    """A message from outside (the user's, or history that a client brought) entered the thread."""

    message: Message


class RunQueued(Wire, frozen=True, tag="run.queued"):
    """The run waits until the thread's active run is over."""

    behind: str
    profile: Profile
    joins: bool = False
    """Whether what it says is taken along by that run before its next step, if there is one."""


class RunStarted(Wire, frozen=True, tag="run.started"):
    """A run of an agent began."""

    profile: Profile


class ModelCalled(Wire, frozen=True, tag="model.called"):
    """The intention to ask the model. Logged before the request leaves."""

    effect: str
    """Structural: `<run>-<step>-m`, and `<run>-<step>-m<attempt>` from the second attempt on."""
    model: str
    step: int
    seen: int
    """How many messages of the thread the model sees: a reference, not a copy."""
    prefix: str
    """Hash over those messages, chained, so that replay notices a history that differs."""
    sampling: Sampling
    traceparent: str = ""
    first: int = 0
    """The first of those messages that it is shown."""


class ModelReturned(Wire, frozen=True, tag="model.returned"):
    """The model's answer to the call with the same effect id."""

    effect: str
    text: str
    finish_reason: AnswerFinish
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    engine: str = ""
    logprobs: tuple[TokenTold, ...] = ()
    """What the model made of each token, where that was asked for."""
    prompt_logprobs: tuple[TokenTold, ...] = ()
    """And of each of the prompt."""
    token_ids: tuple[int, ...] = ()
    """The answer's tokens, where they were asked for."""
    prompt_token_ids: tuple[int, ...] = ()
    more: tuple[Alternative, ...] = ()
    """Other answers, where more than one was asked for."""
    reasoning: str = ""
    """What it thought before it answered."""
    sampled: Sampled | None = None
    """Its tokens, where an engine of ours drew them."""
    judged: tuple[Judgement, ...] = ()
    """What the agent's own functions say of calls that may need a person's agreement."""
    thoughts: tuple[Thought, ...] = ()
    """What its provider wants back of that."""
    passed_over: tuple[PassedOver, ...] = ()
    """Models of the chain that could not be had; `engine` is the one that answered."""
    processed: tuple[Processed, ...] = ()
    """What processors did on the way there and back."""
    cut_off: tuple[ToolCall, ...] = ()
    """Calls of an answer that ended before its end: nobody carries them out; the last may have half its arguments."""
    cost: float | None = None
    """Of all that the usage is of, US dollars; None where a price is not known."""
    worded: str = ""
    """What its provider said when it was to bind the answer to its form: that was asked for in words then."""
    stopped_at: str = ""
    """The stop text that ended it, where one did and that is known."""

    def alternatives(self) -> tuple[Alternative, ...]:
        """List all answers, the first one too."""
        told = (self.logprobs, self.token_ids, self.reasoning, self.sampled, self.cut_off, self.stopped_at)
        return (Alternative(self.text, self.finish_reason, self.tool_calls, *told), *self.more)


class ModelFailed(Wire, frozen=True, tag="model.failed"):
    """The model call came to nothing."""

    effect: str
    problem: Problem
    passed_over: tuple[PassedOver, ...] = ()
    """Models of the chain that could not be had; the problem is the last one's."""
    processed: tuple[Processed, ...] = ()
    usage: Usage = Usage()
    """What it took all the same, as far as that is known: an answer that was kept back, and what judged it."""
    cost: float | None = 0.0
    """Of that, US dollars; None where a price is not known."""


class RetryScheduled(Wire, frozen=True, tag="retry.scheduled"):
    """The model call came to nothing for a reason that may pass: the model is to be asked again, and not at once."""

    effect: str
    """Structural: `<run>-<step>-r<attempt>`; its result is `retry.due`."""
    attempt: int
    """2 for the first time again."""
    at: int
    """When, microseconds since the Unix epoch."""
    kind: ErrorKind
    """Of the problem."""
    decided: int
    """When that was decided, microseconds since the Unix epoch."""
    chance: int
    """What was drawn for the length of the wait: those that failed together are not to come again together."""


class RetryDue(Wire, frozen=True, tag="retry.due"):
    """The time to ask the model again has come; `model.called` follows."""

    effect: str


class ApprovalRequested(Wire, frozen=True, tag="approval.requested"):
    """The model wants a tool that needs a person's agreement: the call waits, for as long as it takes."""

    effect: str
    """Structural: `<run>-<step>-t<index>`, what the `tool.called` will have; an answer names it."""
    call: ToolCall


class ApprovalGiven(Wire, frozen=True, tag="approval.given"):
    """Somebody agreed; the call's `tool.called` follows."""

    effect: str
    by: str
    """Source of the command."""


class ApprovalDenied(Wire, frozen=True, tag="approval.denied"):
    """Somebody refused; the call's `tool.failed` follows."""

    effect: str
    by: str
    """Source of the command."""
    reason: str = ""


class ToolCalled(Wire, frozen=True, tag="tool.called"):
    """The intention to run a tool. Logged before the tool runs."""

    effect: str
    """Structural: `<run>-<step>-t<index>`; also the tool's idempotency key."""
    call: ToolCall
    effect_class: ToolEffect


class ToolResumed(Wire, frozen=True, tag="tool.resumed"):
    """The process in which the tool ran has ended; it is about to be run again, with the same key."""

    effect: str
    attempt: int
    """2 for the first time again."""


class DeadlinePassed(Wire, frozen=True, tag="deadline.passed"):
    """The time at which the run was to be over has come; `run.failed` follows."""

    effect: str
    """Structural: `<run>-d`."""


class ToolReturned(Wire, frozen=True, tag="tool.returned"):
    """The tool ran; `content` is what the model reads."""

    effect: str
    call_id: str
    content: str
    writes: tuple[MemoryWrite, ...] = ()
    result: Any = None
    """What it returned, where the model reads something else."""
    usage: Usage = Usage()
    """Of another agent's run that the call was."""
    processed: tuple[Processed, ...] = ()
    cost: float | None = 0.0
    """Of that run, US dollars; None where a price is not known."""
    handover: Profile | None = None
    """Who goes on from the next step, where the call hands the thread to another agent."""


NEEDS_PERSON = "needs a person's approval"
"""What the model is told of a tool that was not called because nobody could be asked."""


class ToolFailed(Wire, frozen=True, tag="tool.failed"):
    """The tool refused its arguments or raised; `content` is the error as the model reads it."""

    effect: str
    call_id: str
    content: str
    usage: Usage = Usage()
    """Of another agent's run that the call was."""
    cost: float | None = 0.0
    """Of that run, US dollars; None where a price is not known."""


class ToolIndeterminate(Wire, frozen=True, tag="tool.indeterminate"):
    """A `once` tool was begun by a process that died: nobody knows whether it took effect, and it is not run again."""

    effect: str
    call_id: str
    content: str


class MemoryWritten(Wire, frozen=True, tag="memory.written"):
    """The thread's memory holds `text` under `topic` from here on."""

    topic: str
    text: str


class RunFinished(Wire, frozen=True, tag="run.finished"):
    """The run's last word."""

    text: str
    steps: int
    usage: Usage
    finish_reason: Literal["stop", "length"] = "stop"
    stopped_by: str = ""
    """The stop condition that ended it; empty when the model had said all."""
    cost: float | None = None
    """Of all that the usage is of, US dollars; None where a price is not known."""


class RunFailed(Wire, frozen=True, tag="run.failed"):
    """The run ended without an answer."""

    problem: Problem
    steps: int
    usage: Usage = Usage()
    """What it took all the same."""
    cost: float | None = None
    """Of that, US dollars; None where a price is not known."""


class ThreadForked(Wire, frozen=True, tag="thread.forked"):
    """The events before this one happened in another thread; from here on this thread goes its own way.

    What was under way there is not under way here: calls that go on are called anew after this.
    """

    origin: str
    """The thread it was."""
    at: int
    """The number of its last event that was taken over."""
    changes: tuple[Change, ...] = ()
    """`model`, `prompt` and `seed` of the run from here on, or `message` or `tool_result` of the last event before."""
    run: str = ""
    """The run that goes on."""
    profile: Profile | None = None
    """What that run is from here on."""


class OwnershipTaken(Wire, frozen=True, tag="ownership.taken"):
    """A process became the owner of a shard; every older owner is fenced from here on."""

    owner: str
    process: str


Event = (
    CommandAccepted
    | CommandRefused
    | MessageAdded
    | RunQueued
    | RunStarted
    | ModelCalled
    | ModelReturned
    | ModelFailed
    | RetryScheduled
    | RetryDue
    | ApprovalRequested
    | ApprovalGiven
    | ApprovalDenied
    | ToolCalled
    | ToolResumed
    | ToolReturned
    | ToolFailed
    | ToolIndeterminate
    | ToolSuspended
    | ToolContinued
    | ToolHandedOver
    | StepOpened
    | StepPrepared
    | HooksTold
    | ThreadCreated
    | ThreadRenamed
    | ThreadDeleted
    | WorkingWritten
    | Observed
    | CondensingBegun
    | CondensingEnded
    | DeadlinePassed
    | MemoryWritten
    | RunFinished
    | RunFailed
    | ThreadForked
    | OwnershipTaken
    | RunJoined
    | RunHandedOver
    | ChildDisowned
    | ChildEnded
    | TaskEvent
    | ThreadErased
    | ScheduleEvent
    | BatchEvent
    | PushEvent
    | StandingEvent
)
"""Every event a log may hold."""

ToolResult = ToolReturned | ToolFailed | ToolIndeterminate
