"""`ostinato replay ls` and `show`: list threads, and tell what happened in one."""

from __future__ import annotations

import argparse
import asyncio
import sys

from bus.retention import steps_gone_before
from bus.steps import frames_of_call, holes_of_request, steps_of_request
from bus.store import Store, StoredEvent
from infra.cli.gaps import GapLine, gap_lines
from infra.cli.printing import say, say_json
from infra.cli.replay.source import RecordedThreads, Source, source
from infra.cli.terminal import style_for
from infra.cli.timeline import (
    ExpiredSteps,
    Line,
    StepLine,
    expired_steps,
    lines,
    step_lines,
    summary,
)
from infra.errors import NothingRecorded
from schemas import codec
from schemas.runs import ModelReturned


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return asyncio.run(_ls(options) if options.verb == "ls" else _show(options))


async def _ls(options: argparse.Namespace) -> int:
    async with source(options) as threads:
        if options.imported and isinstance(threads, RecordedThreads):
            latest = await threads.imported(options.limit)
        else:
            latest = await threads.latest(options.limit)
    found = [summary(*thread) for thread in latest]
    for line in found:
        if options.json:
            say_json(line)
        else:
            say(line.text(style_for(sys.stdout)))
    if not found and not options.json and not options.imported:
        say('nothing recorded yet: say something to an agent first (`ostinato run demo "Hello"`)')
    return 0


async def _show(options: argparse.Namespace) -> int:
    async with source(options) as threads:
        found = await find_events(threads, options.tenant, options.id)
        told = lines([event for _, event in found], [number for number, _ in found])
        for line, (_, event) in zip(told, found, strict=True):
            _show_line(line, options)
            if options.steps and line.kind == "model.returned" and isinstance(threads, RecordedThreads):
                await _show_steps(threads.store, line, event, options)
    return 0


def _show_line(line: Line | StepLine | GapLine | ExpiredSteps, options: argparse.Namespace) -> None:
    if options.json:
        say_json(line)
    else:
        say(line.text(style_for(sys.stdout)))


async def _show_steps(store: Store, line: Line, event: StoredEvent, options: argparse.Namespace) -> None:
    """Show the steps that served a model call, and what of it the trace has lost."""
    assert line.request is not None
    steps = step_lines(line.request, await steps_of_request(store, line.request))
    for step in steps:
        _show_line(step, options)
    gone = expired_steps(line, await steps_gone_before(store))
    if gone is not None:
        _show_line(gone, options)
        return
    answer = codec.event_of(event.fact)
    assert isinstance(answer, ModelReturned)
    frames = await frames_of_call(store, event.fact.tenant, event.fact.kind, event.fact.entity, answer.effect)
    if not steps and not frames.deltas and not frames.shed:
        return  # nothing of it was recorded yet
    for gap in gap_lines(answer.text, await holes_of_request(store, line.request), frames):
        _show_line(gap, options)


async def find_events(threads: Source, tenant: str, identity: str) -> list[tuple[int, StoredEvent]]:
    """Return the events of a thread, or of one run in its thread, with their numbers in the thread.

    Raises:
        NothingRecorded: there is neither.
    """
    try:
        return [*enumerate((await threads.thread(tenant, identity)).events, start=1)]
    except NothingRecorded:
        whole = (await threads.run(tenant, identity)).events
    mine = {event.fact.cause for event in whole if event.fact.entity == identity} | {identity}
    return [
        (number, event)
        for number, event in enumerate(whole, start=1)
        if event.fact.entity == identity or event.fact.cause in mine
    ]
