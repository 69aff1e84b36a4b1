"""A decision in the making: its events, each folded at once, and its effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.agent.conversation import Conversation, evolve
from actors.runtime.machine import Decision, Effect, Emitted
from schemas.commands import Parent, RunAgent
from schemas.runs import Event


class Folding:
    """Collects events, folding each at once so that the next sees it."""

    def __init__(self, state: Conversation) -> None:
        self.state = state
        self.events: list[Emitted] = []
        self.effects: list[Effect] = []

    def emit(self, kind: str, entity: str, event: Event) -> None:
        """Add an event."""
        emitted = Emitted(kind, entity, event)
        self.events.append(emitted)
        self.state = evolve(self.state, emitted)

    def decision(self) -> Decision:
        """Give what was collected."""
        return Decision(self.events, self.effects)


def parent_of(state: Conversation, name: str) -> Parent | None:
    """Give the call of another run that a run is, if it is one."""
    data = state.commands[name].data
    return data.parent if isinstance(data, RunAgent) else None


def context_of(state: Conversation, name: str) -> Mapping[str, Any]:
    """Give the context of the request that a run was asked for with."""
    data = state.commands[name].data
    return data.context if isinstance(data, RunAgent) else {}
