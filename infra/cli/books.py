"""`ostinato log threads`, `runs`, `usage` and `rebuild`: the projections of the log, looked at and made again."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

from actors.runtime.context import SystemClock
from bus.projected import (
    RunRow,
    ThreadRow,
    UsageRow,
    daily_usage,
    latest_runs,
    latest_threads,
    stopped_threads,
)
from bus.projections import PROJECTIONS
from bus.projector import bring_up
from bus.rebuild import Rebuilt, rebuild
from bus.store import Store
from bus.vectors import start_all_again
from infra.access import current_record
from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.terminal import printable, style_for
from schemas.times import rfc3339, utc

_LATE_S = 1.0
_MOST_STOPPED = 5
_UTC_LENGTH = 19


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return asyncio.run(_rebuild(options) if options.verb == "rebuild" else _show(options))


class _Late:
    """Tells a bar how far it is, once that has taken more than a second."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._began = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._began > _LATE_S:
            self._bar(done, total)


async def _rebuild(options: argparse.Namespace) -> int:
    names = [name for name in PROJECTIONS if options.projection in {name, "all"}]
    began, done, dropped = time.monotonic(), list[Rebuilt](), None
    async with _record(options) as store:
        if names:
            with Bar(sys.stderr, "rebuilding") as bar:
                done = await rebuild(store, names, _Late(bar))
        if options.projection in {"vectors", "all"}:
            dropped = await start_all_again(store)
    seconds = time.monotonic() - began
    for made in done:
        if options.json:
            say_json({"projection": made.name, **_without(made, "name"), "seconds": round(seconds, 3)})
        else:
            say(f"{made.name:<8} {made.rows:>8,} rows, from the log up to {made.sequence:,}")
    if dropped is not None and options.json:
        say_json({"projection": "vectors", "dropped": dropped})
    elif dropped is not None:
        say(f"vectors  {dropped:>8,} dropped: the processes that run agents make them again")
    return 0


async def _show(options: argparse.Namespace) -> int:
    async with _record(options) as store:
        with Bar(sys.stderr, "catching up") as bar:
            await bring_up(store, _Late(bar))
        rows: Sequence[ThreadRow | RunRow | UsageRow]
        if options.verb == "threads":
            about = (options.resource, options.search)
            rows = await latest_threads(store, options.limit, options.tenant, None, *about)
        elif options.verb == "runs":
            rows = await latest_runs(store, options.limit, options.tenant, options.thread)
        else:
            today = utc(SystemClock().now()).date()
            rows = await daily_usage(store, today - timedelta(days=options.days - 1), options.tenant)
        stopped = await stopped_threads(store, _MOST_STOPPED)
    if options.json:
        for row in rows:
            say_json(_as_json(row))
    elif rows:
        for line in _table(options.verb, rows):
            say(line)
    else:
        say("nothing recorded yet")
    _tell_stopped(stopped)
    return 0


@asynccontextmanager
async def _record(options: argparse.Namespace) -> AsyncIterator[Store]:
    async with current_record(options.data) as (store, behind):
        if behind:
            _warn(f"{behind} envelopes are not recorded yet: what they hold is missing here")
        yield store


def _tell_stopped(threads: Iterable[ThreadRow]) -> None:
    """Say which threads are not counted from some event on: a sum without them would be no sum."""
    for row in threads:
        events = "event is" if row.unread == 1 else "events are"
        _warn(f"thread {printable(row.thread)}: {row.unread} {events} not counted: {printable(row.stopped)}")


def _warn(text: str) -> None:
    sys.stderr.write(style_for(sys.stderr).problem(text) + "\n")


def _as_json(row: ThreadRow | RunRow | UsageRow) -> dict[str, object]:
    times = {name: rfc3339(value) for name, value in _times(row).items() if value is not None}
    return {**row._asdict(), **times}


def _times(row: ThreadRow | RunRow | UsageRow) -> dict[str, int | None]:
    match row:
        case ThreadRow():
            return {"first": row.first, "last": row.last}
        case RunRow():
            return {"asked": row.asked, "started": row.started, "finished": row.finished}
        case _:
            return {}


def _without(row: NamedTuple, name: str) -> dict[str, object]:
    return {key: value for key, value in row._asdict().items() if key != name}


def _table(verb: str, rows: Sequence[ThreadRow | RunRow | UsageRow]) -> list[str]:
    """Lay rows out in columns as wide as they must be, numbers to the right."""
    cells = [_HEADS[verb], *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    style = style_for(sys.stdout)
    lines = []
    for number, line in enumerate(cells):
        padded = [
            cell.rjust(width) if head in _NUMBERS else cell.ljust(width)
            for head, cell, width in zip(cells[0], line, widths, strict=True)
        ]
        text = "  ".join(padded).rstrip()
        lines.append(style.aside(text) if number == 0 else text)
    return lines


_HEADS = {
    "threads": ["thread", "kind", "agent", "status", "last", "runs", "messages", "events", "title"],
    "runs": ["run", "thread", "agent", "model", "status", "asked", "took", "calls", "tools", "tokens"],
    "usage": ["day", "tenant", "agent", "model", "runs", "failed", "calls", "tools", "prompt", "cached", "completion"],
}
_NUMBERS = {
    "runs", "messages", "events", "took", "calls", "tools", "tokens", "failed", "prompt", "cached", "completion",
}  # fmt: skip


def _cells(row: ThreadRow | RunRow | UsageRow) -> list[str]:
    match row:
        case ThreadRow():
            named = [row.thread, row.kind, row.agent or "-", row.status, _time(row.last)]
            counts = [row.runs, row.messages, row.events]
            return [*map(printable, named), *map(str, counts), printable(row.title)]
        case RunRow():
            status = f"{row.status} ({row.reason})" if row.reason and row.reason != "stop" else row.status
            took = "" if row.finished is None or row.started is None else f"{(row.finished - row.started) / 1e6:.1f} s"
            named = [row.run, row.thread, row.agent or "-", row.model, status, _time(row.asked), took]
            counts = [row.model_calls, row.tool_calls]
            return [*map(printable, named), *map(str, counts), f"{row.prompt_tokens}+{row.completion_tokens}"]
        case UsageRow():
            named = [row.day.isoformat(), row.tenant or "-", row.agent or "-", row.model or "-"]
            counts = [
                row.runs, row.failed, row.model_calls, row.tool_calls, row.prompt_tokens, row.cached_tokens,
                row.completion_tokens,
            ]  # fmt: skip
    return [*map(printable, named), *(f"{count:,}" for count in counts)]


def _time(time: int) -> str:
    return rfc3339(time)[:_UTC_LENGTH] + "Z"
