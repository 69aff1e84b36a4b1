"""Goals of threads, for Python programs: set, looked at, paused, gone on with and cleared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from actors.agent.definition import Agent
from actors.agent.standing import Goal, Standing
from bus import subjects
from bus.store import Store
from infra.fitting import checked
from infra.running import folded
from schemas.commands import CommandData
from schemas.context import Ids
from schemas.standing import ClearGoal, PauseGoal, ResumeGoal, SetGoal


@dataclass(frozen=True, slots=True)
class Goals:
    """The goals of one tenant's threads."""

    send: Callable[[str, CommandData], Awaitable[None]]
    """Sends a thread something, and raises what it is refused with."""
    store: Callable[[], Awaitable[Store]]
    tenant: str
    ids: Ids

    async def set(self, agent: Agent | str, text: str, *, thread: str | None = None, **about: Any) -> str:
        """Have an agent go on by itself until a goal is reached; return the thread's name.

        Args:
            agent: one that the stack serves, or its name.
            text: what is to be reached.
            thread: where; a new one unless given.
            about: any other field of `schemas.standing.SetGoal`, such as `budget` (50 runs) or `context`.

        Raises:
            ThreadUnfit: a field has a value that it cannot have.
            SettlementRefused: the thread has a goal, or the agent cannot run; carries the `Problem`.
        """
        name = self.ids.new("t") if thread is None else subjects.checked(thread, "thread")
        whom = agent if isinstance(agent, str) else agent.name
        await self.send(name, checked(SetGoal(whom, text, **about)))
        return name

    async def get(self, thread: str) -> Goal | None:
        """Tell how a thread's goal stands, as far as is recorded."""
        return (await standing_of(await self.store(), self.tenant, thread)).goal

    async def pause(self, thread: str, reason: str = "") -> None:
        """Have no further run begin; one that is under way goes on.

        Raises:
            SettlementRefused: there is no goal, or it does not go on; carries the `Problem`.
        """
        await self.send(thread, PauseGoal(reason))

    async def resume(self, thread: str, budget: int | None = None) -> None:
        """Go on, with another budget of runs in all where one is given.

        Raises:
            ThreadUnfit: that is no budget.
            SettlementRefused: there is no goal that rests, or its budget is used up; carries the `Problem`.
        """
        await self.send(thread, checked(ResumeGoal(budget)))

    async def clear(self, thread: str) -> None:
        """Have no goal any more; a run that is under way goes on.

        Raises:
            SettlementRefused: there is none; carries the `Problem`.
        """
        await self.send(thread, ClearGoal())


async def standing_of(store: Store, tenant: str, thread: str) -> Standing:
    """Tell what stands in a thread, as far as is recorded."""
    return folded(tenant, thread, await store.events_of_thread(tenant, thread)).standing
