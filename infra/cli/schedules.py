"""`ostinato schedule`: have agents asked by the clock."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from bus.projector import bring_up
from bus.scheduled import ScheduleRow, schedules_of
from infra.access import current_record
from infra.cli.asking import schedule_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import printable, style_for
from infra.schedules import schedule_of
from schemas.schedules import (
    AddSchedule,
    FireSchedule,
    PauseSchedule,
    RemoveSchedule,
    ScheduleCommand,
    UnpauseSchedule,
)
from schemas.times import rfc3339

_DONE = {
    "add": "is added",
    "pause": "is paused",
    "resume": "goes on",
    "run": "has fired",
    "remove": "is removed",
}
_PLAIN: dict[str, ScheduleCommand] = {
    "pause": PauseSchedule(),
    "resume": UnpauseSchedule(),
    "run": FireSchedule(),
    "remove": RemoveSchedule(),
}


def main(options: argparse.Namespace) -> int:
    """Run one verb; exit code 1 when it is refused."""
    if options.verb == "list":
        return asyncio.run(_list(options))
    command = schedule_command(options.schedule, _wanted(options), options.tenant)
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"schedule {command.thread} {_DONE[options.verb]}")
    else:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 0 if outcome.result == "accepted" else 1


def _wanted(options: argparse.Namespace) -> ScheduleCommand:
    if options.verb != "add":
        return _PLAIN[options.verb]
    names = ("cron", "agent", "text", "timezone", "thread", "missed", "most", "resource")
    return AddSchedule(schedule=schedule_of(**{name: getattr(options, name) for name in names}))


async def _list(options: argparse.Namespace) -> int:
    async with current_record(options.data) as (store, _):
        await bring_up(store)
        rows = await schedules_of(store, options.tenant)
    if options.json:
        for row in rows:
            say_json({**row._asdict(), "schedule": msgspec.to_builtins(row.schedule), **_times(row)})
    elif not rows:
        say("no schedules")
    else:
        for line in lines(rows):
            say(line)
    return 0


def _times(row: ScheduleRow) -> dict[str, str | None]:
    return {name: None if at is None else rfc3339(at) for name, at in (("next", row.next), ("last", row.last))}


def lines(rows: Sequence[ScheduleRow]) -> list[str]:
    """Lay schedules out, one a line."""
    heads = ("schedule", "tenant", "status", "next", "fired", "when", "agent", "text")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: ScheduleRow) -> tuple[str, ...]:
    schedule, due = row.schedule, "-" if row.next is None else rfc3339(row.next)[:16] + "Z"
    when = f"{schedule.cron} ({schedule.timezone})"
    told = (row.id, row.tenant, row.status, due, str(row.fired), when, schedule.agent, schedule.text)
    return tuple(map(printable, told))


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
