"""Answers what programs ask of memory: which threads there are, what was said there, and what is kept in mind.

It is read from the record, as one tenant: what was said a moment ago may be missing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from actors.errors import CallFailed
from actors.machines import MACHINES
from actors.memory.embedding import Embedder
from actors.memory.indexing import LONGEST, Opening, embedded
from actors.processors.shared import content_of, shared_working
from actors.runtime.machine import Emitted
from bus.errors import BusError
from bus.store import Store
from bus.threads import Wanted, threads_of
from bus.unindexed import try_again, unindexed
from bus.vectors import nearest
from infra.services.nats_server import MAX_PAYLOAD
from schemas import codec
from schemas.errors import BadShape, SchemaError
from schemas.recollections import (
    AskMessages,
    AskRecall,
    AskReindex,
    AskThreads,
    AskUnindexed,
    AskWorking,
    MessagesTold,
    MessageTold,
    Recalled,
    ReindexTold,
    ThreadTold,
    Unanswered,
    UnindexedTold,
    WorkingTold,
)
from schemas.runs import Problem

log = logging.getLogger(__name__)

T = TypeVar("T")
_LONGEST_REPLY = MAX_PAYLOAD - 4096
_ENOUGH = 1 << 20
"""Bytes of an answer after which the rest is left for another request."""


class _Unfit(Exception):
    """Something is asked that has no answer."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.problem = Problem(kind="invalid", message=message, field=field)


class MemoryService:
    """Answers requests."""

    def __init__(self, opened: Opening, embedders: Sequence[Embedder]) -> None:
        self._opened = opened
        self._embedders = {one.name: one for one in embedders}
        self._verbs: Mapping[str, tuple[Any, Callable[[Store, str, Any], Awaitable[object]]]] = {
            "threads": (AskThreads, _threads),
            "messages": (AskMessages, _messages),
            "recall": (AskRecall, self._recall),
            "working": (AskWorking, _working),
            "unindexed": (AskUnindexed, _unindexed),
            "reindex": (AskReindex, _reindex),
        }

    async def answer(self, verb: str, tenant: str, body: bytes) -> bytes:
        """Answer one request; what cannot be answered says why."""
        try:
            told = codec.encode(await self._answered(verb, tenant, body))
            if len(told) <= _LONGEST_REPLY:
                return told
            message = f"limit: {len(told)} bytes are too many for one answer: ask for fewer"
            return codec.encode(Unanswered(Problem(kind="too_long", message=message, field="limit")))
        except _Unfit as unfit:
            return codec.encode(Unanswered(unfit.problem))
        except (SchemaError, BusError, TimeoutError) as error:
            # what is damaged or away is none of the asker's doing
            return codec.encode(Unanswered(Problem(kind="overloaded", message=str(error) or "no answer in time")))
        except Exception as error:
            # whoever asked waits
            log.exception("memory cannot answer %r", verb)
            message = f"it cannot be answered ({type(error).__name__}: see the log of the agents' process)"
            return codec.encode(Unanswered(Problem(kind="engine", message=message)))

    async def _answered(self, verb: str, tenant: str, body: bytes) -> object:
        if verb not in self._verbs:
            raise _Unfit(f"nothing of memory is called {verb!r}: ask for one of {', '.join(self._verbs)}", "verb")
        shape, answer = self._verbs[verb]
        try:
            asked = codec.decode(body or b"{}", shape)
        except BadShape as error:
            raise _Unfit(str(error), "body") from error
        for name in asked.__struct_fields__:
            looked_for = not isinstance(asked, AskRecall) or name != "text"
            if looked_for and _has_nul(getattr(asked, name)):
                raise _Unfit(f"{name}: no text of the record holds the character U+0000", name)
        return await answer(await self._opened(), tenant, asked)

    async def _recall(self, store: Store, tenant: str, asked: AskRecall) -> tuple[Recalled, ...]:
        names = ", ".join(sorted(self._embedders)) or "none: no agent recalls anything"
        name = asked.embedder or (next(iter(self._embedders)) if len(self._embedders) == 1 else "")
        if name not in self._embedders:
            raise _Unfit(f"embedder: there are {names}", "embedder")
        try:
            (vector,) = await embedded(self._embedders[name], [asked.text[:LONGEST]])
        except CallFailed as failure:
            raise _Unfit(failure.problem.message, "embedder") from failure
        where = (tenant, asked.thread, asked.resource)
        hits = await nearest(store, name, where, asked.scope, vector, asked.count)
        return _first(
            Recalled(
                hit.spoken.thread,
                hit.spoken.message.role,
                hit.spoken.message.content,
                hit.score,
                f"{hit.spoken.place.sequence}/{hit.spoken.place.idx}",
            )
            for hit in hits
        )


def _first(told: Iterable[T]) -> tuple[T, ...]:
    """Take as many as make an answer that is not too long; one, if there is any."""
    kept, size = list[T](), 0
    for one in told:
        size += len(codec.encode(one))
        if kept and size > _ENOUGH:
            break
        kept.append(one)
    return tuple(kept)


def _has_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_nul(one) for pair in value.items() for one in pair)
    return isinstance(value, str) and "\0" in value


async def _threads(store: Store, tenant: str, asked: AskThreads) -> tuple[ThreadTold, ...]:
    wanted = Wanted(asked.resource, asked.text, asked.metadata, asked.before, asked.thread)
    return tuple(
        ThreadTold(
            row.thread,
            row.resource,
            row.title,
            codec.decode(row.metadata.encode() or b"{}", dict[str, str]),
            row.agent,
            row.status,
            row.messages,
            row.first,
            row.last,
        )
        for row in await threads_of(store, tenant, wanted, asked.limit)
    )


async def _messages(store: Store, tenant: str, asked: AskMessages) -> MessagesTold:
    state = await _state(store, tenant, asked.thread)
    some = state.messages[asked.first : asked.first + asked.limit]
    told = (
        MessageTold(number, one.role, one.content, one.tool_calls, one.tool_call_id)
        for number, one in enumerate(some, asked.first)
    )
    return MessagesTold(len(state.messages), _first(told))


async def _unindexed(store: Store, tenant: str, asked: AskUnindexed) -> tuple[UnindexedTold, ...]:
    return tuple(
        UnindexedTold(
            one.thread, f"{one.place.sequence}/{one.place.idx}", one.embedder, one.reason, one.tries, one.aside
        )
        for one in await unindexed(store, tenant, asked.limit)
    )


async def _reindex(store: Store, tenant: str, _asked: AskReindex) -> ReindexTold:
    return ReindexTold(await try_again(store, tenant))


async def _working(store: Store, tenant: str, asked: AskWorking) -> WorkingTold:
    if bool(asked.thread) == bool(asked.resource):
        raise _Unfit("give `thread` or `resource`", "thread")
    if asked.resource:
        return WorkingTold(content_of(await shared_working(store, tenant, asked.resource)))
    return WorkingTold((await _state(store, tenant, asked.thread)).memory.working)


async def _state(store: Store, tenant: str, thread: str) -> Any:
    """Fold a thread.

    Raises:
        _Unfit: there is none, or it was deleted.
    """
    machine = MACHINES["agent"]
    state = machine.initial(tenant, thread)
    events = await store.events_of_thread(tenant, thread)
    ended = any(event.fact.type == "thread.deleted" for event in events)
    # what was refused there is no thread
    if ended or all(event.fact.kind != "thread" or event.fact.type == "command.refused" for event in events):
        raise _Unfit(f"thread {thread!r} {'was deleted' if ended else 'does not exist'}", "thread")
    for event in events:
        state = machine.evolve(state, Emitted(event.fact.kind, event.fact.entity, codec.event_of(event.fact)))
    return state
