"""`ostinato log trim`: JetStream forgets the old part of the log, which Postgres has."""

from __future__ import annotations

import argparse
import asyncio

from actors.runtime.context import SystemClock
from bus.trim import trim
from infra.access import log_servers
from infra.cli.printing import say, say_json
from schemas.times import DAY


def main(options: argparse.Namespace) -> int:
    """Trim, or say what would go."""
    return asyncio.run(_trim(options))


async def _trim(options: argparse.Namespace) -> int:
    before = SystemClock().now() - options.keep * DAY
    async with log_servers(options.data) as (connection, store):
        done = await trim(connection, store, before, dry=options.dry_run)
    if options.json:
        say_json({**done._asdict(), "trimmed": not options.dry_run})
        return 0
    verb = "would go" if options.dry_run else "gone"
    held = f"; more is held by this: {done.held_by}" if done.held_by else ""
    say(f"{done.envelopes:,} envelopes {verb}, JetStream begins at {done.first:,}{held}; Postgres keeps all")
    return 0
