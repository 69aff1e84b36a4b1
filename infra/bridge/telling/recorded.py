"""Runs as the record has them: which one a thread is at, and what it waits for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from bus import subjects
from bus.errors import BadSubject, BusError
from infra.access import behind
from infra.bridge.desk import Around
from infra.bridge.openai import BadRequest
from infra.bridge.telling.below import Heard, below, merged
from infra.bridge.telling.reader import RunReader
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.live import Committed
from schemas.runs import CommandAccepted, ToolCalled

T = TypeVar("T")

_LATE_S: Final = 5.0
"""How long the record may take to hold what clients have heard."""
_LONGEST_ID: Final = 200
_MOST_HEARD: Final = 4096


@dataclass(frozen=True)
class RecordedRun:
    """A run, and how far it is recorded."""

    command: Command
    events: tuple[Heard, ...]
    """Its own, and those of the runs of other agents that it has asked."""
    reader: RunReader


def thread_of(chat: str, param: str) -> str:
    """Name the thread of a client's conversation: its own name where a thread can have that, else a hash of it.

    Raises:
        BadRequest: it is none.
    """
    if not 0 < len(chat) <= _LONGEST_ID:
        raise BadRequest(400, f"{param}: 1 to {_LONGEST_ID} characters", param, "invalid_value")
    try:
        return subjects.checked(chat, param)
    except BadSubject:
        return f"chat-{codec.digest(chat.encode(errors='surrogatepass'))}"


def commands_in(events: Iterable[Committed]) -> list[Command]:
    """List the commands among a thread's events that led to runs, in order."""
    accepted = (event for event in events if event.type == "command.accepted")
    commands: list[Command] = [codec.decode(event.data, CommandAccepted).command for event in accepted]
    return [command for command in commands if isinstance(command.data, RunAgent)]


def noted_in(command: Command, name: str) -> tuple[str, ...]:
    """Give what a client's messages are called by it, as a command notes it under a protocol's name."""
    noted = command.data.note.get(name) if isinstance(command.data, RunAgent) else None
    return tuple(map(str, noted)) if isinstance(noted, list | tuple) else ()


class Record:
    """Threads as they are recorded. Whoever heard something here reads it too: until it is there, it is waited for."""

    def __init__(self, desk: Around) -> None:
        self._desk = desk
        self._heard: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        """By tenant and thread: the last run, and up to which version it was told."""

    def hear(self, command: Command, version: int) -> None:
        """Note that a run was told up to a version."""
        key = (command.tenant, command.thread)
        self._heard[key] = (command.id, version)
        self._heard.move_to_end(key)
        if len(self._heard) > _MOST_HEARD:
            self._heard.popitem(last=False)

    async def thread_events(self, tenant: str, thread: str) -> list[Committed]:
        """Read a thread's own events; none where it was deleted.

        Raises:
            BadRequest: the record cannot be asked.
        """
        run, _ = self._heard.get((tenant, thread), ("", 0))

        async def read() -> tuple[list[Committed], bool]:
            events = await self._asked(tenant, thread, "thread", thread)
            return events, not run or any(command.id == run for command in commands_in(events))

        events = await self._waited_for(read)
        return [] if any(event.type == "thread.deleted" for event in events) else events

    async def run_of(self, command: Command) -> RecordedRun:
        """Read the run that a command led to.

        Raises:
            BadRequest: the record cannot be asked.
        """
        run, version = self._heard.get((command.tenant, command.thread), ("", 0))

        async def read() -> tuple[RecordedRun, bool]:
            found = await self._run_of(command)
            return found, run != command.id or found.reader.version >= version

        return await self._waited_for(read)

    async def latest_run(self, tenant: str, thread: str) -> RecordedRun | None:
        """Read the run that a thread is at, or was at last.

        Raises:
            BadRequest: the record cannot be asked.
        """
        commands = commands_in(await self.thread_events(tenant, thread))
        return await self.run_of(commands[-1]) if commands else None

    async def waiting_run(self, tenant: str, thread: str, answered: Collection[str]) -> RecordedRun | None:
        """Read the run whose effects a client answers, else the one that a thread is at, once the record has them.

        Args:
            tenant: whose it is.
            thread: the thread.
            answered: effects, or ids of calls.

        Raises:
            BadRequest: the record cannot be asked.
        """

        async def read() -> tuple[RecordedRun | None, bool]:
            commands = commands_in(await self.thread_events(tenant, thread))
            named = [command for command in commands if any(one.startswith(f"{command.id}-") for one in answered)]
            found = await self.run_of((named or commands)[-1]) if commands else None
            waits = () if found is None else found.reader.waits
            answers = any(wait.effect in answered or wait.call.id in answered for wait in waits)
            return found, answers or (found is not None and found.reader.over)

        return await self._waited_for(read)

    async def _waited_for(self, read: Callable[[], Awaitable[tuple[T, bool]]]) -> T:
        """Read; where what is wanted is not there, once more when the record holds all that is in the log by now."""
        found, there = await read()
        if there:
            return found
        try:
            await behind(self._desk.connection, await self._desk.store(), _LATE_S)
        except (BusError, TimeoutError) as error:
            raise _unasked() from error
        return (await read())[0]

    async def _run_of(self, command: Command) -> RecordedRun:
        events = await self._asked(command.tenant, command.thread, "run", command.id)
        calls = [str(codec.decode(event.data, ToolCalled).effect) for event in events if event.type == "tool.called"]
        try:
            heard = merged(events, await below(self._desk, command.tenant, command.thread, calls))
        except BusError as error:
            raise _unasked() from error
        reader = RunReader()
        for one in heard:
            reader.feed(one)
        return RecordedRun(command, tuple(heard), reader)

    async def _asked(self, tenant: str, thread: str, kind: str, entity: str) -> list[Committed]:
        try:
            events = await self._desk.read_back(tenant, thread, kind, entity, 0)
        except (BusError, TimeoutError) as error:
            raise _unasked() from error
        return [event for event in events if not codec.is_erased(event.data)]


def _unasked() -> BadRequest:
    return BadRequest(503, "the record cannot be asked: try again", None, "unavailable")
