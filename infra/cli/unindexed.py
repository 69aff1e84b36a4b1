"""`ostinato log unindexed`: what was said and semantic recall cannot find, and having it tried again."""

from __future__ import annotations

import argparse
import asyncio
import sys

from bus.unindexed import Unindexed, try_again, unindexed
from infra.access import current_record
from infra.cli.printing import say, say_json
from infra.cli.terminal import printable, style_for


def main(options: argparse.Namespace) -> int:
    """Run it."""
    return asyncio.run(_again(options) if options.again else _list(options))


async def _list(options: argparse.Namespace) -> int:
    async with current_record(options.data) as (store, _behind):
        found = await unindexed(store, options.tenant, options.limit)
    for one in found:
        if options.json:
            say_json(_as_json(one))
        else:
            say(printable(f"{one.thread}  {_place(one)}  {one.embedder}  {_tries(one)}: {one.reason}"))
    if not found and not options.json:
        say("all that was said is found")
    elif any(one.aside for one in found) and not options.json:
        hint = "what is set aside is tried again by: ostinato log unindexed --again"
        sys.stderr.write(style_for(sys.stderr).aside(hint) + "\n")
    return 0


async def _again(options: argparse.Namespace) -> int:
    async with current_record(options.data) as (store, _behind):
        count = await try_again(store, options.tenant)
    if options.json:
        say_json({"again": count})
    else:
        say(f"{count} texts are tried again by the processes that run agents")
    return 0


def _as_json(one: Unindexed) -> dict[str, object]:
    return {**one._asdict(), "place": _place(one)}


def _place(one: Unindexed) -> str:
    return f"{one.place.sequence}/{one.place.idx}"


def _tries(one: Unindexed) -> str:
    return f"{one.tries} tries, {'set aside' if one.aside else 'to be tried again'}"
