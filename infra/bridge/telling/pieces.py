"""What there is to tell of a run, one piece after another: what begins is closed before anything else begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from infra.running import Waiting
from schemas.memory import MemoryWrite
from schemas.messages import ToolCall, Usage
from schemas.runs import Problem

Kind = Literal["text", "reasoning"]


@dataclass(frozen=True, slots=True)
class RunBegan:
    """The run is there: queued or under way."""


@dataclass(frozen=True, slots=True)
class StepBegan:
    """The model is asked."""

    number: int


@dataclass(frozen=True, slots=True)
class StepReset:
    """What was told of the step does not count: the model is asked again."""


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The step is over: all its calls are settled or wait for the client."""

    number: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The model begins to say or think something."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class Grew:
    """It says more."""

    kind: Kind
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """It has said all of it."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class CallOpened:
    """The model begins to call a tool."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallGrew:
    """It writes more of the arguments."""

    id: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallWhole:
    """The call is as the model wants it."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Waits:
    """A call waits for somebody."""

    wait: Waiting


@dataclass(frozen=True, slots=True)
class Answered:
    """Somebody agreed to a call, or refused it."""

    effect: str
    approved: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """A call has come to its end."""

    call_id: str
    effect: str
    outcome: Literal["returned", "failed", "denied"]
    content: str
    """What the model reads."""
    result: Any = None
    """What the tool returned, where the model reads something else."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """A tool says something of itself: heard now or never."""

    call_id: str
    effect: str
    number: int
    data: Any


@dataclass(frozen=True, slots=True)
class Remembered:
    """A tool changed what the thread keeps in mind."""

    write: MemoryWrite


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing happens until its client answers: the last piece for now."""

    waits: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The run's end."""

    text: str
    reason: Literal["stop", "length"]
    usage: Usage
    steps: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The run's end, without an answer."""

    problem: Problem
    usage: Usage


Piece = (
    RunBegan
    | StepBegan
    | StepReset
    | StepEnded
    | Opened
    | Grew
    | Closed
    | CallOpened
    | CallGrew
    | CallWhole
    | Waits
    | Answered
    | Settled
    | Progressed
    | Remembered
    | Paused
    | Finished
    | Failed
)
