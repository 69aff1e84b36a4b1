"""`ostinato replay`: list threads, show what happened, verify what was decided."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from actors.agent.loop import ConversationMachine
from actors.errors import Divergence
from actors.runtime.machine import Machine
from actors.runtime.replay import Recorded, Verdict, verify
from actors.serving.generation import GenerationMachine
from bus.store import Store, StoredEvent
from infra.access import recorded
from infra.cli.terminal import style_for
from infra.cli.timeline import Line, lines, step_lines, summary
from infra.errors import NothingRecorded

_EVERY = 1_000_000


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return asyncio.run(_VERBS[options.verb](options))


async def _ls(options: argparse.Namespace) -> int:
    async with recorded(options.data) as store:
        threads = [
            summary(thread, await store.events_of_thread(thread.tenant, thread.thread))
            for thread in await store.threads(options.limit)
        ]
    for line in threads:
        if options.json:
            _print_json(line)
        else:
            _print(line.text(style_for(sys.stdout)))
    if not threads and not options.json:
        _print('nothing recorded yet: say something to an agent first (`ostinato run demo "Hello"`)')
    return 0


async def _show(options: argparse.Namespace) -> int:
    async with recorded(options.data) as store:
        events = await _find(store, options.tenant, options.id)
        for line in lines(events):
            await _show_line(store, line, options)
    return 0


async def _show_line(store: Store, line: Line, options: argparse.Namespace) -> None:
    if options.json:
        _print_json(line)
    else:
        _print(line.text(style_for(sys.stdout)))
    if not options.steps or line.kind != "model.returned" or line.request is None:
        return
    for step in step_lines(line.request, await store.steps_of_request(line.request)):
        if options.json:
            _print_json(step)
        else:
            _print(step.text(style_for(sys.stdout)))


async def _find(store: Store, tenant: str, identity: str) -> list[StoredEvent]:
    """Return the events of a thread, or of one run in its thread.

    Raises:
        NothingRecorded: the log knows no such id.
    """
    events = await store.events_of_thread(tenant, identity)
    if events:
        return events
    own = await store.events_of_entity(tenant, "run", identity)
    if not own:
        raise NothingRecorded(identity)
    whole = await store.events_of_thread(tenant, own[0].fact.thread)
    mine = {event.fact.cause for event in own} | {identity}
    return [event for event in whole if event.fact.entity == identity or event.fact.cause in mine]


async def _verify(options: argparse.Namespace) -> int:
    if not options.ids and not options.all:
        sys.stderr.write("ostinato replay verify: name threads, or use --all\n")
        return 2
    async with recorded(options.data) as store:
        places = [(options.tenant, identity) for identity in options.ids]
        places = places or [(thread.tenant, thread.thread) for thread in await store.threads(_EVERY)]
        differing = 0
        for tenant, identity in places:
            differing += not await _verify_one(store, tenant, identity, options)
    if not options.json:
        _print(f"{len(places)} verified, {differing} differ")
    return 1 if differing else 0


async def _verify_one(store: Store, tenant: str, identity: str, options: argparse.Namespace) -> bool:
    events = await store.events_of_thread(tenant, identity)
    if not events:
        raise NothingRecorded(identity)
    machine: Machine[object] = GenerationMachine() if events[0].fact.kind == "generation" else ConversationMachine()  # type: ignore[assignment]
    try:
        verdict: Verdict = verify(machine, tenant, identity, _recorded(events))
    except Divergence as difference:
        if options.json:
            _print_json(
                {
                    "thread": identity,
                    "ok": False,
                    "place": difference.place,
                    "event": difference.event,
                    "expected": difference.expected,
                    "actual": difference.actual,
                }
            )
        else:
            style = style_for(sys.stdout)
            _print(f"{identity}: {style.problem('DIFFERS')} at {difference.place}, event {difference.event}")
            _print(f"    the code decides  {difference.expected}")
            _print(f"    the record says   {difference.actual}")
        return False
    if options.json:
        _print_json({"thread": identity, "ok": True, **verdict._asdict()})
    else:
        waits = f", still open: {', '.join(verdict.open)}" if verdict.open else ""
        _print(f"{identity}: same ({verdict.events} events, {verdict.decisions} decisions{waits})")
    return True


def _recorded(events: Sequence[StoredEvent]) -> list[Recorded]:
    return [
        Recorded(
            place=f"{event.sequence}/{event.idx}",
            time=event.time,
            kind=event.fact.kind,
            entity=event.fact.entity,
            version=event.fact.version,
            type=event.fact.type,
            payload=bytes(event.fact.payload),
            cause=event.fact.cause,
            sequence=event.sequence,
        )
        for event in events
    ]


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


_VERBS = {"ls": _ls, "show": _show, "verify": _verify}
