"""Who does in the world what machines decide: one per kind of thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from actors.runtime.machine import Asked, Effect
from schemas.commands import Command
from schemas.runs import Event


class Performer(Protocol):
    """Does effects in the world, and looks up what commands name."""

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """Find the agent or model a command names in a thread that stands like that; it waits meanwhile."""

    def resumption(self, effect: Effect) -> Event | None:
        """Say what is logged before an effect of an earlier owner is done again; None where nothing is."""

    def must_finish(self, effect: Effect) -> bool:
        """Say whether an effect goes on in this process alone: cut off, nobody knows what became of it."""

    async def abort(self, effect: Effect, site: Site) -> None:
        """Stop what an effect began elsewhere: nobody waits for its result any more; its task here is cancelled."""

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Do it and return its result event; never raises but for a lost bus.

        Args:
            effect: what to do.
            site: where it happens.
            again: whether an earlier owner may have begun it already.
        """


@dataclass(frozen=True, slots=True)
class Site:
    """Where an effect happens."""

    tenant: str
    thread: str
    version: int
    """The entity's version at the effect's intention."""
    seal: str | None = None
    """The key that what is said there is sealed with; None where it is not."""
