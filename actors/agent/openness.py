"""What a request may change of an agent: tighten its bounds, and what its author opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from schemas.commands import RunAgent

Open = Literal[
    "instructions",
    "processors",
    "max_steps",
    "most_tokens",
    "most_cost",
    "step_timeout_ms",
    "system",
    "sampling",
    "reasoning_effort",
]
"""Fields of a request that would lift what guards an agent, or say how its model is asked; `sampling` is several."""
OPEN: Final[Sequence[Open]] = get_args(Open)

SAMPLING: Final = (
    *("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    "stop",
)
"""The fields that `sampling` opens."""
_ASKING: Final = ("system", *SAMPLING, "reasoning_effort")


def lifted(command: RunAgent, opened: Sequence[str], bounds: Mapping[str, Any], processors: Sequence[str]) -> str:
    """Say what a request lifts that its agent has not opened; empty where there is nothing.

    Args:
        command: what is asked.
        opened: what the agent has opened.
        bounds: its own, by field; 0 is none.
        processors: names of its own.
    """
    return next((name for name in _lifts(command, bounds, processors) if opener(name) not in opened), "")


def opener(field: str) -> str:
    """Name what an agent opens for a field of a request to be heeded."""
    return "sampling" if field in SAMPLING else field


def loosened(command: RunAgent, bounds: Mapping[str, Any]) -> Iterator[str]:
    """Name the bounds of an agent that a request wants looser, or gone."""
    for name, bound in bounds.items():
        wanted = getattr(command, name)
        if bound and wanted is not None and (wanted > bound or not wanted):
            yield name


def unheard(opened: Sequence[str]) -> dict[str, Any]:
    """Give the fields that say how a model is asked and are not opened, each with what says nothing."""
    return {name: _NOTHING[name] for name in _ASKING if opener(name) not in opened}


_NOTHING: Final = {name: getattr(RunAgent(agent=""), name) for name in _ASKING}


def _lifts(command: RunAgent, bounds: Mapping[str, Any], processors: Sequence[str]) -> Iterator[str]:
    if command.instructions is not None:
        yield "instructions"
    if command.processors is not None and not set(processors) <= set(command.processors):
        yield "processors"
    yield from loosened(command, bounds)
    yield from (name for name in _ASKING if getattr(command, name) != _NOTHING[name])
