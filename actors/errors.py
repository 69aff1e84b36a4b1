"""What goes wrong in actors.

ActorError
├── DefinitionError    an agent or tool is written wrongly; raised where it is defined
├── BadArguments       the model's arguments do not fit a tool; the model reads the message
├── BadResult          what a tool returned is not what it promises; the model reads the message
├── ContextMissing     a request came without what an agent's function needs to know
├── ToolError          a tool that runs elsewhere answered that it cannot; the model reads the message
├── NoService          a tool's NATS service is not there, or says nothing of itself
│   └── InDoubt        a tool's server went away, or does not answer, in the course of a call
├── PageRefused        a page of the web must not, or cannot, be read; the model reads the message
├── Undecidable        a command that cannot be decided here: it goes to the dead letters
├── NoThreadLeft       a function that is not async hangs in all of the threads that it may have
├── NotNow             a thread is in the record alone, which cannot be read now: the command comes again
├── CallFailed         a model call came to nothing; carries the `Problem`
│   └── ProviderFailed  of a provider elsewhere; knows whether another one may do better
└── Divergence         today's code decides otherwise than the record says
    └── Unreadable     the record holds what this code cannot read
"""

from __future__ import annotations

from schemas.messages import Usage
from schemas.processing import Processed
from schemas.runs import Problem


class ActorError(Exception):
    """The root of what actors raise."""


class DefinitionError(ActorError):
    """An agent or tool cannot be made as written."""


class BadArguments(ActorError):
    """A tool call's arguments do not fit its parameters."""


class BadResult(ActorError):
    """A tool returned something else than its annotation says."""


class ContextMissing(ActorError):
    """A value of the request's context is missing or of another type."""


class ToolError(ActorError):
    """A tool that is a service answered with an error."""


class NoService(ActorError):
    """Nobody serves a tool, or it does not say how it is called."""


class InDoubt(NoService):
    """Nobody knows whether a tool that runs elsewhere took effect."""


class PageRefused(ActorError):
    """A page of the web is not read."""


class Undecidable(ActorError):
    """A command cannot be decided here; the message tells its sender why."""


class NotConnected(ActorError):
    """An agent was to run, and there is no stack around that would."""


class NoThreadLeft(ActorError):
    """All threads that a tool's or an agent's functions may have are kept by calls that are over."""


class NotNow(ActorError):
    """What is needed cannot be read now; it may be asked for again."""


class CallFailed(ActorError):
    """A model call came to nothing."""

    def __init__(self, problem: Problem, processed: tuple[Processed, ...] = ()) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.usage = Usage()
        """What it took all the same."""
        self.cost: float | None = 0.0
        self.processed = processed
        """What processors did on the way."""


class ProviderFailed(CallFailed):
    """A provider elsewhere did not answer; `elsewhere` says whether another one may."""

    def __init__(self, problem: Problem, elsewhere: bool) -> None:
        super().__init__(problem)
        self.elsewhere = elsewhere


class Divergence(ActorError):
    """The record and a re-run of its decisions differ."""

    def __init__(self, place: str, event: str, expected: str, actual: str) -> None:
        super().__init__(f"{place}: {event}: the record says {actual}, the code decides {expected}")
        self.place = place
        self.event = event
        self.expected = expected
        self.actual = actual


class Unreadable(Divergence):
    """An event of the record cannot be read by this code: damaged, or written by newer code."""
