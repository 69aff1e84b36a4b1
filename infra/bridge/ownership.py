"""Whose a thread is, for callers who are one person: a thread of somebody else's is not there for them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from infra.bridge.callers import caller_of
from infra.bridge.desk import Around
from infra.bridge.late import lately
from infra.bridge.openai import BadRequest
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.memory import ThreadCreated


async def keep_to_own(around: Around, request: Request, thread: str, field: str = "thread") -> None:
    """See that a thread is one of whoever asks, where that is one person.

    Raises:
        BadRequest: it is not, or is not there: 404.
        BusError: the record cannot be reached.
    """
    caller = caller_of(request)
    if not caller.resource:
        return

    async def look() -> str | None:
        return await _owner(around, caller.tenant, thread)

    if await lately(around, look) != caller.resource:
        raise _unknown(thread, field)


async def keep_out_of_others(around: Around, request: Request, thread: str, field: str = "thread") -> None:
    """As `keep_to_own`, of a thread that may be new: the log takes nothing of one in what is another's by then.

    Raises:
        BadRequest: it is somebody else's, or nobody's: 404.
        BusError: the record cannot be reached.
    """
    caller = caller_of(request)
    if caller.resource and await _owner(around, caller.tenant, thread) not in {None, caller.resource}:
        raise _unknown(thread, field)


async def keep_commands_to_own(around: Around, request: Request, commands: Sequence[Command]) -> None:
    """As `keep_to_own`, of the threads that agents are to go on with.

    Raises:
        BadRequest: one is not the caller's, or is not there: 404.
        BusError: the record cannot be reached.
    """
    for command in commands:
        if isinstance(command.data, RunAgent) and command.data.thread == "existing":
            await keep_to_own(around, request, command.thread)


async def _owner(around: Around, tenant: str, thread: str) -> str | None:
    """Say whose a thread is, as far as is recorded: empty is nobody's, None one that is not there."""
    owner: str | None = None
    for event in await around.read_back(tenant, thread, "thread", thread, 0):
        if event.type == "command.refused":
            continue  # who was refused something in a thread has not begun it
        owner = owner or ""
        if event.type == "thread.created" and not codec.is_erased(event.data):
            owner = codec.decode(event.data, ThreadCreated).resource
    return owner


def _unknown(thread: str, field: str) -> BadRequest:
    return BadRequest(404, f"{field} {thread[:100]!r}: there is none", field, "thread_not_found")
