"""The likeliest continuations are found: by brute force, and as `transformers` finds them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.beam import BeamSearch, Found, Scored

STOP = 0
Chances = Callable[[tuple[int, ...]], Sequence[float]]


def chances(seed: int, vocabulary: int) -> Chances:
    """Logarithms of chances of the next token, by what stands before it."""

    def after(tokens: tuple[int, ...]) -> list[float]:
        weights = np.random.default_rng([seed, *tokens, len(tokens)]).exponential(size=vocabulary)
        return np.log(weights / weights.sum()).tolist()  # type: ignore[no-any-return]

    return after


def searched(search: BeamSearch, after: Chances) -> tuple[Found, ...]:
    while search.live:
        search.take([likeliest(after(beam.tokens), search.candidates) for beam in search.live])
    return search.best()


def likeliest(told: Sequence[float], count: int) -> list[Scored]:
    return sorted(enumerate(told), key=lambda one: -one[1])[:count]


def every(after: Chances, vocabulary: int, most: int, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All continuations there are, best first."""
    found = []
    for length in range(1, most + 1):
        for tokens in itertools.product(range(vocabulary), repeat=length):
            if STOP in tokens[:-1] or (tokens[-1] != STOP and length < most):
                continue
            logprob = sum(after(tokens[:at])[token] for at, token in enumerate(tokens))
            found.append((logprob / length**penalty, tokens))
    return sorted(found, reverse=True)


@given(st.integers(0, 1 << 30), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_a_beam_as_wide_as_all_there_is_finds_the_best(seed: int, penalty: float) -> None:
    after = chances(seed, 4)
    found = searched(BeamSearch(64, 3, [STOP], penalty), after)
    wanted = every(after, 4, 3, penalty)[: len(found)]
    assert [one.score for one in found] == pytest.approx([score for score, _ in wanted])
    assert found[0].tokens == wanted[0][1]


@given(st.integers(0, 1 << 30), st.integers(1, 4), st.integers(1, 6), st.sampled_from([-1.0, 0.0, 1.0]))
def test_what_is_found_is_what_it_says(seed: int, width: int, most: int, penalty: float) -> None:
    after = chances(seed, 6)
    found = searched(BeamSearch(width, most, [STOP], penalty), after)
    assert 1 <= len(found) <= width
    assert len({one.tokens for one in found}) == len(found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        logprob = sum(after(one.tokens[:at])[token] for at, token in enumerate(one.tokens))
        assert one.logprob == pytest.approx(logprob)
        assert one.score == pytest.approx(logprob / len(one.tokens) ** penalty)
        assert (one.finish == "stop") == (one.tokens[-1] == STOP)
        assert STOP not in one.tokens[:-1]
        assert len(one.tokens) == most or one.finish == "stop"


def test_a_beam_of_one_is_greedy() -> None:
    after = chances(7, 50)
    (found,) = searched(BeamSearch(1, 5), after)
    tokens: tuple[int, ...] = ()
    for _ in range(5):
        tokens += (likeliest(after(tokens), 1)[0][0],)
    assert found.tokens == tokens


def test_it_stops_as_soon_as_nothing_better_can_come() -> None:
    """A stop that is nearly certain leaves nothing that could be likelier."""

    def after(tokens: tuple[int, ...]) -> list[float]:
        return [math.log(0.98), math.log(0.01), math.log(0.01)]

    search = BeamSearch(1, 1000, [STOP], length_penalty=0.0)
    search.take([likeliest(after(()), search.candidates)])
    assert search.live == ()
    assert search.best()[0].tokens == (STOP,)
