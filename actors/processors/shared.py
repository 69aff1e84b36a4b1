"""Working memory that all threads of a resource share: a thread of its own holds it, in events like all others.

It is read from the record when a run first asks its model, and shown the same for all of that run; the record of the
call says which write it was. A write is a command to that thread, and waited for until it is recorded, so that whoever
asks next, in whatever thread, is shown it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from actors.memory.indexing import Opening
from actors.memory.prompt import working_block
from actors.models.provider import ModelCall
from actors.processors.processor import About, Processor
from bus.errors import BusError
from bus.store import Store, StoredEvent, read_events
from schemas import codec
from schemas.commands import Command, CommandData
from schemas.errors import SchemaError
from schemas.faults import fault
from schemas.memory import CreateThread, MemoryWrite, Remember, Working, WorkingWritten
from schemas.messages import Message

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.02
_RECORDED_S: Final = 2.0
"""How long a write may take to be recorded before its tool goes on all the same."""
_KEPT = 256
"""Runs for which it is kept what they are shown."""
Send = Callable[[Command], Awaitable[None]]
"""Sends a command; it is durable when that returns."""


def shared_thread(tenant: str, resource: str) -> str:
    """Name the thread that holds a resource's working memory."""
    return "w" + blake2b(f"{tenant}\0{resource}".encode("utf-8", "replace"), digest_size=12).hexdigest()


async def shared_working(store: Store, tenant: str, resource: str) -> StoredEvent | None:
    """Read what was written last into a resource's working memory; None before that, or once it is deleted.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    found = await read_events(store, await store.rows(_LAST, tenant, shared_thread(tenant, resource)))
    return found[0] if found and found[0].fact.type == "working.written" else None


def content_of(stored: StoredEvent | None) -> str:
    """Give what a write says; empty where there is none that can be read."""
    if stored is None:
        return ""
    try:
        event = codec.event_of(stored.fact)
    except SchemaError:
        return ""
    return event.content if isinstance(event, WorkingWritten) else ""


class SharedMemories:
    """Reads and writes what threads share."""

    def __init__(self, opened: Opening, send: Send) -> None:
        self._opened = opened
        self._send = send
        self._shown: dict[str, tuple[str, str]] = {}

    async def shown(self, call: ModelCall, resource: str, working: Working) -> tuple[str, str]:
        """Give what a run is shown, and where it stands in the log: the same at each of its steps.

        Raises:
            BusError: the record cannot be read.
        """
        run = f"{call.tenant}/{call.thread}/{call.effect.rpartition('-m')[0].rpartition('-')[0]}"
        if run not in self._shown:
            stored = await shared_working(await self._opened(), call.tenant, resource)
            place = "" if stored is None else f"{stored.fact.thread} {stored.sequence}/{stored.idx}"
            while len(self._shown) >= _KEPT:
                del self._shown[next(iter(self._shown))]
            self._shown[run] = (working_block(content_of(stored), working), place)
        return self._shown[run]

    async def write(self, tenant: str, resource: str, effect: str, writes: Sequence[MemoryWrite]) -> None:
        """Write what a tool call says; once, however often it is asked for.

        Raises:
            BusError: the command cannot be sent.
            TimeoutError: no acknowledgement.
        """
        thread = shared_thread(tenant, resource)
        kept = [write for write in writes if write.scope in {"working", "merge"}]
        if not kept:
            return
        before = await self._recorded(tenant, thread)
        # refused where it is there already
        await self._tell(f"{thread}-c", tenant, thread, CreateThread(resource=resource, title="Working memory"))
        for index, write in enumerate(kept):
            name = blake2b(f"{effect}/{index}".encode(), digest_size=12).hexdigest()
            await self._tell(f"w{name}", tenant, thread, Remember(write.text, merge=write.scope == "merge"))
        for _ in range(int(_RECORDED_S / _LOOK_S)):
            there = None if before is None else await self._recorded(tenant, thread)
            if before is None or there is None:
                break
            if there >= before + len(kept):
                return
            await asyncio.sleep(_LOOK_S)
        log.warning("a write to the working memory of %r is not recorded yet", resource)

    async def _recorded(self, tenant: str, thread: str) -> int | None:
        """Count the writes that are recorded; None while the record cannot be asked: no turn waits for Postgres."""
        try:
            async with asyncio.timeout(_RECORDED_S):
                (row,) = await (await self._opened()).rows(_COUNT, tenant, thread)
        except (BusError, TimeoutError) as error:
            log.warning("the record cannot be asked what a resource's threads share: %s", fault(error))
            return None
        return int(row["count"])

    async def _tell(self, name: str, tenant: str, thread: str, data: CommandData) -> None:
        verb = str(data.__struct_config__.tag)
        await self._send(Command(name, tenant, "agent", thread, verb, data, source="agent"))


@dataclass(frozen=True)
class SharedWorking(Processor):
    """Shows the model what the threads of its resource share, before the question."""

    memories: SharedMemories
    working: Working
    name: str = field(default="working-memory")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Put it there."""
        turns = [at for at, message in enumerate(messages) if message.role == "user"]
        if not turns or about.call is None:
            return messages
        try:
            block, place = await self.memories.shown(about.call, about.resource, self.working)
        except BusError:
            about.note(self, "prompt", "noticed", reason="the record could not be read")
            return messages
        if place:
            about.note(self, "prompt", "noticed", 1, place)
        at = turns[-1]
        shown = replace(messages[at], content=f"{block}\n\n{messages[at].content}")
        return (*messages[:at], shown, *messages[at + 1 :])


_LAST = """
SELECT * FROM event WHERE tenant = $1 AND thread = $2 AND type IN ('working.written', 'thread.deleted')
ORDER BY incarnation DESC, seq DESC, idx DESC LIMIT 1
"""

_COUNT = "SELECT count(*) FROM event WHERE tenant = $1 AND thread = $2 AND type = 'working.written'"
