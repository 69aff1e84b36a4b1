"""Memory, asked over the bus: the agents' processes answer, and a program hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from bus import subjects
from bus.connection import Connection, Message
from infra.errors import SettlementRefused
from infra.recollections import MemoryService
from schemas import codec
from schemas.recollections import (
    AskMessages,
    AskRecall,
    AskReindex,
    AskThreads,
    AskUnindexed,
    AskWorking,
    MessagesTold,
    Recalled,
    ReindexTold,
    ThreadTold,
    Unanswered,
    UnindexedTold,
    WorkingTold,
)

_ASK_S = 10.0
_QUEUE = "memory"


async def serve_memory(connection: Connection, service: MemoryService) -> None:
    """Answer on `rpc.memory.<verb>.<tenant>`, one process to each request.

    Raises:
        Unavailable: the connection is closed.
    """

    async def heard(message: Message) -> None:
        verb, tenant = subjects.parse_memory(message.subject)
        if message.reply:
            await connection.publish(message.reply, await service.answer(verb, tenant, message.data))

    await connection.subscribe(subjects.MEMORY, heard, _QUEUE)


@dataclass(frozen=True, slots=True)
class Memories:
    """What a tenant's agents remember. What was said a moment ago may be missing."""

    connection: Connection
    tenant: str = "default"

    async def threads(self, **wanted: Any) -> tuple[ThreadTold, ...]:
        """List threads, those with the latest events first; by any field of `schemas.recollections.AskThreads`."""
        found: tuple[ThreadTold, ...] = await self._ask("threads", AskThreads(**wanted), tuple[ThreadTold, ...])
        return found

    async def messages(self, thread: str, first: int = 0, limit: int = 100) -> MessagesTold:
        """Read what was said in a thread.

        Raises:
            SettlementRefused: there is none; carries the `Problem`.
        """
        found: MessagesTold = await self._ask("messages", AskMessages(thread, first, limit), MessagesTold)
        return found

    async def recall(self, text: str, **wanted: Any) -> tuple[Recalled, ...]:
        """Find what was said that is near to a text; by any field of `schemas.recollections.AskRecall`."""
        found: tuple[Recalled, ...] = await self._ask("recall", AskRecall(text, **wanted), tuple[Recalled, ...])
        return found

    async def unindexed(self, limit: int = 20) -> tuple[UnindexedTold, ...]:
        """List what was said and `recall` cannot find, as its embedder refuses it; the latest first."""
        found: tuple[UnindexedTold, ...] = await self._ask("unindexed", AskUnindexed(limit), tuple[UnindexedTold, ...])
        return found

    async def reindex(self) -> int:
        """Have all of that tried again, now; return how many texts that are."""
        found: ReindexTold = await self._ask("reindex", AskReindex(), ReindexTold)
        return found.count

    async def working(self, *, thread: str = "", resource: str = "") -> str:
        """Read the working memory of a thread, or that which the threads of a resource share."""
        found: WorkingTold = await self._ask("working", AskWorking(thread, resource), WorkingTold)
        return found.content

    async def _ask(self, verb: str, asked: object, shape: Any) -> Any:
        reply = await self.connection.request(subjects.memory(verb, self.tenant), codec.encode(asked), _ASK_S)
        if msgspec.json.decode(reply.data, type=_Tagged | list[Any]) == _PROBLEM:
            unanswered: Unanswered = codec.decode(reply.data, Unanswered)
            raise SettlementRefused(unanswered.problem)
        return codec.decode(reply.data, shape)


class _Tagged(msgspec.Struct, frozen=True):
    type: str = ""


_PROBLEM = _Tagged("problem")
