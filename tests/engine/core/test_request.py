"""A request's states, and what ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.request import Request, State, repeats
from engine.errors import IllegalTransition
from schemas.generation import Repetition, Sampling, Submit

WAYS: dict[State, tuple[State, ...]] = {"waiting": (), "running": ("running",), "finished": ("finished",)}
LEGAL = {("waiting", "running"), ("running", "waiting"), ("running", "finished"), ("waiting", "finished")}


def made(max_tokens: int = 3, stops: tuple[int, ...] = (9,), context: int = 100) -> Request:
    sampling = Sampling(max_tokens=max_tokens, stop_tokens=stops)
    return Request(Submit("a", (1, 2, 3), sampling, "front", "acme", output=(4,)), context, b"root", (0, 1))


@pytest.mark.parametrize("wanted", ["waiting", "running", "finished"])
@pytest.mark.parametrize("state", ["waiting", "running", "finished"])
def test_only_the_drawn_transitions_are_legal(state: State, wanted: State) -> None:
    request = made()
    for step in WAYS[state]:
        request.move(step)
    if (state, wanted) in LEGAL:
        request.move(wanted)
        assert request.state == wanted
        return
    with pytest.raises(IllegalTransition) as refused:
        request.move(wanted)
    assert (refused.value.request, refused.value.state, refused.value.wanted) == ("a", state, wanted)
    assert request.state == state


@pytest.mark.parametrize(
    ("request_", "tokens", "finish"),
    [
        (made(max_tokens=3), [5, 6], "length"),
        (made(max_tokens=3), [9], "stop"),
        (made(max_tokens=2), [9], "stop"),
        (made(max_tokens=99, context=6), [5, 6], "length"),
    ],
)
def test_it_ends_at_a_stop_token_at_max_tokens_or_at_the_end_of_the_context(
    request_: Request, tokens: list[int], finish: str
) -> None:
    request_.pending = len(tokens)
    assert [request_.accept(token) for token in tokens] == [None] * (len(tokens) - 1) + [finish]
    assert request_.pending == 0
    assert request_.outputs == 1 + len(tokens)


def test_it_tells_output_from_any_index_on() -> None:
    request = made()
    assert request.tell(0).tokens == (4,)
    assert request.tell(1).tokens == ()
    assert request.tell(0).finish is None


@given(st.lists(st.integers(0, 2), max_size=14), st.integers(1, 5), st.integers(1, 5), st.integers(2, 4))
def test_going_round_in_circles_is_noticed_when_a_pattern_ends_its_last_time(
    output: list[int], shortest: int, longest: int, times: int
) -> None:
    wanted = Repetition(longest, shortest, times)
    plain = any(
        len(output) >= size * times and output[-size * times :] == output[-size:] * times
        for size in range(shortest, longest + 1)
    )
    # a prompt that repeats itself is nobody's fault
    assert repeats([0, 0, 0, 0, *output], len(output), wanted) == plain


def test_it_ends_with_repetition_where_that_is_asked_for_and_a_stop_goes_first() -> None:
    sampling = Sampling(max_tokens=50, stop_tokens=(9,), repetition=Repetition(2, times=3))
    request = Request(Submit("a", (1, 2, 3), sampling, "front", "acme"), 100, b"root", (0, 1))
    request.pending = 6
    assert [request.accept(token) for token in (7, 8, 7, 8, 7, 8)] == [None] * 5 + ["repetition"]
    again = Request(Submit("a", (1, 2, 3), sampling, "front", "acme", output=(9, 9)), 100, b"root", (0, 1))
    again.pending = 1
    assert again.accept(9) == "stop"
