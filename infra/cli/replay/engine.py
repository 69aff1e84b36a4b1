"""`ostinato replay engine`: the last steps of an engine, or those behind a thread; and its plans made again.

After a crash the record says what the scheduler did last: the plans tell what it was told and what it decided.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from bus import subjects
from bus.steps import (
    StoredPlan,
    all_plans,
    last_number,
    last_plans,
    schedulers_of_request,
    steps_between,
)
from bus.store import Store
from engine.core.retrace import CannotRetrace, PlansMissing, Retrace
from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.replay.show import find_events
from infra.cli.replay.source import RecordedThreads, source
from infra.cli.replay.steps import EngineStall, EngineStep, engine_stall, engine_step
from infra.cli.replay.workers import Workers
from infra.cli.terminal import printable, style_for
from infra.cli.timeline import lines
from infra.errors import NothingRecorded
from schemas import codec
from schemas.errors import BadShape
from schemas.steps import StepPlan, StepResult, ToldMore

_REPORT = 500


class Verified(msgspec.Struct):
    """What came of making a scheduler's plans again."""

    engine: str
    scheduler: str
    plans: int = 0
    """Those that came out as they were recorded."""
    ok: bool = True
    problem: str = ""
    """Where and how the first differs, or what is missing."""
    recorded: int = 0
    """Plans that there are."""
    erased: int = 0
    """Requests whose tokens were erased. From the first of them on a plan may come out otherwise with nothing being
    wrong: those from there on are not counted as the same, nor as a problem."""
    running: int = 0
    """Requests that ran when its record ends."""
    waiting: int = 0
    idle_blocks: int = 0
    in_flight: int = 0
    """Steps whose results were not in."""

    def text(self) -> str:
        """Write it for a terminal."""
        if not self.ok:
            return f"{self.engine}, scheduler {self.scheduler}: {self.plans} plans come out the same; {self.problem}"
        if self.plans < self.recorded:
            return (
                f"{self.engine}, scheduler {self.scheduler}: {self.plans} plans of {self.recorded} come out the same; "
                f"the others cannot be made again, for the tokens of {self.erased} requests were erased"
            )
        left = f"{self.running} running, {self.waiting} waiting, {self.in_flight} steps under way"
        return (
            f"{self.engine}, scheduler {self.scheduler}: all {self.plans} plans come out the same; "
            f"at the end {left}, {self.idle_blocks} blocks idle"
        )


def main(options: argparse.Namespace) -> int:
    """Show steps, and make the plans of the schedulers that planned them again if asked to."""
    if (options.id is None) == (options.last is None):
        sys.stderr.write("ostinato replay engine: name a thread, run or generation, or use --last\n")
        return 2
    return asyncio.run(_engine(options))


async def _engine(options: argparse.Namespace) -> int:
    async with source(options) as threads:
        assert isinstance(threads, RecordedThreads)
        store = threads.store
        if options.last is not None:
            plans = await last_plans(store, options.last)
            schedulers = list(dict.fromkeys((plan.engine, plan.epoch) for plan in plans))
            await _show(store, plans, options)
        else:
            requests = await _requests(threads, options)
            found = [pair for request in requests for pair in await schedulers_of_request(store, request)]
            schedulers = list(dict.fromkeys(found))
            for engine, epoch in schedulers:
                plans = [plan async for plan in all_plans(store, engine, epoch) if _serves(plan, requests)]
                await _show(store, plans, options)
        if not schedulers:
            raise NothingRecorded(options.id or "steps of an engine")
        if not options.verify:
            return 0
        verified = [await _verify(store, engine, epoch) for engine, epoch in schedulers]
    for outcome in verified:
        if options.json:
            say_json(outcome)
        else:
            say(outcome.text())
    return 0 if all(outcome.ok for outcome in verified) else 1


async def _requests(threads: RecordedThreads, options: argparse.Namespace) -> set[str]:
    """Name the requests that a thread, run or generation made of the engine."""
    found = await find_events(threads, options.tenant, options.id)
    told = lines([event for _, event in found], [number for number, _ in found])
    return {line.request for line in told if line.request is not None}


def _serves(stored: StoredPlan, requests: set[str]) -> bool:
    if stored.kind != "plan":
        return False
    plan: StepPlan = codec.decode(stored.payload, StepPlan)
    return any(part.request in requests for part in plan.slices)


async def _show(store: Store, plans: Sequence[StoredPlan], options: argparse.Namespace) -> None:
    style, before, workers = style_for(sys.stdout), "", Workers(store)
    for stored in plans:
        if stored.epoch != before and not options.json:
            say(f"{subjects.decoded(stored.engine)}, scheduler {stored.epoch}")
        before = stored.epoch
        line = await _line(store, stored, workers)
        if not options.json and workers.fresh:
            say(style.aside(printable(workers.introduce())))
        if options.json:
            say_json(line)
        else:
            say(line.text(style))


async def _line(store: Store, stored: StoredPlan, workers: Workers) -> EngineStep | EngineStall:
    if stored.kind == "stall":
        return engine_stall(stored)
    steps = await steps_between(store, stored.engine, stored.epoch, stored.n, stored.n)
    results: list[StepResult] = [codec.decode(data, StepResult) for data in (steps[0].results if steps else ())]
    profile = await workers.profile(stored.engine, results[0].worker) if results else ""
    return engine_step(stored, results, profile)


async def _verify(store: Store, engine: str, epoch: str) -> Verified:
    """Make all plans of a scheduler again, from its first on."""
    outcome, retrace = Verified(subjects.decoded(engine), epoch), Retrace()
    outcome.recorded = await last_number(store, engine, epoch)
    with Bar(sys.stderr, "verifying") as bar:
        try:
            outcome.problem = await _retraced(store, epoch, retrace, outcome, bar)
        except (PlansMissing, BadShape) as error:
            outcome.ok, outcome.problem = False, str(error)
            return outcome
        except CannotRetrace as error:
            outcome.problem = str(error)
    outcome.erased = retrace.erased
    if outcome.problem:
        outcome.ok, outcome.problem = bool(outcome.erased), "" if outcome.erased else outcome.problem
        return outcome
    left = retrace.scheduler.statistics()
    outcome.running, outcome.waiting = left.running, left.waiting
    outcome.idle_blocks, outcome.in_flight = left.idle_blocks, left.in_flight
    return outcome


async def _retraced(store: Store, epoch: str, retrace: Retrace, outcome: Verified, bar: Bar) -> str:
    """Count the plans that come out the same until one does not; say how that differs."""
    engine = subjects.encoded(outcome.engine)
    async for stored in all_plans(store, engine, epoch):
        problem = _follow(retrace, stored)
        if problem:
            return problem
        outcome.plans += stored.kind == "plan"
        if outcome.plans % _REPORT == 0:
            bar(outcome.plans, outcome.recorded, f"{outcome.plans} plans")
    await _finish(store, engine, epoch, retrace)
    return ""


async def _finish(store: Store, engine: str, epoch: str, retrace: Retrace) -> None:
    """Take in the results that came after the last plan."""
    for n in retrace.in_flight:
        for step in await steps_between(store, engine, epoch, n, n):
            for data in step.results[:1]:
                retrace.finish(codec.decode(data, StepResult))


def _follow(retrace: Retrace, stored: StoredPlan) -> str:
    """Go one step further; say how a plan differs."""
    if stored.kind == "told":
        retrace.follow_more(codec.decode(stored.payload, ToldMore))
    if stored.kind != "plan":
        return ""
    found = retrace.follow(codec.decode(stored.payload, StepPlan))
    if found is None:
        return ""
    return f"plan {found.n} has {found.field} {_short(found.recorded)}, and comes out with {_short(found.made)}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
