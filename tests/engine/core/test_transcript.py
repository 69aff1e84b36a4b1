"""What step records say of a request, and what the log vouches for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.core.transcript import Transcript, sampled
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan, StepResult

IDS = st.lists(st.integers(0, 1 << 31), max_size=8)
SAMPLING = Sampling(seed=3)


def step(
    n: int, start: int, token: int, *, arrival: tuple[int, ...] = (), epoch: str = "e1"
) -> tuple[StepPlan, StepResult]:
    """One step of request `a`, whose prompt is two tokens, beside another."""
    arrivals = (Arrival("a", arrival, 2, SAMPLING, (), start),) if arrival else ()
    slices = (Slice("b", 0, 7), Slice("a", start, len(arrival) - start if arrival else 1))
    plan = StepPlan(n, epoch, 0, False, arrivals, slices, ())
    return plan, StepResult(n, epoch, f"worker of {epoch}", (("b", 99), ("a", token)))


def test_tokens_are_found_by_their_place_in_the_answer_whatever_was_lost() -> None:
    found = Transcript("a")
    for plan, result in (step(1, 0, 10, arrival=(5, 6)), step(2, 2, 11), step(4, 4, 13)):
        found.follow(plan, [result])
    assert (found.prompt, found.sampling, found.count, found.missing) == ((5, 6), SAMPLING, 4, (2,))
    assert {index: [one.token for one in several] for index, several in found.drawn.items()} == {
        0: [10],
        1: [11],
        3: [13],
    }
    assert found.workers == ["worker of e1"]


def test_a_request_that_goes_on_elsewhere_brings_what_it_has() -> None:
    found = Transcript("a")
    found.follow(step(1, 0, 10, arrival=(5, 6))[0], [step(1, 0, 10, arrival=(5, 6))[1]])
    plan, result = step(1, 0, 12, arrival=(5, 6, 10, 11), epoch="e2")
    found.follow(plan, [result])
    assert [[(one.token, one.place) for one in found.drawn[index]] for index in range(3)] == [
        [(10, ("e1", 1)), (10, ("e2", 1))],
        [(11, ("e2", 1))],
        [(12, ("e2", 1))],
    ]
    assert found.contradiction is None
    other, result = step(1, 0, 12, arrival=(5, 7, 10, 11), epoch="e3")
    found.follow(other, [result])
    assert found.contradiction == ("e3", 1)


def test_steps_without_it_say_nothing_of_it() -> None:
    found = Transcript("c")
    found.follow(step(1, 0, 10, arrival=(5, 6))[0], [step(1, 0, 10)[1]])
    assert (found.prompt, found.count, found.workers) == (None, 0, [])


@given(IDS, IDS, IDS, IDS)
def test_answers_have_one_name_only_if_prompts_and_tokens_are_the_same(
    prompt: list[int], tokens: list[int], other: list[int], others: list[int]
) -> None:
    assert (sampled(prompt, tokens) == sampled(other, others)) == ((prompt, tokens) == (other, others))
    assert sampled(tuple(prompt), tokens) == sampled(prompt, tokens)


def test_the_log_vouches_for_the_tokens_up_to_the_end_of_the_answer() -> None:
    found = Transcript("a")
    for plan, result in (step(1, 0, 10, arrival=(5, 6)), step(2, 2, 11), step(3, 3, 12)):
        found.follow(plan, [result])
    assert found.holds(sampled((5, 6), (10, 11)))
    assert not found.holds(sampled((5, 6), (10, 12)))
    assert not found.holds(sampled((5,), (10, 11)))
    assert not found.holds(sampled((5, 6), (10, 11, 12, 13)))
