"""`ostinato replay ls` and `show`: list threads, and tell what happened in one."""

from __future__ import annotations

import argparse
import asyncio
import sys

from bus.steps import steps_of_request
from bus.store import Store, StoredEvent
from infra.access import recorded
from infra.cli.replay.printing import say, say_json
from infra.cli.terminal import style_for
from infra.cli.timeline import Line, lines, step_lines, summary
from infra.errors import NothingRecorded


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return asyncio.run(_ls(options) if options.verb == "ls" else _show(options))


async def _ls(options: argparse.Namespace) -> int:
    async with recorded(options.data) as store:
        threads = [
            summary(thread, await store.events_of_thread(thread.tenant, thread.thread))
            for thread in await store.threads(options.limit)
        ]
    for line in threads:
        if options.json:
            say_json(line)
        else:
            say(line.text(style_for(sys.stdout)))
    if not threads and not options.json:
        say('nothing recorded yet: say something to an agent first (`ostinato run demo "Hello"`)')
    return 0


async def _show(options: argparse.Namespace) -> int:
    async with recorded(options.data) as store:
        found = await _find(store, options.tenant, options.id)
        for line in lines([event for _, event in found], [number for number, _ in found]):
            await _show_line(store, line, options)
    return 0


async def _show_line(store: Store, line: Line, options: argparse.Namespace) -> None:
    if options.json:
        say_json(line)
    else:
        say(line.text(style_for(sys.stdout)))
    if not options.steps or line.kind != "model.returned" or line.request is None:
        return
    for step in step_lines(line.request, await steps_of_request(store, line.request)):
        if options.json:
            say_json(step)
        else:
            say(step.text(style_for(sys.stdout)))


async def _find(store: Store, tenant: str, identity: str) -> list[tuple[int, StoredEvent]]:
    """Return the events of a thread, or of one run in its thread, with their numbers in the thread.

    Raises:
        NothingRecorded: the log knows no such id.
    """
    events = await store.events_of_thread(tenant, identity)
    if events:
        return [*enumerate(events, start=1)]
    own = await store.events_of_entity(tenant, "run", identity)
    if not own:
        raise NothingRecorded(identity)
    whole = await store.events_of_thread(tenant, own[0].fact.thread)
    mine = {event.fact.cause for event in own} | {identity}
    return [
        (number, event)
        for number, event in enumerate(whole, start=1)
        if event.fact.entity == identity or event.fact.cause in mine
    ]
