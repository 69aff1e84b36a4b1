"""What holds of every kind of effect, whatever was done to the stack: read from the log and the witnesses alone."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from actors.agent.delegation import child_run, child_thread
from actors.agent.run import call_of
from actors.memory.embedding import WordEmbedder
from actors.memory.indexing import catch_up
from actors.schedules.cron import zone_of
from bus.projections import PROJECTIONS
from bus.projector import bring_up
from bus.rebuild import rebuild
from bus.store import Store, read_events
from bus.vectors import spoken_in
from infra.cli.replay.checking import Checked
from infra.cli.replay.sweeping import sweep
from schemas import codec
from schemas.envelope import Fact

INTENTIONS: Mapping[str, tuple[str, ...]] = {
    "model.called": ("model",),
    "tool.called": ("tool",),
    "approval.requested": ("approval", "tool"),
    "tool.suspended": ("continued",),
    "tool.handed_over": ("tool",),
    "task.started": ("task",),
    "child.disowned": ("child",),
    "condensing.begun": ("condensing",),
    "retry.scheduled": ("retry",),
    "schedule.fired": ("sent",),
}
"""Each is settled by a result of one of these sorts, for the same effect."""
RESULTS: Mapping[str, str] = {
    "model.returned": "model",
    "model.failed": "model",
    "tool.returned": "tool",
    "tool.failed": "tool",
    "tool.indeterminate": "tool",
    "tool.suspended": "tool",
    "approval.given": "approval",
    "approval.denied": "approval",
    "tool.continued": "continued",
    "task.ended": "task",
    "task.cancelled": "task",
    "child.ended": "child",
    "condensing.ended": "condensing",
    "retry.due": "retry",
    "schedule.sent": "sent",
}
BROKEN_OFF = frozenset({"model.called", "retry.scheduled"})
"""What a run that failed may leave without a result: it was ended meanwhile."""
ENDS = frozenset({"run.finished", "run.failed", "run.joined"})
WITNESSED = frozenset({"calculator", "note", "pay", "ask", "dig", "post", "fetch", "stamp"})
"""Tools that leave a witness."""
EMBEDDER = WordEmbedder()

_Place = tuple[str, str]
"""A thread, and an effect, run or command in it."""


class Told(msgspec.Struct):
    """What laws need to know of any event."""

    effect: str = ""
    run: str = ""
    call: Any = None
    effect_class: str = ""
    command: Any = None
    upto: int = 0
    by: str = ""

    @property
    def about(self) -> str:
        """Name the effect; a schedule's is the run that it asks for."""
        return self.effect or self.run


@dataclass(slots=True)
class Books:
    """Intentions and results, of threads, runs and schedules."""

    intended: dict[_Place, list[str]] = field(default_factory=lambda: defaultdict(list))
    settled: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    begun: set[_Place] = field(default_factory=set)
    ended: Counter[_Place] = field(default_factory=Counter)
    broken: set[_Place] = field(default_factory=set)
    """Runs that failed."""
    accepted: Counter[_Place] = field(default_factory=Counter)
    renamed: Counter[str] = field(default_factory=Counter)
    observed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    fired: Counter[_Place] = field(default_factory=Counter)
    by_hand: Counter[str] = field(default_factory=Counter)
    """Fires of a schedule that somebody wanted."""
    wanted: Counter[str] = field(default_factory=Counter)
    """Commands that wanted them."""
    delegated: set[_Place] = field(default_factory=set)
    """Calls of other agents that returned, by thread and effect."""
    called: dict[_Place, Told] = field(default_factory=dict)
    results: dict[_Place, str] = field(default_factory=dict)
    remembered: int = 0

    def take(self, fact: Fact) -> None:
        """Fold a fact."""
        if fact.kind not in {"run", "thread", "schedule"}:
            return
        told: Told = codec.decode(bytes(fact.payload), Told)
        place = (fact.thread, told.about)
        if fact.type in INTENTIONS:
            self.intended[place].append(fact.type)
        if fact.type in RESULTS:
            self.settled[(*place, RESULTS[fact.type])] += 1
            self.results[place] = fact.type
        if fact.type in {"tool.called", "task.started"}:
            self.called[place] = told
        self._of_run(fact)
        self._beside(fact, told)

    def _of_run(self, fact: Fact) -> None:
        run = (fact.thread, fact.entity)
        if fact.type in {"run.started", "run.queued"}:
            self.begun.add(run)
        if fact.type in ENDS:
            self.ended[run] += 1
        if fact.type == "run.failed":
            self.broken.add(run)

    def _beside(self, fact: Fact, told: Told) -> None:
        match fact.type:
            case "command.accepted":
                self.accepted[fact.thread, told.command["id"]] += 1
                self.wanted[fact.thread] += told.command["verb"] == "fire"
                self.remembered += told.command["verb"] == "remember"
            case "thread.renamed":
                self.renamed[fact.thread] += 1
            case "memory.observed":
                self.observed[fact.thread].append(told.upto)
            case "schedule.fired":
                self.fired[codec.decode(bytes(fact.payload), dict[str, Any])["thread"], told.run] += 1
                self.by_hand[fact.thread] += bool(told.by)
            case _:
                pass

    def open(self) -> list[str]:
        """Name what was begun and has not ended."""
        found = [f"run {run} of {thread} has no end" for thread, run in self.begun if not self.ended[thread, run]]
        for (thread, effect), kinds in self.intended.items():
            for kind in kinds:
                if kind in BROKEN_OFF and any((thread, run) in self.broken for run in _runs(effect)):
                    continue
                if not any(self.settled[thread, effect, sort] for sort in INTENTIONS[kind]):
                    found.append(f"{kind} {effect} of {thread} came to nothing")
        return found + [
            f"{run} was fired and not asked" for thread, run in self.fired if not self.accepted[thread, run]
        ]

    def twice(self) -> list[str]:
        """Name what happened more than once."""
        found = [f"{kind} of {effect} in {thread}: {n} times" for (thread, effect, kind), n in _more(self.settled)]
        found += [f"run {run} of {thread} ended {count} times" for (thread, run), count in _more(self.ended)]
        found += [f"command {name} of {thread} was accepted {n} times" for (thread, name), n in _more(self.accepted)]
        found += [f"thread {thread} was given {count} titles" for thread, count in _more(self.renamed)]
        found += [f"{run} was fired {count} times" for (_, run), count in _more(self.fired)]
        for (thread, effect), kinds in self.intended.items():
            found += [f"{kind} {effect} of {thread}: {count} times" for kind, count in _more(Counter(kinds))]
        return found

    def wrong(self) -> list[str]:
        """Name what does not follow from one another."""
        found = [
            f"{thread} observed up to {upto} in turn"
            for thread, upto in self.observed.items()
            if sorted(set(upto)) != upto
        ]
        found += [
            f"schedule {schedule} fired {self.by_hand[schedule]} times by hand, and was asked to {count} times"
            for schedule, count in self.wanted.items()
            if count != self.by_hand[schedule]
        ]
        written = [place for place in self.called if self._name(place) == "update_working_memory"]
        returned = sum(self.results.get(place) == "tool.returned" for place in written)
        if not returned <= self.remembered <= len(written):
            found.append(f"of {len(written)} writes {returned} returned, and {self.remembered} were remembered")
        return found + self._orphans()

    def _orphans(self) -> list[str]:
        """Name calls of other agents that returned and were no run."""
        found = []
        for thread, effect in self.called:
            if self._name((thread, effect)) in {"helper", "payer"}:
                child = child_thread("default", thread, effect)
                returned = self.results.get((thread, effect)) == "tool.returned"
                if returned and not self.ended[child, child_run(child)]:
                    found.append(f"{effect} of {thread} returned, and its run {child} has no end")
        return found

    def _name(self, place: _Place) -> str:
        return str(self.called[place].call["name"])


def _runs(effect: str) -> tuple[str, ...]:
    # `<run>-<step>-m<attempt>`, `-r<attempt>`
    return (effect.rsplit("-", 2)[0],)


def _more(counted: Counter[Any]) -> Iterable[tuple[Any, int]]:
    return [(key, count) for key, count in counted.items() if count > 1]


def key_of(thread: str, effect: str, told: Told) -> str:
    """Give the key that a call's witness has; an MCP server is told nothing but its arguments."""
    if told.call["name"] == "stamp":
        return f"stamp:{msgspec.json.decode(told.call['arguments'])['what']}"
    return f"default/{thread}/{call_of(effect)}"


async def verified(store: Store) -> tuple[int, list[str]]:
    """Decide all threads again; return how many there are, and those that are decided otherwise."""
    await asyncio.to_thread(zone_of, "UTC")  # schedules' decisions read no files
    found: list[Checked] = []
    async for outcomes in sweep(store, 2, lambda _done, _all: None):
        found += outcomes
    wrong = [one for one in found if not one.ok]
    return len(found), [
        f"{one.thread} {one.state} at {one.place}, {one.event}: {one.expected} {one.actual}"[:500] for one in wrong
    ]


async def rebuilt(store: Store) -> list[str]:
    """Make the projections again, and name the rows that are not what they were."""
    await bring_up(store)
    before = await _projected(store)
    await rebuild(store, [*PROJECTIONS])
    after = await _projected(store)
    return [
        f"{name} {key}: {before[name].get(key)} before, {after[name].get(key)} made again"
        for name in before
        for key in {*before[name], *after[name]}
        if before[name].get(key) != after[name].get(key)
    ]


async def _projected(store: Store) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, projection in PROJECTIONS.items():
        keys = [column.name for column in projection.columns if column.rule == "key"]
        rows = [dict(row) for row in await store.rows(f"SELECT * FROM {name}")]
        found[name] = {str([row[key] for key in keys]): str(sorted(row.items())) for row in rows}
    return found


async def indexed(store: Store) -> list[str]:
    """Make the vectors that are still to be made, and name what was said and has none, or has one and was not said."""
    await catch_up(store, EMBEDDER)
    rows = await store.rows("SELECT * FROM event WHERE type IN ('message.added', 'model.returned')")
    events = await read_events(store, rows)
    said = {(one.incarnation, one.sequence, one.idx) for one in events if spoken_in(one) is not None}
    rows = await store.rows("SELECT incarnation, seq, idx FROM spoken_vector WHERE embedder = $1", EMBEDDER.name)
    kept = {tuple(row) for row in rows}
    found = [f"what was said at {place} has no vector" for place in said - kept]
    return found + [f"the vector of {place} is of nothing that was said" for place in kept - said]


def fold(facts: Sequence[Fact]) -> Books:
    """Fold the facts of a log."""
    books = Books()
    for fact in facts:
        books.take(fact)
    return books
