"""Answers drawn at random: each keeps to its form, and comes to an end while there are tokens for one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.structured.constraint import Constraint
from engine.structured.grammar import GrammarError, Vocabulary
from engine.structured.guidance import Guidance
from engine.structured.masks import rows_for
from schemas.generation import Sampling
from schemas.structured import Structured
from tests.engine.structured.conftest import END, SIZE, tokenizer
from tests.engine.structured.forms import GOOD, is_json_of, json_of, schemas

TOKENIZER = tokenizer()
ENDS = (TOKENIZER.token_to_id(END),)


@cache
def guidance() -> Guidance:
    return Guidance(Vocabulary(TOKENIZER.to_str(), SIZE, ENDS))


def sampling(max_tokens: int, **more: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, stop_tokens=ENDS, **more)


def allowed(constraint: Constraint) -> list[int]:
    row = rows_for(1, SIZE)[0]
    constraint.mask(row)
    found: list[int] = np.flatnonzero(np.unpackbits(row, bitorder="little")[:SIZE]).tolist()
    return found


def drawn(constraint: Constraint, seed: int, most: int) -> tuple[list[int], str]:
    """Draw an answer like a model that has no idea; give its tokens and why it ends."""
    rng, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < most:
        within = constraint.stage == "within"
        choice = allowed(constraint) if within else list(range(SIZE))
        assert choice, "nothing may come next"
        token = int(rng.choice(choice))
        taken = constraint.take(token)
        tokens.append(taken.token)
        if taken.whole or (within and taken.token in ENDS):
            return tokens, "stop"
    return tokens, "length"


def text(tokens: list[int]) -> str:
    # as the frontend reads it: special tokens are silent
    return str(TOKENIZER.decode(tokens, skip_special_tokens=True))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("most", [40, 60, 200, 1000])
def test_an_answer_of_every_form_keeps_to_it_and_ends(name: str, most: int) -> None:
    structured, check = GOOD[name]
    grammar = guidance().compile(structured)
    for seed in range(20):
        tokens, finish = drawn(Constraint(grammar, sampling(most)), seed, most)
        assert finish == "stop"
        assert check(text(tokens)), text(tokens)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(schema=schemas, seed=st.integers(0, 99), more=st.integers(0, 30))
def test_json_of_any_schema_is_valid_however_few_tokens_are_enough(schema: Any, seed: int, more: int) -> None:
    try:
        grammar = guidance().compile(json_of(schema))
    except GrammarError:
        assume(False)
        raise
    assert grammar.shortest is not None
    most = len(grammar.shortest) + more
    tokens, _ = drawn(Constraint(grammar, sampling(most)), seed, most)
    assert is_json_of(schema)(text(tokens))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(name=st.sampled_from(sorted(GOOD)), seed=st.integers(0, 99), cut=st.floats(0, 1))
def test_one_that_is_taken_up_in_the_middle_goes_on_as_if_nothing_had_been(name: str, seed: int, cut: float) -> None:
    grammar = guidance().compile(GOOD[name][0])
    tokens, _ = drawn(Constraint(grammar, sampling(60)), seed, 60)
    at = round(cut * (len(tokens) - 1))
    again = Constraint(grammar, sampling(60), tokens[:at])
    whole = Constraint(grammar, sampling(60))
    for token in tokens[:at]:
        whole.take(token)
    assert again.count == whole.count == at
    assert allowed(again) == allowed(whole)
    rest, finish = drawn(again, seed + 1, 60 - at)
    assert finish == "stop"
    assert GOOD[name][1](text(tokens[:at] + rest))


def test_a_document_that_cannot_be_had_for_the_tokens_there_are_is_begun_all_the_same() -> None:
    grammar = guidance().compile(GOOD["json_schema"][0])
    assert grammar.shortest is not None
    tokens, finish = drawn(Constraint(grammar, sampling(5)), 1, 5)
    assert (len(tokens), finish) == (5, "length")
    assert text(tokens).startswith("{")


def test_everything_may_come_before_the_tokens_that_end_the_thinking() -> None:
    after = tuple(TOKENIZER.encode("</think>").ids)
    grammar = guidance().compile(GOOD["choice"][0])
    constraint = Constraint(grammar, sampling(100, structured_after=after))
    for token in TOKENIZER.encode("I think {of ]anything").ids:
        assert constraint.stage == "before"
        assert constraint.take(token) == (token, False, False)
    for token in after:
        constraint.take(token)
    assert constraint.stage == "within"
    tokens, finish = drawn(constraint, 3, 60)
    assert finish == "stop"
    assert GOOD["choice"][1](text(tokens))


def test_a_document_that_is_brought_to_its_end_says_so_and_one_that_comes_to_it_does_not() -> None:
    grammar = guidance().compile(Structured(kind="regex", text="[0-9]{1,30}"))
    digits, end = TOKENIZER.encode("3333").ids, ENDS[0]
    assert len(digits) == 4
    roomy = Constraint(grammar, sampling(40))
    assert [roomy.take(token) for token in (*digits, end)] == [(token, False, False) for token in (*digits, end)]
    tight = Constraint(grammar, sampling(4))
    assert [tight.take(token) for token in digits] == [(token, False, False) for token in digits]
    braces = guidance().compile(json_of({"type": "array", "items": {"type": "integer"}}))
    opening, one, comma, closing = (TOKENIZER.encode(text).ids[0] for text in "[1,]")
    constraint = Constraint(braces, sampling(5))
    given = [constraint.take(token) for token in (opening, one, one, comma)]
    assert [taken.token for taken in given] == [opening, one, one, closing]
    assert [taken.closed for taken in given] == [False, False, False, True]
    ended = Constraint(braces, sampling(4))
    assert not any(ended.take(token).closed for token in (opening, one, one, closing))


def test_thinking_that_is_ended_for_lack_of_tokens_says_so_and_one_that_had_its_budget_does_not() -> None:
    grammar = guidance().compile(Structured(kind="choice", choices=("yes", "no")))
    close = TOKENIZER.token_to_id("</think>")
    said = TOKENIZER.encode("yes").ids
    more: dict[str, Any] = {"structured_after": (close,), "thinking_closing": (close,)}
    for budget, forced in ((3, False), (None, True)):
        constraint = Constraint(
            grammar, sampling(3 + 1 + len(said) + (30 if budget else 0), thinking_budget=budget, **more)
        )
        given = list[bool]()
        while constraint.stage == "before":
            given.append(constraint.take(7).closed)
        assert given[-1] is forced
        assert not any(given[:-1])
    constraint = Constraint(grammar, sampling(40, **more))
    assert not any(constraint.take(token).closed for token in (7, 7, close, *said))


def test_a_marker_of_several_tokens_is_found_where_it_is_whole() -> None:
    grammar = guidance().compile(GOOD["regex"][0])
    constraint = Constraint(grammar, sampling(100, structured_after=(5, 5, 6)))
    for token, stage in ((5, "before"), (5, "before"), (5, "before"), (6, "within")):
        constraint.take(token)
        assert constraint.stage == stage


def test_an_output_that_does_not_keep_to_its_grammar_is_told_of() -> None:
    grammar = guidance().compile(GOOD["choice"][0])
    with pytest.raises(GrammarError, match="does not keep to its grammar"):
        Constraint(grammar, sampling(10), TOKENIZER.encode("never").ids)


@pytest.mark.parametrize("pattern", ["[0-9]+", "(ab)*", "(.|\n)*"])
def test_an_answer_that_could_go_on_and_is_cut_off_has_not_come_to_its_end(pattern: str) -> None:
    grammar = guidance().compile(Structured(kind="regex", text=pattern))
    constraint = Constraint(grammar, sampling(50))
    letters = TOKENIZER.encode("77777777" if "0" in pattern else "abababab").ids
    assert not any(constraint.take(token).whole for token in letters)


def test_an_answer_that_was_whole_when_it_was_taken_up_can_only_end() -> None:
    grammar = guidance().compile(Structured(kind="choice", choices=("yes",)))
    constraint = Constraint(grammar, sampling(10), TOKENIZER.encode("yes").ids)
    row = rows_for(1, SIZE)[0]
    assert constraint.mask(row)
    assert allowed(constraint) == list(ENDS)


def test_a_schema_is_closed_to_properties_it_does_not_name_where_that_is_asked_for() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"const": 1}}}}}
    grammar = guidance().compile(json_of(schema, additional_properties=False))
    for seed in range(20):
        found = json.loads(text(drawn(Constraint(grammar, sampling(60)), seed, 60)[0]))
        assert set(found) <= {"a"}
        assert set(found.get("a", {})) <= {"b"}


def test_json_has_no_blanks_where_none_are_wanted() -> None:
    grammar = guidance().compile(json_of({"type": "array", "items": {"type": "boolean"}}, any_whitespace=False))
    for seed in range(10):
        assert not set(text(drawn(Constraint(grammar, sampling(30)), seed, 30)[0])) & set(" \n\t")


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 99), budget=st.none() | st.integers(0, 9), begun=st.booleans(), bound=st.booleans(),
    cut=st.integers(0, 40),
)  # fmt: skip
def test_an_answer_goes_on_after_any_of_its_tokens_as_it_would_have(
    seed: int, budget: int | None, begun: bool, bound: bool, cut: int
) -> None:
    """A request that comes back after a preemption, or to another worker, is followed anew from its tokens."""
    close = tuple(TOKENIZER.encode("the quick", add_special_tokens=False).ids)
    opening = () if begun else tuple(TOKENIZER.encode("fox jumps", add_special_tokens=False).ids)
    more = {"structured_after": close[-1:], "thinking_closing": close, "thinking_opening": opening}
    wanted = sampling(40, thinking_budget=budget, **more)
    grammar = guidance().compile(Structured(kind="choice", choices=("yes", "no"))) if bound else None
    rng = np.random.default_rng(seed)
    # ends of the answer come up now and then, as they do in what models think
    draws = [*opening, *(ENDS[0] if token % 17 == 0 else token for token in rng.integers(0, SIZE, 40).tolist())]
    whole, tokens = Constraint(grammar, wanted), list[int]()
    states = []
    for token in draws[:40]:
        states.append((whole.stage, whole.count))
        choice = allowed(whole) if whole.masks else [token]
        taken = whole.take(token if token in choice else choice[0])
        tokens.append(taken.token)
        if whole.stage == "over" and bound:
            break
    cut = min(cut, len(tokens) - 1)
    again = Constraint(grammar, wanted, tokens[:cut])
    assert (again.stage, again.count) == states[cut]
    for at in range(cut, len(tokens)):
        assert (again.stage, again.count) == states[at]
        choice = allowed(again) if again.masks else [draws[at]]
        assert again.take(draws[at] if draws[at] in choice else choice[0]).token == tokens[at]


def test_nothing_is_thought_where_there_is_no_room_for_it() -> None:
    grammar = guidance().compile(Structured(kind="choice", choices=("yes", "no")))
    opening, close = tuple(TOKENIZER.encode("fox", add_special_tokens=False).ids), TOKENIZER.token_to_id("</think>")
    more: dict[str, Any] = {"structured_after": (close,), "thinking_closing": (close,), "thinking_opening": opening}
    needed = len(opening) + 1 + len(grammar.shortest or ())
    assert opening[0] in allowed(Constraint(grammar, sampling(needed, **more)))
    assert opening[0] not in allowed(Constraint(grammar, sampling(needed - 1, **more)))
