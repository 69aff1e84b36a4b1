"""The form of a processor: hooks that do nothing unless a processor says otherwise.

What a processor changes of a prompt, the model alone sees: the thread keeps what was said. What it changes of an answer
or of a tool's result is all that there is: watchers, the log and the thread get what it left of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall
from schemas.messages import Message, ToolSpec, Usage
from schemas.processing import Action, Hook, Processed
from schemas.runs import Problem

_REASON = 500
"""Characters of a reason that are kept."""


class Judge(Protocol):
    """Asks a model."""

    def __call__(self, who: str, prompt: str, most: int = ..., /, *, model: str = ...) -> Awaitable[str]:
        """Ask for who it is that asks, for at most so many tokens; give the answer. Empty is the agent's own model."""


class Tripped(Exception):
    """A processor stops the run, or has the model answer again.

    The message is told to whoever asked, and with `again` to the model: it must not hold the text that was found.
    """

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.processor: Processor | None = None
        """Who says so, where that is not plain."""

    @property
    def told(self) -> str:
        """The reason, as the log can hold it."""
        return _plain(self.reason)


@dataclass(slots=True)
class About:
    """What a processor may know of the call, and where it notes what it did."""

    call: ModelCall | None
    """None for a tool's result."""
    judge: Judge | None = None
    used: Usage = field(default_factory=Usage)
    """What judging took; of an answer that was kept back, that too."""
    paid: float | None = 0.0
    """US dollars; None where a price is not known."""
    library: Any = None
    """What was said before, searched: `actors.processors.recall.Library`. None where there is no record."""
    resource: str = ""
    """Whose thread it is."""
    done: list[Processed] = field(default_factory=list)
    took: dict[tuple[str, Hook], float] = field(default_factory=dict)
    """Seconds that each processor's hook took."""

    @contextmanager
    def timing(self, processor: Processor, hook: Hook) -> Iterator[None]:
        """Note how long a hook takes."""
        began = time.monotonic()
        try:
            yield
        finally:
            key = (processor.name, hook)
            self.took[key] = self.took.get(key, 0.0) + time.monotonic() - began

    def told(self) -> tuple[Processed, ...]:
        """Give all that was done, and how long each hook took: also where nothing was to be done."""
        left = {key: round(1e6 * took) for key, took in self.took.items()}
        done = [replace(one, took_us=left.pop((one.processor, one.hook), 0)) for one in self.done]
        passed = (Processed(name, hook, "passed", took_us=took) for (name, hook), took in left.items())
        return (*done, *passed)

    def searched(self, processor: Processor, places: Sequence[str]) -> None:
        """Note that memory was searched for the prompt, and where what was found stands in the log."""
        for place in dict.fromkeys(places):
            self.done.append(Processed(processor.name, "prompt", "noticed", 1, _plain(place), memory=True))
        if not places:
            self.done.append(Processed(processor.name, "prompt", "passed", memory=True))

    def note(self, processor: Processor, hook: Hook, action: Action, found: int = 0, reason: str = "") -> None:
        """Note that something was done; more of the same is added up."""
        reason = _plain(reason)
        for at, there in enumerate(self.done):
            if (there.processor, there.hook, there.action, there.reason) == (processor.name, hook, action, reason):
                self.done[at] = Processed(processor.name, hook, action, there.found + found, reason)
                return
        self.done.append(Processed(processor.name, hook, action, found, reason))


def _plain(reason: str) -> str:
    return reason[:_REASON].encode("utf-8", "replace").decode()


class Stream(Protocol):
    """One answer's text on its way out. It gives on what can no longer be part of anything that it looks for."""

    def feed(self, text: str) -> str:
        """Take more text; return what may go on."""

    def end(self) -> str:
        """Return what is left."""


class Processor:
    """Override the hooks that are wanted; each may raise `Tripped`."""

    name: str = "processor"
    holds: bool = False
    """Whether an answer is kept from its watchers until it is whole and was looked at."""

    timeout_s: float = 300.0
    """How long a hook may take, the models that it asks included; what takes longer stops the call. 0 is for ever."""

    everywhere: bool = False
    """Whether it goes around calls that are no turns, too: where a history is condensed."""

    def has(self, hook: Hook) -> bool:
        """Say whether it does anything in a hook."""
        return getattr(type(self), hook) is not getattr(Processor, hook)

    async def input(self, messages: Sequence[Message], about: About) -> None:
        """Look at what came in, once in a run."""

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Change what the model sees, at each step. The same messages must become the same, or no prefix is cached."""
        return messages

    def tools_shown(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> Sequence[ToolSpec]:
        """Choose which of the tools the model is told of, at each step."""
        return tools

    def stream(self, about: About) -> Stream | None:
        """Give what the answer's text goes through as it comes; None where it is of no interest."""
        return None

    async def answer(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        """Look at a step's answer; may change its text only if the processor `holds`."""
        return answer

    async def result(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        """Look at the last answer of a run, which wants no tool; as `answer`."""
        return answer

    async def tool_result(self, tool: str, content: str, about: About) -> str:
        """Change what a tool returned, before it is written down."""
        return content

    async def error(self, problem: Problem, about: About) -> Problem:
        """Tell a failure of the model in other words."""
        return problem
