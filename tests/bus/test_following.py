"""What a thread's events come to in the books: the same however they are cut, each thing counted once, none skipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.following import FOLLOWED
from bus.places import AT_REST, Place
from bus.projecting import fold
from bus.projections import PROJECTIONS, Collected
from bus.store import StoredEvent
from infra.bundles import Bundle
from schemas import codec
from schemas.commands import AbortRun, Command, Generate, RunAgent
from schemas.envelope import Fact
from schemas.forks import Fork, Past
from schemas.hooks import StepPrepared
from schemas.messages import Usage
from schemas.runs import (
    CommandAccepted,
    Event,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Problem,
    RunFailed,
    RunFinished,
    RunQueued,
    RunStarted,
    ThreadForked,
    ToolCalled,
)
from schemas.standing import GoalJudged
from tests.schemas.examples import EXAMPLES

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "threads").glob("*.jsonl"))
THREADS = [events for path in GOLDEN for events in Bundle(path).threads()]
DAY = 86_400_000_000
Books = dict[str, Collected]

started = next(event for event in EXAMPLES if isinstance(event, RunStarted))
called = next(event for event in EXAMPLES if isinstance(event, ModelCalled))
wished = next(event for event in EXAMPLES if isinstance(event, ToolCalled))


def returned(prompt: int, completion: int, finish: Any = "stop") -> ModelReturned:
    return ModelReturned(effect="e", text="t", finish_reason=finish, usage=Usage(prompt, completion))


def accepted(data: Any, id_: str = "c1") -> CommandAccepted:
    return CommandAccepted(command=Command(id=id_, tenant="acme", kind="agent", thread="t1", verb="v", data=data))


class Writer:
    """Numbers events as a log would."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []

    def add(
        self, event: Event | Fact, entity: str = "r1", kind: str = "run", thread: str = "t1", time: int = 0
    ) -> None:
        if not isinstance(event, Fact):
            event = Fact("acme", thread, kind, entity, 1, codec.tag(event), "c1", codec.payload(event))
        number = len(self.events) + 1
        self.events.append(StoredEvent(1, number, 0, time or number, event))

    def run(self, *events: Event, run: str = "r1", **more: Any) -> None:
        for event in events:
            self.add(event, run, **more)


def books(events: Sequence[StoredEvent]) -> Books:
    """Fold from nothing, at once."""
    rows: Books = {name: {} for name in PROJECTIONS}
    fold({}, rows, events)
    return rows


def batched(events: Sequence[StoredEvent], cuts: Iterable[int]) -> Books:
    """Fold batch by batch as the projector does: places are written down and read again, rows are merged."""
    rows: Books = {name: {} for name in PROJECTIONS}
    kept: dict[tuple[str, str], bytes] = {}
    for first, last in itertools.pairwise([0, *sorted(cuts), len(events)]):
        places = {key: codec.decode(data, Place) for key, data in kept.items()}
        part: Books = {name: {} for name in PROJECTIONS}
        fold(places, part, events[first:last])
        kept = {key: codec.encode(place) for key, place in places.items() if place != AT_REST}
        for name in PROJECTIONS:
            for key, row in part[name].items():
                rows[name][key] = merged(name, rows[name].get(key, {}), row)
    return rows


def merged(name: str, there: dict[str, Any], comes: dict[str, Any]) -> dict[str, Any]:
    """Merge two rows of one key as Postgres does."""
    rules = {column.name: column.rule for column in PROJECTIONS[name].columns}
    added = {column: there.get(column, 0) + value for column, value in comes.items() if rules[column] == "add"}
    first = {column: value for column, value in there.items() if rules[column] == "first"}
    return there | comes | first | added


def summed(rows: Collected, column: str) -> int:
    return sum(row.get(column, 0) for row in rows.values())


def test_every_event_there_is_has_been_thought_of() -> None:
    assert codec.READABLE == FOLLOWED


@st.composite
def logs(draw: st.DrawFn) -> list[StoredEvent]:
    """Any events in any order: whole runs as recorded, single ones, unknown and sealed ones, of a few threads."""
    writer = Writer()
    for _ in range(draw(st.integers(0, 12))):
        thread, run = draw(st.sampled_from(["t1", "t2"])), draw(st.sampled_from(["r1", "r2"]))
        match draw(st.sampled_from(["golden", "any", "any", "strange"])):
            case "golden":
                for stored in draw(st.sampled_from(THREADS)):
                    writer.add(msgspec.structs.replace(stored.fact, thread=thread), time=stored.time)
            case "any":
                event = draw(st.sampled_from(EXAMPLES))
                writer.add(
                    event, run, draw(st.sampled_from(["run", "generation"])), thread, draw(st.integers(1, 1 << 60))
                )
            case _:
                type_ = draw(st.sampled_from(["model.dreamt", "run.started", "tool.called"]))
                key = draw(st.sampled_from([None, "k1"]))
                writer.add(Fact("acme", thread, "run", run, 1, type_, "c1", msgspec.Raw(b"{}"), "", key))
    return writer.events


@given(logs(), st.data())
def test_it_does_not_matter_where_batches_are_cut(events: list[StoredEvent], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=8))
    assert batched(events, cuts) == books(events)


@given(logs())
def test_what_runs_used_is_what_the_days_used_and_no_event_is_skipped(events: list[StoredEvent]) -> None:
    found = books(events)
    for column in ("model_calls", "tool_calls", "prompt_tokens", "completion_tokens", "cached_tokens"):
        assert summed(found["runs"], column) == summed(found["usage"], column)
    assert summed(found["threads"], "events") == len(events)
    assert summed(found["threads"], "runs") == summed(found["usage"], "runs")
    assert summed(found["threads"], "unread") == summed(found["usage"], "unread")
    stopped = [row for row in found["threads"].values() if "stopped" in row]
    assert all(row["unread"] > 0 and row["status"] == "stopped" for row in stopped)
    assert sum(row["unread"] for row in stopped) == summed(found["threads"], "unread")


@pytest.mark.parametrize("events", THREADS, ids=lambda events: events[0].fact.thread)
def test_recorded_threads_are_counted_as_they_show(events: list[StoredEvent]) -> None:
    types = [stored.fact.type for stored in events]
    here = events[types.index("thread.forked") + 1 :] if "thread.forked" in types else events
    own = [codec.event_of(stored.fact) for stored in here]
    used = [event.usage for event in own if isinstance(event, ModelReturned | StepPrepared | GoalJudged)]
    found = books(events)
    (thread,) = found["threads"].values()
    assert "stopped" not in thread
    assert thread.get("status", "idle") == ("deleted" if "thread.deleted" in types else "idle")
    assert (thread["events"], thread.get("messages", 0)) == (len(events), types.count("message.added"))
    assert (thread["first"], thread["last"]) == (events[0].time, events[-1].time)
    assert summed(found["usage"], "prompt_tokens") == sum(usage.prompt_tokens for usage in used)
    assert summed(found["usage"], "completion_tokens") == sum(usage.completion_tokens for usage in used)
    assert summed(found["usage"], "model_calls") == sum(isinstance(event, ModelCalled) for event in own)
    assert summed(found["usage"], "tool_calls") == sum(isinstance(event, ToolCalled) for event in own)
    ends = [event for event in own if isinstance(event, RunFinished | RunFailed)]
    if events[0].fact.kind != "generation":
        joined = [stored.fact.entity for stored in here if stored.fact.type == "run.joined"]
        rows = {key[-1]: row["status"] for key, row in found["runs"].items()}
        assert len(rows) == thread.get("runs", 0) + len(joined) == len(ends) + len(joined)
        assert all(rows.pop(run) == "finished" for run in joined)
        assert [status == "failed" for status in rows.values()] == [isinstance(end, RunFailed) for end in ends]


def test_a_run_tells_how_it_stands_and_ended() -> None:
    writer = Writer()
    writer.run(RunQueued(behind="r0", profile=started.profile))
    assert books(writer.events)["threads"]["acme", "t1"]["status"] == "queued"
    writer.run(started, called, returned(10, 5, "tool_calls"), wished, called, returned(20, 7))
    assert books(writer.events)["threads"]["acme", "t1"]["status"] == "running"
    writer.run(RunFinished(text="4", steps=2, usage=Usage(), finish_reason="length"))
    assert books(writer.events)["runs"] == {
        ("acme", "t1", "r1"): {
            "kind": "agent",
            "agent": "demo",
            "model": "m",
            "status": "finished",
            "reason": "length",
            "asked": 1,
            "started": 2,
            "finished": 8,
            "model_calls": 2,
            "tool_calls": 1,
            "prompt_tokens": 30,
            "completion_tokens": 12,
            "cached_tokens": 0,
        }
    }


def test_what_is_asked_beside_a_run_and_of_its_judge_counts_for_whoever_answered() -> None:
    writer = Writer()
    asked = {"small": Usage(40, 1), "other": Usage(2, 3)}
    writer.run(started, StepPrepared("r1-1-p", usage=Usage(42, 4), engines=asked), called, returned(10, 5))
    # written before it was known who answered
    writer.run(StepPrepared("r1-2-p", usage=Usage(7)), RunFinished(text="4", steps=1, usage=Usage(59, 9)))
    judged = GoalJudged("r1-1-g", "done", usage=Usage(300, 20), agent="demo", engine="small")
    writer.add(judged, "t1", "thread")
    found = books(writer.events)
    run, day = found["runs"]["acme", "t1", "r1"], date(1970, 1, 1)
    assert (run["status"], run["prompt_tokens"], run["completion_tokens"]) == ("finished", 359, 29)
    took = {key[2]: (row["prompt_tokens"], row["completion_tokens"]) for key, row in found["usage"].items() if
            "prompt_tokens" in row}  # fmt: skip
    assert took == {"m": (17, 5), "small": (340, 21), "other": (2, 3)}
    assert {key[1::2] for key in found["usage"]} == {("demo", day)}


def test_a_run_that_waits_for_a_person_says_so_until_it_does_not() -> None:
    writer = Writer()
    asked, given_ = (next(e for e in EXAMPLES if codec.tag(e) == f"approval.{name}") for name in ("requested", "given"))
    states = []
    for event in (started, called, returned(1, 1), asked, asked, given_, given_, wished):
        writer.run(event)
        found = books(writer.events)
        states.append(found["runs"]["acme", "t1", "r1"]["status"])
        assert found["threads"]["acme", "t1"]["status"] == states[-1]
    assert states == ["running"] * 3 + ["waiting"] * 3 + ["running"] * 2


def test_a_run_over_midnight_is_counted_on_the_days_its_calls_were() -> None:
    writer = Writer()
    writer.run(started, called, returned(10, 5), time=DAY - 1)
    writer.run(called, returned(20, 7), RunFailed(problem=Problem("aborted", "m"), steps=2), time=DAY)
    usage = books(writer.events)["usage"]
    assert usage["acme", "demo", "Qwen/Qwen3-0.6B", date(1970, 1, 1)] == {"runs": 1}
    assert usage["acme", "demo", "m", date(1970, 1, 1)]["prompt_tokens"] == 10
    assert usage["acme", "demo", "m", date(1970, 1, 2)] == {
        "model_calls": 1,
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "cached_tokens": 0,
        "failed": 1,
    }


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (returned(3, 4), "finished", "stop"),
        (returned(3, 4, "abort"), "failed", "abort"),
        (ModelFailed(effect="e", problem=Problem("engine", "m")), "failed", "engine"),
    ],
)
def test_a_bare_generation_is_a_run_without_an_agent(end: Event, status: str, reason: str) -> None:
    writer = Writer()
    for event in (accepted(Generate(model="m", messages=())), called, end):
        writer.add(event, "g1", "generation", "g1")
    found = books(writer.events)
    row = found["runs"]["acme", "g1", "g1"]
    assert (row["kind"], row["agent"], row["status"], row["reason"]) == ("generation", "", status, reason)
    assert found["threads"]["acme", "g1"]["kind"] == "generation"
    assert {key[1] for key in found["usage"]} == {""}
    assert summed(found["usage"], "failed") == (status == "failed")


def _fork(*history: tuple[str, Event]) -> Writer:
    writer = Writer()
    fork = Fork(origin="t0", at=len(history), history=(Past("run", "r1", {}),))
    writer.add(accepted(fork), "t1", "thread")
    for name, event in history:
        writer.run(event, run=name)
    return writer


def test_what_a_fork_took_over_is_counted_where_it_happened() -> None:
    over = RunFinished(text="4", steps=1, usage=Usage(10, 5))
    writer = _fork(("r1", started), ("r1", called), ("r1", returned(10, 5)), ("r1", over))
    writer.add(ThreadForked(origin="t0", at=4), "t1", "thread")
    found = books(writer.events)
    assert (found["runs"], found["usage"]) == ({}, {})
    assert found["threads"]["acme", "t1"] | {"events": 6, "origin": "t0", "runs": 0} == found["threads"]["acme", "t1"]


def test_a_run_that_goes_on_in_a_fork_counts_what_it_does_there() -> None:
    writer = _fork(("r1", started), ("r1", called), ("r1", returned(10, 5)), ("r2", RunQueued("r1", started.profile)))
    profile = msgspec.structs.replace(started.profile, agent="other")
    writer.add(ThreadForked(origin="t0", at=4, run="r1", profile=profile), "t1", "thread", time=50)
    writer.run(called, returned(20, 7), RunFinished(text="4", steps=2, usage=Usage(30, 12)), time=60)
    writer.run(started, run="r2", time=70)
    found = books(writer.events)
    first, second = found["runs"]["acme", "t1", "r1"], found["runs"]["acme", "t1", "r2"]
    assert (first["agent"], first["forked"], first["started"]) == ("other", True, 50)
    assert (first["model_calls"], first["prompt_tokens"], first["completion_tokens"]) == (1, 20, 7)
    assert (second["status"], second["asked"], second["started"]) == ("running", 50, 70)
    assert summed(found["usage"], "runs") == found["threads"]["acme", "t1"]["runs"] == 2
    assert summed(found["usage"], "prompt_tokens") == 20


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (Fact("acme", "t1", "run", "r1", 9, "model.dreamt", "c", msgspec.Raw(b"{}")), "does not know it"),
        (Fact("acme", "t1", "run", "r1", 9, "run.finished", "c", msgspec.Raw(b'{"type":"run.finished"}')), "text"),
        (
            Fact("acme", "t1", "run", "r1", 9, "run.finished", "c", msgspec.Raw(b'"x"'), "", "k1"),
            "it is sealed",
        ),
        (Fact("acme", "t1", "run", "r9", 9, "tool.called", "c", msgspec.Raw(b"{}")), "run 'r9' is not under way"),
        (
            Fact("acme", "t1", "run", "r1", 9, "model.returned", "c", codec.payload(returned(1 << 62, 0))),
            "no call uses",
        ),
    ],
)
def test_an_event_that_cannot_be_followed_stops_its_thread_alone_and_says_so(fact: Fact, why: str) -> None:
    writer = Writer()
    writer.run(started, called)
    writer.run(started, called, thread="t2")
    writer.add(fact)
    writer.run(returned(10, 5), RunFinished(text="", steps=1, usage=Usage()))
    writer.run(returned(10, 5), RunFinished(text="", steps=1, usage=Usage()), thread="t2")
    found = books(writer.events)
    thread = found["threads"]["acme", "t1"]
    assert (thread["status"], thread["events"], thread["unread"]) == ("stopped", 5, 3)
    assert thread["stopped"].startswith(f"event 5/0 {fact.type!r}: ")
    assert why in thread["stopped"]
    assert found["runs"]["acme", "t1", "r1"]["status"] == "stopped"
    assert found["runs"]["acme", "t2", "r1"]["status"] == "finished"
    assert summed(found["usage"], "unread") == 3
    assert summed(found["usage"], "prompt_tokens") == 10


def test_a_sealed_event_of_which_the_type_says_enough_is_followed() -> None:
    writer = Writer()
    writer.add(Fact("acme", "t1", "thread", "t1", 1, "message.added", "c", msgspec.Raw(b'"c2VhbGVk"'), "", "k1"))
    assert books(writer.events)["threads"]["acme", "t1"]["messages"] == 1


def test_names_that_postgres_cannot_hold_are_cut_and_cleaned() -> None:
    writer = Writer()
    profile = msgspec.structs.replace(started.profile, agent="a\0" + "b" * 5000)
    writer.run(RunStarted(profile=profile), time=(1 << 62))
    (key,) = books(writer.events)["usage"]
    assert key[1] == "a\N{REPLACEMENT CHARACTER}" + "b" * 198
    assert key[3] == date.max


def test_other_commands_change_nothing_but_the_count() -> None:
    writer = Writer()
    for data in (RunAgent("demo", "hi"), AbortRun()):
        writer.add(accepted(data), "t1", "thread")
    found = books(writer.events)
    assert (found["runs"], found["usage"]) == ({}, {})
    assert found["threads"]["acme", "t1"] == {"events": 2, "first": 1, "last": 2, "kind": "agent"}
