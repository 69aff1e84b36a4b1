"""Threads of a running stack, for Python programs: begun, renamed, copied, ended; and what is kept in mind of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from actors.agent.standing import Standing
from bus import subjects
from bus.store import Store
from infra.errors import NothingRecorded
from infra.fitting import checked
from infra.forking import plan
from infra.goals import standing_of
from schemas.commands import CommandData
from schemas.context import Ids
from schemas.memory import CreateThread, DeleteThread, Remember, RenameThread
from schemas.standing import GrantTool, SetMode, WithdrawGrant


@dataclass(frozen=True, slots=True)
class Threads:
    """The threads of one tenant."""

    send: Callable[[str, CommandData], Awaitable[None]]
    """Sends a thread something, and raises what it is refused with."""
    store: Callable[[], Awaitable[Store]]
    tenant: str
    ids: Ids

    async def create(
        self,
        thread: str | None = None,
        *,
        resource: str = "",
        title: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Begin a thread before anything is said in it; return its name.

        Args:
            thread: its name; a new one unless given.
            resource: the person or project that it belongs to.
            title: what it is called.
            metadata: notes.

        Raises:
            ThreadUnfit: a field has a value that it cannot have.
            SettlementRefused: there is such a thread; carries the `Problem`.
        """
        name = self.ids.new("t") if thread is None else subjects.checked(thread, "thread")
        await self.send(name, checked(CreateThread(resource, title, dict(metadata or {}))))
        return name

    async def rename(
        self, thread: str, title: str | None = None, metadata: Mapping[str, str | None] | None = None
    ) -> None:
        """Give a thread another title or other notes; what is None stays, and a note that is None goes.

        Raises:
            ThreadUnfit: a field has a value that it cannot have.
            SettlementRefused: there is no such thread; carries the `Problem`.
        """
        await self.send(thread, checked(RenameThread(title, dict(metadata or {}))))

    async def remember(self, thread: str, content: str, *, merge: bool = False) -> None:
        """Put something into a thread's working memory: in place of it, or as a JSON object to be merged into it.

        Raises:
            ThreadUnfit: it is too long.
            SettlementRefused: there is no such thread, or nothing to merge into; carries the `Problem`.
        """
        await self.send(thread, checked(Remember(content, merge)))

    async def clone(self, thread: str, at: int | None = None, into: str | None = None) -> str:
        """Begin a thread with all that is recorded of another, or the events up to one; return its name.

        A run that was under way there goes on in it.

        Raises:
            NothingRecorded: there is no such thread.
            ForkUnfit: it was deleted, or that is no place to go on from.
            SettlementRefused: there is a thread of the new name; carries the `Problem`.
        """
        events = await (await self.store()).events_of_thread(self.tenant, thread)
        if all(event.fact.type == "command.refused" for event in events):
            raise NothingRecorded(thread)
        name = self.ids.new("t") if into is None else subjects.checked(into, "into")
        await self.send(name, plan(thread, events, at or len(events), {}).fork)
        return name

    async def mode(self, thread: str, mode: str) -> None:
        """Have the thread's agent be in one of its modes, from its next step on.

        Raises:
            ThreadUnfit: no mode is named like that.
            SettlementRefused: none of the agents that ran there has it; carries the `Problem`.
        """
        await self.send(thread, checked(SetMode(mode)))

    async def grant(self, thread: str, tool: str) -> None:
        """Agree beforehand to calls of tools that `Permitted` asks about; `*` in the name stands for anything.

        Raises:
            ThreadUnfit: no tool is named like that.
            SettlementRefused: there is no such thread; carries the `Problem`.
        """
        await self.send(thread, checked(GrantTool(tool)))

    async def withdraw(self, thread: str, tool: str) -> None:
        """Be asked again.

        Raises:
            SettlementRefused: that was not granted; carries the `Problem`.
        """
        await self.send(thread, checked(WithdrawGrant(tool)))

    async def standing(self, thread: str) -> Standing:
        """Tell the thread's mode, grants and goal, as far as is recorded."""
        return await standing_of(await self.store(), self.tenant, thread)

    async def delete(self, thread: str, reason: str = "") -> None:
        """End a thread for good: what was said in it can be read nowhere any more.

        Raises:
            SettlementRefused: there is no such thread; carries the `Problem`.
        """
        await self.send(thread, DeleteThread(reason))
