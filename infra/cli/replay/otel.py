"""`ostinato replay export --otel`: spans made of the log, whether or not anybody sent them when it happened."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from bus.following_record import served_of
from bus.store import Store, StoredEvent
from bus.subjects import decoded
from infra.access import recorded
from infra.cli.printing import say, say_json
from infra.configuration import configure
from infra.spans.content import NoContent, Redacted
from infra.spans.engine import asked_by, engine_span
from infra.spans.fold import ThreadSpans
from infra.spans.names import NAMES, Names
from infra.spans.otlp import request
from infra.spans.span import Span
from infra.spans.wanted import whole_sender
from schemas import codec
from schemas.generation import request_id
from schemas.runs import ModelCalled, ModelReturned

Chosen = Callable[[Store, argparse.Namespace], AsyncIterator[list[StoredEvent]]]
_SEND = "otlp"


async def export_spans(options: argparse.Namespace, chosen: Chosen) -> int:
    """Write the spans of threads as OTLP JSON, a line for each thread, or send them.

    Raises:
        NotSent: they are to be sent, and nobody takes them.
    """
    settings = configure({"data": options.data}, None, os.environ).settings.telemetry
    names, content = NAMES[settings.conventions], NoContent() if options.redact else Redacted()
    threads = count = 0
    sending = whole_sender() if options.output == _SEND else None
    lines: list[bytes] = []
    async with recorded(options.data) as store:
        async for events in chosen(store, options):
            spans = await all_spans(store, events, names, content)
            threads, count = threads + 1, count + len(spans)
            if sending is not None:
                await asyncio.to_thread(sending.send, spans)
            else:
                lines.append(codec.encode(request(spans, {"service.name": "ostinato"})) + b"\n")
    if sending is not None:
        sending.close()
    else:
        await asyncio.to_thread(Path(options.output).write_bytes, b"".join(lines))
    if options.json:
        say_json({"threads": threads, "spans": count})
    else:
        say(f"{options.output}: {count} spans of {threads} threads")
    if not options.redact:
        sys.stderr.write("with what was said, without secrets and personal data that a pattern finds\n")
    return 0


async def all_spans(store: Store, events: list[StoredEvent], names: Names, content: NoContent) -> list[Span]:
    """Give the spans of a thread with those of its engine requests, as far as the trace still has them."""
    if not events:
        return []
    first = events[0].fact
    fold = ThreadSpans(first.tenant, first.thread, names, content)
    spans = [span for event in events for span in fold.take(event)]
    for engine, one in await served_of(store, requests_of(events)):
        spans.append(engine_span(decoded(engine), one, names, fold.whose(asked_by(one).effect)))
    return spans


def requests_of(events: list[StoredEvent]) -> list[str]:
    """Name the engine requests that a thread's model calls made."""
    found = list[str]()
    for fact in (stored.fact for stored in events if not codec.is_erased(stored.fact.payload)):
        event = codec.event_of(fact)
        if isinstance(event, ModelCalled):
            found.append(request_id(fact.tenant, fact.thread, event.effect))
        elif isinstance(event, ModelReturned):
            found += [request_id(fact.tenant, fact.thread, event.effect, at + 1) for at, _ in enumerate(event.more)]
    return found
