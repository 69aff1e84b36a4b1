"""An API key's life: issued once, revoked once, which is all there is to fold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from actors.runtime.performer import Site
from schemas.commands import Command
from schemas.context import Context
from schemas.keys import IssueKey, RevokeKey
from schemas.runs import CommandAccepted, CommandRefused, Event, Problem

KIND = "key"


class Key(msgspec.Struct, frozen=True):
    """One key's state: what was taken on of it says everything."""

    tenant: str
    id: str
    issued: IssueKey | None = None
    time: str = ""
    """When it was issued."""
    revoked: RevokeKey | None = None
    revoked_at: str = ""
    decided: Mapping[str, Answer] = {}
    """What each command was told."""


class KeyMachine:
    """The `Machine` of keys. Facts are the accepted commands themselves: nothing is added to what they say."""

    def shape(self) -> type[Key]:
        """Return the state's type."""
        return Key

    def initial(self, tenant: str, thread: str) -> Key:
        """Return a key that nobody has issued yet."""
        return Key(tenant, thread)

    def evolve(self, state: Key, emitted: Emitted) -> Key:
        """Fold one fact."""
        match emitted.event:
            case CommandAccepted(command=Command(id=id_, data=IssueKey() as data, time=time)):
                return replace(state, issued=data, time=time, decided={**state.decided, id_: "accepted"})
            case CommandAccepted(command=Command(id=id_, data=RevokeKey() as data, time=time)):
                return replace(state, revoked=data, revoked_at=time, decided={**state.decided, id_: "accepted"})
            case CommandRefused(command=command, problem=problem):
                return replace(state, decided={**state.decided, command.id: problem})
            case _:
                return state

    def answered(self, state: Key, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        return state.decided.get(command)

    def ask(self, state: Key, asked: Asked, context: Context) -> Decision:
        """Issue or revoke it, or say why not."""
        command = asked.command
        problem = _unfit(state, command)
        event = CommandAccepted(command) if problem is None else CommandRefused(command, problem)
        return Decision([Emitted(KIND, state.id, event)], [])

    def follow(self, state: Key, result: Emitted, context: Context) -> Decision:
        """Nothing follows: a key has no effects."""
        return Decision([], [])

    def open_effects(self, state: Key) -> Sequence[Effect]:
        """List none."""
        return []


def _unfit(state: Key, command: Command) -> Problem | None:
    if isinstance(command.data, IssueKey):
        if state.issued is not None or state.revoked is not None:
            return Problem(kind="invalid", message=f"key {state.id!r} exists: use a fresh id", field="id")
        return None
    if state.issued is None:
        message = f"tenant {state.tenant!r} has no key {state.id!r}: `ostinato keys list` shows them"
        return Problem(kind="invalid", message=message, field="id")
    if state.revoked is not None:
        return Problem(kind="invalid", message=f"key {state.id!r} is revoked already", field="id")
    return None


class KeyPerformer:
    """The `Performer` of keys, which asks for nothing."""

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """Give the command as it is: it names nothing."""
        return Asked(command)

    def resumption(self, effect: Effect) -> Event | None:
        """Note nothing."""
        return None

    def must_finish(self, effect: Effect) -> bool:
        """Say no."""
        return False

    async def abort(self, effect: Effect, site: Site) -> None:
        """Stop nothing."""

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Never happens."""
        raise AssertionError(f"a key has no effect {effect!r}")
