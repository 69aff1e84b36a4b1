"""`ostinato replay export` and `import`: threads in a file that can be given to somebody, and read from one."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from actors.runtime.context import SystemChance
from bus.imported import keep_bundle, replace_bundle
from bus.store import Store, StoredEvent
from bus.sweep import spans, threads_of
from infra.access import recorded
from infra.bundles import Bundle, BundleWriter
from infra.cli.printing import say, say_json
from infra.cli.replay.otel import export_spans
from infra.cli.replay.source import RecordedThreads
from infra.redaction import Redactor

_SPAN = 4000
_NO_NAME = re.compile(r"[^a-z0-9_-]+")
_SHOWN = 5


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    if options.verb == "export" and bool(options.ids) == options.all:
        sys.stderr.write("ostinato replay export: name threads, or use --all\n")
        return 2
    if options.verb == "export" and options.otel:
        return asyncio.run(export_spans(options, chosen))
    return asyncio.run(_export(options) if options.verb == "export" else _import(options))


async def _export(options: argparse.Namespace) -> int:
    redactor = Redactor(SystemChance().bits(256).to_bytes(32)) if options.redact else None
    async with recorded(options.data) as store:
        with BundleWriter(Path(options.output), redactor) as writer:
            async for events in chosen(store, options):
                writer.add(events)
    header = writer.header
    if options.json:
        say_json(header)
    else:
        say(f"{options.output}: {header.threads} threads, {header.events} events")
    sys.stderr.write(
        "texts were redacted: lengths, ids, names and times are as they were (--no-redact keeps the texts)\n"
        if redactor is not None
        else "NOT redacted: the file holds every message, prompt, and tool argument and result\n"
    )
    return 0


async def chosen(store: Store, options: argparse.Namespace) -> AsyncIterator[list[StoredEvent]]:
    """Read the threads that were named."""
    if options.all:
        for span in await spans(store, _SPAN):
            for events in await threads_of(store, span):
                yield events
    for identity in options.ids:
        yield (await RecordedThreads(store).thread(options.tenant, identity)).events


async def _import(options: argparse.Namespace) -> int:
    path = Path(options.file)
    bundle = Bundle(path)
    name = _NO_NAME.sub("-", (options.name or path.name.partition(".")[0]).lower()).strip("-") or "bundle"
    header = bundle.header
    async with recorded(options.data) as store:
        write = replace_bundle if options.replace else keep_bundle
        await write(store, name, header.digest, header.redacted, bundle.threads())
    threads = [f"{name}:{events[0].fact.thread}" for events, _ in zip(bundle.threads(), range(_SHOWN), strict=False)]
    if options.json:
        say_json({"name": name, "threads": header.threads, "events": header.events, "redacted": header.redacted})
        return 0
    say(f"{path}: {header.threads} threads, {header.events} events, kept beside the log as {name!r}")
    for thread in threads:
        say(f"  {thread}")
    if header.threads > len(threads):
        say(f"  and {header.threads - len(threads)} more")
    if header.redacted:
        sys.stderr.write("its texts were redacted: show and diff read it, verify cannot\n")
    return 0
