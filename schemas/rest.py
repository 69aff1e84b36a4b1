"""The REST API of agents: what is asked over HTTP, and what is told. Times are microseconds since the Unix epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.commands import (
    MaxSteps,
    MaxTokens,
    Milliseconds,
    Penalty,
    Repetition,
    Seed,
    Share,
    StopText,
    Temperature,
    TopK,
    TopP,
)
from schemas.memory import Metadata, Resource, Title
from schemas.messages import MOST_TOOLS, Effort, Message, ToolChoice, ToolSpec, Usage
from schemas.profiles import ToolEffect, ToolPlace
from schemas.recollections import Recalled, ThreadTold, UnindexedTold
from schemas.runs import Problem
from schemas.schedules import Schedule
from schemas.standing import ModeName
from schemas.structured import Structured
from schemas.wire import Wire

_Few = Annotated[int, msgspec.Meta(ge=1, le=200)]
Many = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_Moment = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]

RunStatus = Literal["queued", "running", "waiting", "finished", "failed", "aborted", "joined"]


class ToolOffered(Wire, frozen=True):
    """A tool that agents may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """A JSON Schema."""
    effect: ToolEffect
    place: ToolPlace = "here"
    approval: bool = False
    """Whether a person may have to agree to a call."""
    background: bool = False
    agents: tuple[str, ...] = ()
    """Whose it is."""


class AgentOffered(Wire, frozen=True):
    """An agent that can be asked."""

    name: str
    description: str = ""
    """What it is for. Its instructions are told to nobody."""
    model: str | None = None
    """None where a function gives it for each request; so with tools and processors."""
    tools: tuple[ToolOffered, ...] | None = ()
    processors: tuple[str, ...] | None = ()
    memory: bool = False
    """Whether it may keep more in mind than what was said."""
    max_steps: int = 0
    open_to: tuple[str, ...] = ()
    """What requests may say in its place, and besides."""


class Agents(Wire, frozen=True):
    """All that can be asked."""

    data: tuple[AgentOffered, ...]


class Tools(Wire, frozen=True):
    """All tools whose agents name them for every request."""

    data: tuple[ToolOffered, ...]


class NewThread(Wire, frozen=True, forbid_unknown_fields=True):
    """A thread to begin before anything is said in it."""

    thread: str = ""
    """Its id; a new one is made unless it is given."""
    resource: Resource = ""
    title: Title = ""
    metadata: Metadata = msgspec.field(default_factory=dict)


class ThreadNamed(Wire, frozen=True):
    """A thread that there is now."""

    thread: str


class ChangedThread(Wire, frozen=True, forbid_unknown_fields=True):
    """What of a thread is to be otherwise."""

    title: Title | None = None
    """None leaves it."""
    metadata: Annotated[Mapping[str, str | None], msgspec.Meta(max_length=64)] = {}
    """None takes a key away."""


class ForkedThread(Wire, frozen=True, forbid_unknown_fields=True):
    """A thread to begin with the history of another."""

    at: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The number of the last event that is taken over; all are, unless it is given."""
    thread: str = ""
    """The new one's id."""


class ThreadsQuery(Wire, frozen=True):
    """Which threads."""

    resource: str | None = None
    text: str = ""
    """In the title, in any case."""
    before: _Moment | None = None
    """Last active before this time: where the page before ended."""
    limit: _Few = 20


class Threads(Wire, frozen=True):
    """A page of threads, those with the latest events first."""

    data: tuple[ThreadTold, ...]
    before: int | None = None
    """What gives the next page; None after the last one."""


class MessagesQuery(Wire, frozen=True):
    """Which messages."""

    first: _Count = 0
    limit: Many = 100
    last: Many | None = None
    """The last so many, in place of those."""


class StartRun(Wire, frozen=True, forbid_unknown_fields=True):
    """An agent to be asked."""

    agent: str
    text: str | None = None
    """The message; or give `messages`."""
    messages: tuple[Message, ...] = ()
    """History and the message."""
    stream: bool = False
    """Tell of the run as server-sent events."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0
    """Answer when the run is over, or after so long."""
    timeout_s: Seconds | None = None
    """When the run ends, answered or not."""
    context: Mapping[str, Any] = {}
    """What the agent's functions and tools may know of the request."""
    approvals: Literal["ask", "refuse"] = "ask"
    """What a tool that needs approval meets: a wait, or a refusal."""
    when_busy: Literal["queue", "replace", "steer"] = "queue"
    """What becomes of a run that is under way in the thread."""
    instructions: str | None = None
    """In place of the agent's own; so are those that follow."""
    model: str | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None
    max_steps: MaxSteps | None = None
    active_tools: tuple[str, ...] | None = None
    tool_choice: ToolChoice | None = None
    tool: str = ""
    parallel_tool_calls: bool | None = None
    tool_concurrency: MaxSteps | None = None
    step_timeout_ms: Milliseconds | None = None
    most_tokens: Milliseconds | None = None
    most_cost: Annotated[float, msgspec.Meta(ge=0)] | None = None
    tools: Annotated[tuple[ToolSpec, ...], msgspec.Meta(max_length=MOST_TOOLS)] = ()
    """Tools that the caller runs."""
    structured: Structured | None = None
    """What the last answer is to look like."""
    processors: tuple[str, ...] | None = None
    resource: Resource = ""
    """The person or project whose thread it is."""
    system: str = ""
    """What is instructed behind the agent's own instructions, which must be open to it."""
    top_p: TopP | None = None
    """How tokens are drawn, where the agent is open to `sampling`; so are those that follow."""
    top_k: TopK | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    stop: tuple[StopText, ...] = ()
    """Texts that end an answer of the model."""
    reasoning_effort: Effort | None = None
    """Of the model, where the agent is open to it."""
    mode: ModeName | None = None
    """The thread's mode from here on."""


class RunShown(Wire, frozen=True, omit_defaults=False):
    """A run, as far as it is recorded."""

    run: str
    thread: str
    agent: str
    status: RunStatus
    text: str = ""
    """The answer."""
    finish_reason: str = ""
    stopped_by: str = ""
    """The stop condition that ended it."""
    problem: Problem | None = None
    """Why there is no answer."""
    joined: str = ""
    """The run under way that took the message along."""
    steps: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    """US dollars; None where a price is not known."""
    events: int = 0
    """How many there are: the id of the last."""
    started: str | None = None
    """RFC 3339."""
    ended: str | None = None


class ThreadUsage(Wire, frozen=True, omit_defaults=False):
    """What a thread's runs took that are over, with those of other agents that they asked, and its goals' judges."""

    thread: str
    runs: int
    usage: Usage
    cost: float | None
    """US dollars, of what has a price that is known; None where nothing has."""
    unpriced: int
    """Runs, and times that a goal was judged, whose price is not known."""


class RunLine(Wire, frozen=True):
    """A run in a list."""

    run: str
    thread: str
    agent: str
    model: str
    status: str
    asked: int
    finished: int | None
    prompt_tokens: int
    completion_tokens: int


class RunsQuery(Wire, frozen=True):
    """Which runs."""

    thread: str | None = None
    agent: str | None = None
    status: str | None = None
    before: _Moment | None = None
    """Asked for before this time: where the page before ended."""
    limit: _Few = 20


class Runs(Wire, frozen=True):
    """A page of runs, the latest first."""

    data: tuple[RunLine, ...]
    before: int | None = None


class Cancelling(Wire, frozen=True, forbid_unknown_fields=True):
    """Why something is ended."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Approving(Wire, frozen=True, forbid_unknown_fields=True):
    """What is agreed to."""

    arguments: str
    """The call's arguments exactly as they were shown."""
    always: bool = False
    """Whether to further calls of the tool in this thread, too; refused where its rule lets nobody."""


class Resuming(Wire, frozen=True, forbid_unknown_fields=True):
    """What a suspended tool waits for."""

    answer: Any


class Resulting(Wire, frozen=True, forbid_unknown_fields=True):
    """The result of a tool that the caller ran."""

    content: str = ""
    error: str = ""
    """Why the call came to nothing."""


class Done(Wire, frozen=True, omit_defaults=False):
    """It is so now."""

    ok: Literal[True] = True


class WorkingMemory(Wire, frozen=True, omit_defaults=False):
    """What is kept in mind."""

    content: str
    """Empty before anything was written."""


class Writing(Wire, frozen=True, forbid_unknown_fields=True):
    """What is to be kept in mind."""

    content: Annotated[str, msgspec.Meta(max_length=16_384)]
    merge: bool = False
    """Whether `content` is a JSON object to be merged into what is there (RFC 7396)."""


class Recollections(Wire, frozen=True):
    """What was said that is near to a text."""

    data: tuple[Recalled, ...]


class UnindexedTexts(Wire, frozen=True, omit_defaults=False):
    """What was said and recall cannot find, the latest first."""

    data: tuple[UnindexedTold, ...]


class ScheduleShown(Wire, frozen=True, omit_defaults=False):
    """A schedule, and how it stands."""

    id: str
    schedule: Schedule
    status: str
    """`active`, `paused` or `over`."""
    next: int | None
    """When it fires next."""
    fired: int
    """How often it has."""
    last: int | None


class Schedules(Wire, frozen=True):
    """All of them, those that are due next first."""

    data: tuple[ScheduleShown, ...]
