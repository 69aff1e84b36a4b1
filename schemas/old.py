"""Shapes that events once had, and what they are today. The codec reads them; nothing writes them.

A shape that changes by more than a field with a default leaves its class here, with a golden file of its bytes in
`tests/golden/old`. What is stored is never written again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from schemas.generation import Sampling
from schemas.profiles import Profile, ToolBinding
from schemas.runs import Event, RunStarted
from schemas.wire import Wire


class RunStarted0(Wire, frozen=True, tag="run.started"):
    """Before runs had profiles: the agent stood in the event, and of its tools only the names."""

    agent: str
    model: str
    instructions: str
    tools: tuple[str, ...]
    sampling: Sampling
    max_steps: int


class Upcast(NamedTuple):
    """An old shape, and how it is told today."""

    shape: type[Any]
    today: Callable[[Any], Event]


def _run_started(old: RunStarted0) -> RunStarted:
    # nobody wrote down what the tools' effects were: they are taken for such that must not happen twice
    tools = tuple(ToolBinding(name=name, effect="once", digest="") for name in old.tools)
    profile = Profile(
        agent=old.agent,
        model=old.model,
        instructions=old.instructions,
        tools=tools,
        sampling=old.sampling,
        max_steps=old.max_steps,
    )
    return RunStarted(profile=profile)


UPCASTS = (Upcast(RunStarted0, _run_started),)
