"""What a request may change of an agent: tighten its bounds, and what its author opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from schemas.commands import RunAgent

Open = Literal["instructions", "processors", "max_steps", "most_tokens", "most_cost", "step_timeout_ms"]
"""Fields of a request that would lift what guards an agent."""
OPEN: Final[Sequence[Open]] = (
    "instructions",
    "processors",
    "max_steps",
    "most_tokens",
    "most_cost",
    "step_timeout_ms",
)


def lifted(command: RunAgent, opened: Sequence[str], bounds: Mapping[str, Any], processors: Sequence[str]) -> str:
    """Say what a request lifts that its agent has not opened; empty where there is nothing.

    Args:
        command: what is asked.
        opened: what the agent has opened.
        bounds: its own, by field; 0 is none.
        processors: names of its own.
    """
    return next((name for name in _lifts(command, bounds, processors) if name not in opened), "")


def loosened(command: RunAgent, bounds: Mapping[str, Any]) -> Iterator[str]:
    """Name the bounds of an agent that a request wants looser, or gone."""
    for name, bound in bounds.items():
        wanted = getattr(command, name)
        if bound and wanted is not None and (wanted > bound or not wanted):
            yield name


def _lifts(command: RunAgent, bounds: Mapping[str, Any], processors: Sequence[str]) -> Iterator[str]:
    if command.instructions is not None:
        yield "instructions"
    if command.processors is not None and not set(processors) <= set(command.processors):
        yield "processors"
    yield from loosened(command, bounds)
