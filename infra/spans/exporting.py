"""Follows the record and sends the spans of what happened: the only maker of live spans.

It follows the log and not the processes, so that nobody waits for a tracer, a crash loses no span of what was
committed, and a live span is the one that an export makes later. What is sent begins where the record ended when it
was started; spans that had begun by then are whole all the same, as their thread's earlier events are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from bus.errors import BusError
from bus.following_record import Place, events_after, record_end, served_after
from bus.store import Store, StoredEvent
from bus.subjects import decoded
from infra.spans.asides import Aside, aside_span
from infra.spans.content import NoContent
from infra.spans.engine import asked_by, engine_span
from infra.spans.fold import ThreadSpans
from infra.spans.names import Names
from infra.spans.sending import Sender
from infra.spans.span import Span
from schemas.errors import SchemaError
from schemas.steps import Served

log = logging.getLogger(__name__)

_POLL_S = 0.5
_RETRY_S = 5.0
_PAGE = 500
_MOST_THREADS = 4096


class SpanExport:
    """Makes and sends them."""

    def __init__(self, store: Store, sender: Sender, names: Names, content: NoContent) -> None:
        self._store = store
        self._sender = sender
        self._names = names
        self._content = content
        self._folds: OrderedDict[tuple[str, str], ThreadSpans] = OrderedDict()
        self._events = self._served = Place(0, 0, 0)
        self._exported = 0
        self._begun = False
        self._behind = 0

    def statistics(self) -> dict[str, Any]:
        """Say how many spans were handed to the exporter, and how many events are yet to be looked at."""
        return {"exported": self._exported, "behind": self._behind}

    async def begin(self) -> None:
        """Take what is recorded by now as known."""
        self._events, self._served = await record_end(self._store)
        self._begun = True

    def tell(self, aside: Aside) -> None:
        """Send the span of what is in no record."""
        self._send([aside_span(aside, self._names, self._content)])

    def close(self) -> None:
        """Send what is queued."""
        self._sender.close()

    async def run(self) -> None:
        """Follow until cancelled; where the record cannot be asked it is tried again, and never ends the stack."""
        while True:
            pause = _POLL_S
            try:
                if not self._begun:
                    await self.begin()
                if await self.look():
                    continue
            except (BusError, TimeoutError) as error:
                log.warning("spans: %s", error)
                pause = _RETRY_S
            await asyncio.sleep(pause)

    async def look(self) -> int:
        """Take the next events and requests, and send their spans; say how many there were."""
        events = await events_after(self._store, self._events, _PAGE)
        self._behind = len(events)
        for event in events:
            try:
                self._send(await self._taken(event))
            except SchemaError as error:  # the next look would only meet it again
                log.warning("spans: %s/%s is left out: %s", event.sequence, event.idx, error)
            self._events = Place(event.incarnation, event.sequence, event.idx)
        if len(events) == _PAGE:
            return len(events)  # what a request was made for is to be known before it is told of
        served = await served_after(self._store, self._served, _PAGE)
        for place, engine, one in served:
            try:
                self._send([engine_span(decoded(engine), one, self._names, await self._whose(one))])
            except SchemaError as error:
                log.warning("spans: request %s is left out: %s", one.request, error)
            self._served = place
        return len(events) + len(served)

    async def _taken(self, event: StoredEvent) -> list[Span]:
        fact = event.fact
        if fact.kind == "shard":
            return []
        return (await self._fold(fact.tenant, fact.thread, self._events)).take(event)

    async def _whose(self, served: Served) -> dict[str, str]:
        asked = asked_by(served)
        return (await self._fold(asked.tenant, asked.thread, self._events)).whose(asked.effect)

    async def _fold(self, tenant: str, thread: str, upto: Place) -> ThreadSpans:
        """Find a thread's fold; of one that is not known, what happened in it until then is folded."""
        key = tenant, thread
        fold = self._folds.get(key)
        if fold is None:
            fold = ThreadSpans(tenant, thread, self._names, self._content)
            for earlier in await self._store.events_of_thread(tenant, thread):
                if (earlier.incarnation, earlier.sequence, earlier.idx) <= upto:
                    fold.take(earlier)
            self._folds[key] = fold
        self._folds.move_to_end(key)
        if len(self._folds) > _MOST_THREADS:
            self._folds.popitem(last=False)
        return fold

    def _send(self, spans: list[Span]) -> None:
        self._exported += self._sender.send(spans)
