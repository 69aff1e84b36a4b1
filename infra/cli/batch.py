"""`ostinato batch`: have a file of requests answered by the running stack, as vLLM's `run-batch` does."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from actors.batches.lines import error_file, output_file
from bus.batched import BatchRow
from bus.connection import Connection
from bus.store import Store
from infra.access import log_servers, runtime_of
from infra.batches.desk import BatchDesk, batch_desk, window_of
from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.terminal import style_for
from infra.configuration import configure
from infra.errors import BatchUnfit
from schemas.batches import Batch, Endpoint
from schemas.times import rfc3339

_READ: Final = 64 << 10
_LOOK_S: Final = 0.25
_MOST_TOLD: Final = 10
"""Lines whose problems are told."""


def main(options: argparse.Namespace) -> int:
    """Run one verb; exit code 1 where something was not answered."""
    verb = {"run": _run, "list": _list, "cancel": _cancel}[options.verb]
    return asyncio.run(verb(options))


async def _run(options: argparse.Namespace) -> int:
    source, target = Path(options.input), Path(options.output)
    endpoint, part = await asyncio.to_thread(_endpoint_of, source), _part_of(target)
    await asyncio.to_thread(runtime_of, options.data)
    await asyncio.to_thread(part.touch)  # where nothing can be written nothing is asked
    try:
        async with log_servers(options.data) as (connection, store):
            row, told = await _answered(_desk(options, connection, store), options, endpoint, source, target)
    finally:
        await asyncio.to_thread(part.unlink, missing_ok=True)
    _tell(options, row, told)
    return 0 if row.status == "completed" and not row.failed else 1


async def _answered(
    desk: BatchDesk, options: argparse.Namespace, endpoint: Endpoint, source: Path, target: Path
) -> tuple[BatchRow, str]:
    """Have it answered; give how it ended, and what there is of it."""
    window = window_of(options.window)
    file = await desk.bring(options.tenant, source.name, _pieces(source))
    row = await desk.create(options.tenant, Batch(file.id, endpoint, window, options.window))
    sys.stderr.write(style_for(sys.stderr).aside(f"batch {row.id} is begun") + "\n")
    sys.stderr.flush()
    try:
        row = await _over(desk, row)
    except asyncio.CancelledError:
        sys.stderr.write(f"\nbatch {row.id} goes on: `ostinato batch cancel {row.id}` ends it\n")
        raise
    told = "" if row.status == "failed" else f"{await _written(desk, row, target)} lines in {target}"
    await desk.files.delete(options.tenant, file.id)
    return row, told


def _desk(options: argparse.Namespace, connection: Connection, store: Store) -> BatchDesk:
    settings = configure({"data": options.data}, None, os.environ).settings
    return batch_desk(settings, connection, store, "cli")


def _endpoint_of(source: Path) -> Endpoint:
    """Read what the first request is for; that is what all are for."""
    with source.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        url = msgspec.json.decode(first, type=dict[str, Any]).get("url")
    except msgspec.DecodeError as error:
        raise BatchUnfit("file", f"{source}: line 1 is no request: {error}") from error
    found: Endpoint | None = next((known for known in get_args(Endpoint) if known == url), None)
    if found is None:
        known = ", ".join(get_args(Endpoint))
        raise BatchUnfit("file", f"{source}: line 1: url {url!r} is not answered in batches: give one of {known}")
    return found


async def _pieces(source: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(source.open, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, _READ):
            yield piece
    finally:
        file.close()


async def _over(desk: BatchDesk, row: BatchRow) -> BatchRow:
    with Bar(sys.stderr, "answered") as bar:
        while row.ended is None:
            await asyncio.sleep(_LOOK_S)
            row = await desk.batch(row.tenant, row.id) or row
            done = row.completed + row.failed
            bar(done, row.total, f"{done} of {row.total}" + (f", {row.failed} failed" if row.failed else ""))
    return row


async def _written(desk: BatchDesk, row: BatchRow, target: Path) -> int:
    """Write answers and errors in the order of the requests, and then put the whole in its place; count the lines."""
    made, count = _part_of(target), 0
    answers, errors = (aiter(desk.files.parts(row.tenant, name)) for name in (output_file(row.id), error_file(row.id)))
    with await asyncio.to_thread(made.open, "wb") as output:
        async for line in _in_order(answers, errors):
            await asyncio.to_thread(output.write, line)
            count += 1
    await asyncio.to_thread(made.replace, target)
    return count


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


async def _in_order(
    first: AsyncIterator[tuple[int, bytes]], second: AsyncIterator[tuple[int, bytes]]
) -> AsyncIterator[bytes]:
    one, other = await anext(first, None), await anext(second, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[1]
            one = await anext(first, None)
        else:
            yield other[1]
            other = await anext(second, None)


async def _list(options: argparse.Namespace) -> int:
    await asyncio.to_thread(runtime_of, options.data)
    async with log_servers(options.data) as (connection, store):
        rows = await _desk(options, connection, store).listed(options.tenant, None, options.limit)
    if options.json:
        for row in rows:
            say_json(_as_json(row))
    else:
        for line in lines(rows) if rows else ["no batches"]:
            say(line)
    return 0


async def _cancel(options: argparse.Namespace) -> int:
    await asyncio.to_thread(runtime_of, options.data)
    async with log_servers(options.data) as (connection, store):
        row = await _desk(options, connection, store).cancel(options.tenant, options.batch)
    if row is None:
        raise BatchUnfit("batch", f"batch {options.batch!r}: there is none", "not_found")
    _tell(options, row, "")
    return 0


def _tell(options: argparse.Namespace, row: BatchRow, more: str) -> None:
    if options.json:
        say_json(_as_json(row))
        return
    counts = f"{row.completed} of {row.total} answered" + (f", {row.failed} failed" if row.failed else "")
    say(f"batch {row.id} is {row.status}: {counts}" + (f"; {more}" if more else ""))
    style = style_for(sys.stderr)
    for problem in row.problems[:_MOST_TOLD]:
        where = "" if problem.line is None else f"line {problem.line}: "
        sys.stderr.write(style.problem(f"ostinato: {where}{problem.message}") + "\n")


def _as_json(row: BatchRow) -> dict[str, Any]:
    times = {name: getattr(row, name) for name in ("created", "expires", "started", "ended")}
    told: dict[str, Any] = msgspec.to_builtins(row._asdict())
    return told | {name: None if at is None else rfc3339(at) for name, at in times.items()}


def lines(rows: Sequence[BatchRow]) -> list[str]:
    """Lay batches out, one a line."""
    heads = ("batch", "status", "answered", "failed", "of", "created", "endpoint")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: BatchRow) -> tuple[str, ...]:
    counts = (str(row.completed), str(row.failed), str(row.total))
    return (row.id, row.status, *counts, rfc3339(row.created)[:16] + "Z", row.batch.endpoint)
