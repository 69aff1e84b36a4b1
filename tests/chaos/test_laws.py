"""The oracle sees what is wrong with a log: each law, broken by one event too many, too few, or in the wrong place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.envelope import Fact
from tests.chaos.laws import Books, fold
from tests.chaos.oracle import Times, Verdict, tools

CALL = {"id": "k1", "name": "note", "arguments": "{}"}
ACCEPTED = {"command": {"id": "r1", "verb": "run"}}


def fact(kind: str, /, *, entity: str = "r1", of: str = "run", thread: str = "t1", **payload: Any) -> Fact:
    data = msgspec.Raw(msgspec.json.encode({"type": kind, **payload}))
    return Fact("default", thread, of, entity, 1, kind, "c1", data)


def of_tool(kind: str, **payload: Any) -> Fact:
    return fact(kind, effect="r1-1-t0", **payload)


BEGUN = (fact("run.started"), fact("run.finished"))
CALLED = of_tool("tool.called", call=CALL, effect_class="once")


def wrongs(*facts: Fact) -> dict[str, list[str]]:
    books = fold(facts)
    return {"open": books.open(), "twice": books.twice(), "wrong": books.wrong()}


def test_a_whole_story_breaks_no_law() -> None:
    story = (fact("command.accepted", of="thread", **ACCEPTED), *BEGUN, CALLED, of_tool("tool.returned"))
    assert wrongs(*story) == {"open": [], "twice": [], "wrong": []}


@pytest.mark.parametrize(
    ("begun", "settles"),
    [
        (CALLED, of_tool("tool.indeterminate")),
        (fact("model.called", effect="r1-1-m"), fact("model.failed", effect="r1-1-m")),
        (of_tool("approval.requested", call=CALL), of_tool("approval.given")),
        (of_tool("approval.requested", call=CALL), of_tool("tool.failed")),
        (of_tool("tool.suspended"), of_tool("tool.continued")),
        (of_tool("tool.handed_over", call=CALL), of_tool("tool.returned")),
        (fact("task.started", effect="r1-1-t0b", call=CALL), fact("task.ended", effect="r1-1-t0b")),
        (fact("child.disowned", effect="r1-1-t0x"), fact("child.ended", effect="r1-1-t0x")),
        (fact("condensing.begun", effect="r1-1-c"), fact("condensing.ended", effect="r1-1-c")),
        (fact("retry.scheduled", effect="r1-1-r1"), fact("retry.due", effect="r1-1-r1")),
    ],
    ids=lambda one: one.type,
)
def test_what_is_begun_ends_once(begun: Fact, settles: Fact) -> None:
    assert len(wrongs(*BEGUN, begun)["open"]) == 1
    assert wrongs(*BEGUN, begun, settles) == {"open": [], "twice": [], "wrong": []}
    assert len(wrongs(*BEGUN, begun, settles, settles)["twice"]) == 1
    assert wrongs(*BEGUN, begun, begun, settles)["twice"]


def test_a_run_that_failed_may_leave_its_model_without_an_answer() -> None:
    asked = fact("model.called", effect="r1-1-m")
    assert wrongs(fact("run.started"), asked, fact("run.failed"))["open"] == []
    assert len(wrongs(fact("run.started"), CALLED, fact("run.failed"))["open"]) == 1


def test_a_run_has_one_end_and_a_command_one_beginning() -> None:
    assert wrongs(fact("run.queued"))["open"] == ["run r1 of t1 has no end"]
    assert len(wrongs(*BEGUN, fact("run.failed"))["twice"]) == 1
    accepted = fact("command.accepted", of="thread", **ACCEPTED)
    assert wrongs(accepted, accepted)["twice"] == ["command r1 of t1 was accepted 2 times"]


def test_a_schedule_asks_once_for_each_fire_and_fires_by_hand_as_often_as_it_was_told_to() -> None:
    told = fact("command.accepted", of="schedule", entity="s1", thread="s1", command={"id": "f1", "verb": "fire"})
    fire = msgspec.structs.replace(
        fact("schedule.fired", of="schedule", entity="s1", thread="s1", run="s1-n1", by="ann"),
        payload=msgspec.Raw(b'{"type": "schedule.fired", "run": "s1-n1", "thread": "s1-n1", "by": "ann"}'),
    )
    sent = fact("schedule.sent", of="schedule", entity="s1", thread="s1", effect="s1-n1")
    asked = fact("command.accepted", of="thread", thread="s1-n1", command={"id": "s1-n1", "verb": "run"})
    assert wrongs(told, fire, sent, asked) == {"open": [], "twice": [], "wrong": []}
    assert wrongs(told, fire, sent)["open"] == ["s1-n1 was fired and not asked"]
    assert len(wrongs(told, fire, fire, sent, asked)["twice"]) == 2
    added = fact("command.accepted", of="schedule", entity="s1", thread="s1", command={"id": "a", "verb": "add"})
    assert len(wrongs(added, fire, sent, asked)["wrong"]) == 1


def test_a_thread_has_one_title_and_observes_onwards() -> None:
    titled = fact("thread.renamed", of="thread")
    assert wrongs(titled, titled)["twice"] == ["thread t1 was given 2 titles"]
    first, more = (fact("memory.observed", of="thread", upto=upto) for upto in (4, 6))
    assert len(wrongs(first, first)["wrong"]) == 1
    assert wrongs(first, more)["wrong"] == []


def test_a_write_that_returned_was_remembered_and_a_child_that_returned_has_an_end() -> None:
    write = of_tool("tool.called", call={**CALL, "name": "update_working_memory"}, effect_class="idempotent")
    remembered = fact("command.accepted", of="thread", thread="w1", command={"id": "w", "verb": "remember"})
    assert wrongs(*BEGUN, write, of_tool("tool.returned"), remembered)["wrong"] == []
    assert len(wrongs(*BEGUN, write, of_tool("tool.returned"))["wrong"]) == 1
    asked = of_tool("tool.called", call={**CALL, "name": "helper"}, effect_class="idempotent")
    assert len(wrongs(*BEGUN, asked, of_tool("tool.returned"))["wrong"]) == 1


KEY = "default/t1/r1-1-t0"


@pytest.mark.parametrize(
    ("result", "witness", "lost", "duplicated", "wrong"),
    [
        ("tool.returned", [f"once {KEY} x"], 0, 0, 0),
        ("tool.indeterminate", [f"once {KEY} x"], 0, 0, 0),
        ("tool.indeterminate", [], 0, 0, 0),
        ("tool.failed", [], 0, 0, 0),
        ("tool.returned", [], 1, 0, 0),
        ("tool.returned", [f"once {KEY} x"] * 2, 0, 1, 0),
        ("tool.returned", [f"idempotent {KEY} x"] * 2, 0, 0, 0),
        ("tool.failed", [f"once {KEY} x"], 0, 0, 1),
        ("tool.returned", [f"once {KEY} x", "once default/t2/r2-1-t0 x"], 1, 0, 0),
    ],
)
def test_a_witness_is_compared_with_what_is_said_of_its_call(
    result: str, witness: list[str], lost: int, duplicated: int, wrong: int
) -> None:
    verdict, books = Verdict(), Books()
    for one in (*BEGUN, CALLED, of_tool(result)):
        books.take(one)
    tools(verdict, books, witness, Times({}))
    assert [len(found) for found in (verdict.lost, verdict.duplicated, verdict.wrong)] == [lost, duplicated, wrong]
