"""Requests that wait for their grammars, in scenes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.core import parking
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.steps import Prepared, StepPlan, StepResult
from schemas.structured import Structured
from tests.engine.core.test_scheduler import answered, asked, made, planned, resync


def formed(request: str, text: str = "a+", max_tokens: int = 8) -> Submit:
    sampling = Sampling(max_tokens=max_tokens, stop_tokens=(2,), structured=Structured(kind="regex", text=text))
    return replace(asked(request, range(5)), sampling=sampling)


def taken(scheduler: Scheduler, *submits: Submit) -> None:
    for submit in submits:
        assert isinstance(scheduler.submit(submit), Accepted)


def prepared(plan: StepPlan, problem: str = "", worker: str = "worker") -> list[Prepared]:
    return [Prepared(plan.epoch, worker, prepare.key, problem) for prepare in plan.prepare]


def test_a_request_is_parked_until_its_grammar_is_there_and_others_go_on() -> None:
    scheduler = made()
    taken(scheduler, formed("a"), asked("b", range(5)))
    first = planned(scheduler)
    assert [part.request for part in first.slices] == ["b"]
    assert [prepare.structured.text for prepare in first.prepare] == ["a+"]
    assert scheduler.statistics().parked == 1
    scheduler.apply(answered(first))
    assert planned(scheduler).prepare == ()
    for answer in prepared(first):
        assert scheduler.prepared(answer) == []
    assert "a" in {part.request for part in planned(scheduler).slices}


def test_requests_of_one_grammar_ask_for_it_once_and_later_ones_not_at_all() -> None:
    scheduler = made()
    taken(scheduler, formed("a"), formed("b"))
    plan = planned(scheduler)
    assert (len(plan.prepare), plan.slices) == (1, ())
    scheduler.apply(answered(plan))
    scheduler.prepared(prepared(plan)[0])
    taken(scheduler, formed("c"))
    plan = planned(scheduler)
    assert ({part.request for part in plan.slices}, plan.prepare) == ({"a", "b", "c"}, ())


def test_a_grammar_that_is_none_ends_those_who_wait_for_it_and_nobody_else() -> None:
    scheduler = made()
    taken(scheduler, formed("bad", "("), formed("good"))
    plan = planned(scheduler)
    bad, good = prepared(plan, "it is none")
    (event,) = scheduler.prepared(bad)
    assert (event.request, event.finish, event.problem) == ("bad", "error", "it is none")
    scheduler.prepared(replace(good, problem=""))
    assert [part.request for part in planned(scheduler).slices] == ["good"]
    # whoever asks what became of it is told the same
    told = scheduler.attach("bad", 0)
    assert told is not None
    assert told.problem == "it is none"


def test_one_whose_grammar_never_comes_can_be_aborted_and_comes_to_its_deadline() -> None:
    scheduler = made()
    taken(scheduler, formed("a"), replace(formed("b"), deadline=50))
    planned(scheduler)
    event = scheduler.abort("a")
    assert event is not None
    assert event.finish == "abort"
    assert [(event.request, event.finish) for event in scheduler.expire(50)] == [("b", "timeout")]
    scheduler.check()
    assert scheduler.statistics().parked == 0


def test_one_that_is_aborted_before_a_plan_asks_for_its_grammar_asks_for_nothing() -> None:
    scheduler = made()
    taken(scheduler, formed("a"))
    scheduler.abort("a")
    assert scheduler.plan(0) is None


def test_what_a_worker_that_was_replaced_has_compiled_is_of_no_use() -> None:
    scheduler = made()
    scheduler.resync(resync("one"))
    taken(scheduler, formed("a"))
    old = planned(scheduler)
    scheduler.resync(resync("two"))
    assert scheduler.prepared(prepared(old, worker="one")[0]) == []
    assert scheduler.statistics().parked == 1
    new = planned(scheduler)
    assert len(new.prepare) == 1
    scheduler.prepared(prepared(new, worker="two")[0])
    assert [part.request for part in planned(scheduler).slices] == ["a"]


def test_one_that_runs_is_parked_again_when_a_new_worker_comes() -> None:
    scheduler = made()
    scheduler.resync(resync("one"))
    taken(scheduler, formed("a"))
    plan = planned(scheduler)
    scheduler.apply(answered(plan))
    scheduler.prepared(prepared(plan, worker="one")[0])
    scheduler.apply(answered(planned(scheduler)))
    scheduler.resync(resync("two"))
    assert scheduler.statistics().parked == 1
    plan = planned(scheduler)
    assert (plan.slices, len(plan.prepare)) == ((), 1)
    scheduler.prepared(prepared(plan, worker="two")[0])
    assert planned(scheduler).arrivals[0].tokens == (*range(5), 7)


def test_a_document_that_is_whole_ends_its_request_though_tokens_are_left() -> None:
    scheduler = made()
    taken(scheduler, formed("a"))
    plan = planned(scheduler)
    scheduler.apply(answered(plan))
    scheduler.prepared(prepared(plan)[0])
    plan = planned(scheduler)
    (event,) = scheduler.apply(StepResult(plan.n, plan.epoch, "worker", (("a", 7),), whole=("a",)))
    assert (event.tokens, event.finish) == ((7,), "stop")


def test_a_document_that_was_brought_to_its_end_ends_its_request_as_one_that_ran_out_of_tokens() -> None:
    scheduler = made(max_in_flight=2)
    taken(scheduler, replace(formed("a"), output=(5,)), replace(formed("b"), output=(5, 5), closed=1))
    plan = planned(scheduler)
    scheduler.apply(answered(plan))
    scheduler.prepared(prepared(plan)[0])
    first, second = planned(scheduler), planned(scheduler)
    events = scheduler.apply(StepResult(first.n, first.epoch, "worker", (("a", 7), ("b", 7)), closed=("a",)))
    assert [(event.finish, event.closed) for event in events] == [(None, 1), (None, 1)]
    events = scheduler.apply(StepResult(second.n, second.epoch, "worker", (("a", 2), ("b", 7)), whole=("b",)))
    assert [(event.tokens, event.finish, event.closed) for event in events] == [
        ((2,), "length", 1),
        ((7,), "length", 1),
    ]
    # whoever asks again is told the same
    told = scheduler.attach("a", 0)
    assert told is not None
    assert (told.tokens, told.finish, told.closed) == ((5, 7, 2), "length", 1)


def test_the_worker_is_told_how_many_tokens_there_can_be() -> None:
    scheduler = made(context_length=30)
    taken(scheduler, formed("a", max_tokens=500))
    plan = planned(scheduler)
    scheduler.prepared(prepared(plan)[0])
    assert planned(scheduler).arrivals[0].sampling.max_tokens == 25


def test_parked_requests_count_as_waiting() -> None:
    scheduler = made(max_waiting=2)
    taken(scheduler, formed("a"), formed("b"))
    refused = scheduler.submit(asked("c", range(5)))
    assert isinstance(refused, Refused)
    assert refused.reason == "overloaded"


def test_each_parked_request_says_what_it_waits_for() -> None:
    scheduler = made()
    scheduler.resync(resync("one"))
    taken(scheduler, formed("a"))
    planned(scheduler)
    waits = scheduler.waits()
    assert waits.reasons == (("a", "its grammar to be compiled by worker one"),)
    assert "1 parked" in waits.chain(names=False)


def test_grammars_that_are_many_are_asked_for_in_several_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MOST_ASKED", 5)
    scheduler = made()
    taken(scheduler, *(formed(str(n), f"a{{{n}}}") for n in range(1, 4)))
    asked_for = []
    for _ in range(3):
        plan = planned(scheduler)
        asked_for.append(len(plan.prepare))
        scheduler.apply(answered(plan))
    assert asked_for == [1, 1, 1]
    assert scheduler.plan(0) is None
