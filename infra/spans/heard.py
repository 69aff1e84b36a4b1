"""What a model call was asked with: a thread is folded as its owner folds it, so that it is the input it was. Pure."""

from __future__ import annotations

import logging
from typing import Any

from actors.agent.conversation import Conversation
from actors.agent.turns import call_model
from actors.machines import MACHINES
from actors.runtime.cells import FAMILY
from actors.runtime.machine import Emitted
from schemas.commands import Generate
from schemas.envelope import Fact
from schemas.messages import Message
from schemas.runs import Event, ModelCalled

log = logging.getLogger(__name__)

_ASKING = frozenset({"agent", "generation"})
"""Families of threads that ask models."""


class Transcript:
    """Follows one thread, or one generation."""

    def __init__(self, tenant: str, thread: str) -> None:
        self._about = tenant, thread
        self._state: Any = None
        self._family = ""
        self._lost = False

    def lose(self) -> None:
        """Something of it cannot be read: what is said after that is not known whole."""
        self._state, self._lost = None, True

    def take(self, fact: Fact, event: Event) -> None:
        """Take the next event."""
        family = FAMILY.get(fact.kind, "")
        if family not in _ASKING or self._lost:
            return
        machine = MACHINES[family]
        if self._family != family:
            self._family, self._state = family, machine.initial(*self._about)
        try:
            self._state = machine.evolve(self._state, Emitted(fact.kind, fact.entity, event))
        except Exception as error:  # noqa: BLE001  a thread that cannot be followed is no reason to tell no spans
            log.warning("thread %r is told of without its input: %s", self._about[1], error)
            self.lose()

    def input_of(self, called: ModelCalled, run: str) -> tuple[Message, ...]:
        """Give the messages that a call which was just taken is asked with; none where they are not known.

        What processors make of them on the way is not in the log.
        """
        if isinstance(self._state, Conversation):
            if run not in self._state.runs:
                return ()
            call = call_model(self._state, self._state.runs[run], called)
            instructions = call.profile.instructions
            return (*([Message("system", instructions)] if instructions else []), *call.messages)
        data = None if self._state is None or self._state.command is None else self._state.command.data
        if not isinstance(data, Generate):
            return ()
        return (Message("user", data.prompt),) if isinstance(data.prompt, str) else data.messages
