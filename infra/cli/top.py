"""`ostinato top`: engines, runs, queues and lag of the running stack, drawn again every other second."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bus.connection import Connection
from bus.errors import BusError
from bus.numbers import Backlog, backlog, numbers_of_all
from bus.store import Store
from bus.under_way import LateRun, latest_runs
from infra.access import runtime_of
from infra.cli.printing import say_json
from infra.cli.terminal import redraws, style_for
from infra.cli.top_table import Look, Row, lines, rates
from infra.services.data_directory import Runtime, made_shards

_RUNS = 8
_FIRST_S = 1.0
_FIRST_ANSWER_S = 0.3
"""How long everybody has to answer, as long as nobody is known."""
_ANSWER_S = 1.0
"""How long those have that answered before."""
"""Between the two looks that a single table is made of: rates need two."""
_HOME, _ALL, _REST, _END = "\x1b[H", "\x1b[2J", "\x1b[J", "\x1b[K"


def main(options: argparse.Namespace) -> int:
    """Watch until Ctrl-C, or look once."""
    runtime = runtime_of(options.data)
    once = options.once or not (options.json or redraws(sys.stdout))
    return asyncio.run(_watch(options, runtime, made_shards(Path(options.data)), once=once))


async def _watch(options: argparse.Namespace, runtime: Runtime, shards: int, *, once: bool) -> int:
    async with (
        await Connection.open(runtime.urls["nats"], "top") as connection,
        await Store.open(runtime.urls["postgres"]) as store,
    ):
        before = await look(connection, store, shards)
        if not options.json and not once:
            sys.stdout.write(_HOME + _ALL)
        while True:
            await asyncio.sleep(min(options.interval, _FIRST_S) if once else options.interval)
            now = await look(connection, store, shards, before)
            _show(before, now, options, once=once)
            if once:
                return 0
            before = now


def _show(before: Look, now: Look, options: argparse.Namespace, *, once: bool) -> None:
    engines = rates(before, now)
    if options.json:
        shown = {"engines": _objects(engines), "processes": _objects(now.processes), "runs": _objects(now.runs)}
        say_json({**shown, "silent": now.silent, "backlog": None if now.waiting is None else _backlog(now.waiting)})
        return
    size = shutil.get_terminal_size()
    told = lines(engines, now, style_for(sys.stdout), size.columns if redraws(sys.stdout) else 120)
    if once:
        sys.stdout.write("\n".join(told) + "\n")
        return
    fitting = told[: max(1, size.lines - 1)]
    sys.stdout.write(_HOME + "".join(f"{line}{_END}\n" for line in fitting) + _REST)
    sys.stdout.flush()


def _objects(rows: Sequence[NamedTuple]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]


def _backlog(waiting: Backlog) -> dict[str, Any]:
    return {**waiting._asdict(), "streams": {name: found._asdict() for name, found in waiting.streams.items()}}


async def look(connection: Connection, store: Store, shards: int, before: Look | None = None) -> Look:
    """Ask everybody once; who answered `before` is waited for a little longer, and named if it does not now.

    Raises:
        Unavailable: NATS cannot be reached.
    """
    known = set() if before is None else {*(row.slot for row in before.processes), *before.silent}
    processes = await numbers_of_all(connection, known, _ANSWER_S if known else _FIRST_ANSWER_S, _FIRST_ANSWER_S)
    waiting: Backlog | None = None
    runs: list[LateRun] = []
    try:
        waiting = await backlog(connection, shards)
        runs = await latest_runs(store, _RUNS)
    except (BusError, TimeoutError):
        pass  # the table shows what there is
    rows = tuple(Row(*process) for process in processes)
    silent = tuple(sorted(known.difference(row.slot for row in rows)))
    return Look(time.monotonic(), rows, waiting, tuple(runs), silent)
