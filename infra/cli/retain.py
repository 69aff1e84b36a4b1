"""`ostinato log retain`: old step records go, threads stay."""

from __future__ import annotations

import argparse
import asyncio

from actors.runtime.context import SystemClock
from bus.retention import Expired, expire_steps, expiring_steps
from infra.access import current_record
from infra.cli.printing import say, say_json
from schemas.times import DAY, rfc3339

_DATE = 10


def main(options: argparse.Namespace) -> int:
    """Drop what is older than it is to be kept, or say what would go."""
    return asyncio.run(_retain(options))


async def _retain(options: argparse.Namespace) -> int:
    now, keep = SystemClock().now(), options.steps * DAY
    async with current_record(options.data) as (store, _):
        gone = await (expiring_steps if options.dry_run else expire_steps)(store, now, keep)
    if options.json:
        for item in gone:
            say_json({**item._asdict(), **_times(item), "dropped": not options.dry_run})
        return 0
    verb = "would go" if options.dry_run else "dropped"
    for item in gone:
        say(f"{_days(item)}  {item.rows:>9,} rows  {item.bytes / 1e6:>9,.1f} MB  {item.name}  {verb}")
    rows, size = sum(item.rows for item in gone), sum(item.bytes for item in gone)
    none = f"no step records are from days that ended more than {options.steps} days ago"
    say(f"{verb}: {rows:,} rows, {size / 1e6:,.1f} MB; threads stay" if gone else none)
    return 0


def _times(item: Expired) -> dict[str, str | None]:
    return {"begins": rfc3339(item.begins) if item.begins else None, "ends": rfc3339(item.ends)}


def _days(item: Expired) -> str:
    return rfc3339(item.begins)[:_DATE] if item.begins else f"before {rfc3339(item.ends)[:_DATE]}"
