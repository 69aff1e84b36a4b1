"""Documents whose end may be text of their body as well: each is closed as the tokens run out, whatever was drawn."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import product
from typing import Final

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.structured import closing
from engine.structured.constraint import Constraint
from engine.structured.grammar import Grammar, GrammarError
from engine.text.formats import FORMATS
from engine.text.grammars import calling_grammar
from engine.text.parsers import Wanted
from schemas.messages import ToolSpec
from tests.engine.structured.forms import FORMS, GOOD, is_json_of, json_of, lark, regex
from tests.engine.structured.test_constraint import ENDS, TOKENIZER, allowed, guidance, sampling, text

SLOW: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@cache
def compiled(name: str) -> Grammar:
    return guidance().compile(FORMS[name][0] if name in FORMS else GOOD[name][0])


def written(constraint: Constraint, seed: int, most: int) -> list[int]:
    """Go on with an answer: what is drawn depends on the seed and the position, as it does in an engine."""
    tokens = list[int]()
    while constraint.count < most:
        choice = allowed(constraint)
        assert choice, "nothing may come next"
        taken = constraint.take(int(np.random.default_rng((seed, constraint.count)).choice(choice)))
        tokens.append(taken.token)
        if taken.whole or taken.token in ENDS:
            break
    return tokens


@pytest.mark.parametrize("name", FORMS)
def test_the_shortest_document_is_as_short_as_it_can_be(name: str) -> None:
    found = compiled(name).shortest
    assert found is not None
    assert len(found) <= len(TOKENIZER.encode(FORMS[name][1]).ids)
    assert FORMS[name][2](text(list(found)))


CALLS: Final = {
    "hermes": '<tool_call>{"name":"f","arguments":{"a":0}}</tool_call>',
    "llama3_json": '{"name":"f","parameters":{"a":0}}',
    "pythonic": "[f(a=0)]",
    "glm": "<tool_call>f<arg_key>a</arg_key><arg_value>0</arg_value></tool_call>",
    "mistral": '[TOOL_CALLS]f{"a":0}',
    "kimi_k2": '<|tool_call_begin|>f<|tool_call_argument_begin|>{"a":0}<|tool_call_end|>',
    "harmony": '<|channel|>commentary to=functions.f json<|message|>{"a":0}',
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_must_come_takes_as_few_tokens_as_it_can(name: str) -> None:
    """No blanks where there need not be any: what is kept in reserve for it is not there for anything else."""
    tool = ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    grammar = guidance().compile(lark(calling_grammar(Wanted(FORMATS[name]), (tool,), {})))
    assert grammar.shortest is not None
    assert len(grammar.shortest) <= len(TOKENIZER.encode(CALLS[name]).ids), text(list(grammar.shortest))


@SLOW
@given(name=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 999), more=st.integers(0, 40))
def test_a_document_is_closed_in_time_however_many_tokens_there_are(name: str, seed: int, more: int) -> None:
    most = len(TOKENIZER.encode(FORMS[name][1]).ids) + more
    tokens = written(Constraint(compiled(name), sampling(most)), seed, most)
    assert FORMS[name][2](text(tokens)), text(tokens)


@pytest.mark.parametrize("name", sorted({*FORMS} - {"choice"}))
def test_what_may_go_on_is_not_closed_before_it_must_be(name: str) -> None:
    """A reserve is kept for the end, and no more: of many tokens that are drawn nearly all are taken."""
    long = 0
    for seed in range(5):
        constraint = Constraint(compiled(name), sampling(80))
        long = max(long, len(written(constraint, seed, 80)))
    assert long > 30


@SLOW
@given(name=st.sampled_from(sorted([*FORMS, *GOOD])), seed=st.integers(0, 999), cut=st.floats(0, 1))
def test_one_that_is_taken_up_anywhere_has_the_tokens_that_it_would_have_had(name: str, seed: int, cut: float) -> None:
    tokens = written(Constraint(compiled(name), sampling(50)), seed, 50)
    at = round(cut * (len(tokens) - 1))
    again = Constraint(compiled(name), sampling(50), tokens[:at])
    assert tokens[:at] + written(again, seed, 50) == tokens


SIGNS: Final = "xqz"
"""Letters that the vocabulary has no longer tokens of, so that characters are tokens."""
_ATOMS = st.sampled_from(["x", "q", "z", "[xq]", "[^x]", ".", "(xq|z)", "(q|zz|x)", "(x(q|z))"])
_PATTERNS = st.lists(st.tuples(_ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])), min_size=1)


@SLOW
@given(parts=_PATTERNS.filter(lambda parts: len(parts) <= 6), seed=st.integers(0, 99), more=st.integers(0, 12))
def test_any_regular_expression_has_its_shortest_document_and_is_closed_in_time(
    parts: list[tuple[str, str]], seed: int, more: int
) -> None:
    pattern = "".join(map("".join, parts))
    try:
        grammar = guidance().compile(regex(pattern))
    except GrammarError:
        assume(False)
        raise
    shortest = next(
        (size for size in range(7) if any(re.fullmatch(pattern, "".join(one)) for one in product(SIGNS, repeat=size))),
        None,
    )
    assert grammar.shortest is not None
    assert shortest is None or len(grammar.shortest) <= shortest
    most = len(grammar.shortest) + more
    tokens = written(Constraint(grammar, sampling(max(most, 1))), seed, max(most, 1))
    assert re.fullmatch(pattern, text(tokens)), text(tokens)


@SLOW
@given(parts=_PATTERNS.filter(lambda parts: len(parts) <= 4), seed=st.integers(0, 99), more=st.integers(0, 12))
def test_any_terminals_one_after_another_have_the_answers_of_their_expressions_and_are_closed_in_time(
    parts: list[tuple[str, str]], seed: int, more: int
) -> None:
    """What one takes of the text another one may need: where they are read one after another there may be no end."""
    pieces = ["".join(part) for part in parts]
    rules = [f"PIECE{at}: /{piece}/" for at, piece in enumerate(pieces)]
    try:
        grammar = guidance().compile(lark("\n".join([f"start: {' '.join(r.split(':')[0] for r in rules)}", *rules])))
    except GrammarError:
        assume(False)
        raise
    pattern = "".join(f"(?:{piece})" for piece in pieces)
    assert grammar.shortest is not None
    most = max(len(grammar.shortest) + more, 1)
    tokens = written(Constraint(grammar, sampling(most)), seed, most)
    assert re.fullmatch(pattern, text(tokens)), text(tokens)


@SLOW
@given(pattern=_PATTERNS.filter(lambda parts: len(parts) <= 4), seed=st.integers(0, 99), more=st.integers(0, 20))
def test_json_with_any_patterns_in_it_is_closed_in_time(pattern: list[tuple[str, str]], seed: int, more: int) -> None:
    schema = {
        "type": "array",
        "items": {"type": "string", "pattern": f"^{''.join(map(''.join, pattern))}$"},
        "minItems": 2,
    }
    try:
        grammar = guidance().compile(json_of(schema))
    except GrammarError:
        assume(False)
        raise
    assert grammar.shortest is not None
    most = len(grammar.shortest) + more
    tokens = written(Constraint(grammar, sampling(most)), seed, most)
    assert len(json.loads(text(tokens))) >= 2
    assert is_json_of(schema)(text(tokens))


def test_looking_for_a_way_has_a_bound_wherever_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of all requests waits for it: no look at the parser beyond the bound."""
    looks, spend = list[int](), closing._Effort.spend

    def counted(effort: closing._Effort) -> None:
        looks.append(1)
        spend(effort)

    grammars = [compiled(name) for name in FORMS]
    monkeypatch.setattr(closing._Effort, "spend", counted)
    for grammar in grammars:
        constraint = Constraint(grammar, sampling(40))
        while constraint.count < 40:
            looks.clear()
            # one way behind what is drawn, one from where it stands, and one that is shorter
            taken = constraint.take(allowed(constraint)[-1])
            assert len(looks) <= 3 * (closing._STEPS + 1)
            if taken.whole or taken.token in ENDS:
                break
