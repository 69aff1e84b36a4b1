"""An answer is gone on with from its recorded tokens, whatever was asked for, as if nothing had happened to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.text.tokenizer import Tokenizer
from schemas.generation import Repetition, Sampling, Submit
from schemas.structured import Structured
from tests.engine.structured.conftest import SIZE
from tests.engine.structured.forms import FORMS, GOOD
from tests.engine.structured.test_generation import Bench

TOKENS = st.integers(0, SIZE - 1)
FEW = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.0, 0.4, 1.0, 2.0]),
    "top_p": st.sampled_from([1.0, 0.9, 0.3]),
    "top_k": st.sampled_from([0, 3, 40, 300]),
    "min_p": st.sampled_from([0.0, 0.1]),
    "seed": st.integers(-(1 << 63), (1 << 63) - 1),
    "presence_penalty": st.sampled_from([0.0, 1.5, -1.0]),
    "frequency_penalty": st.sampled_from([0.0, 0.7]),
    "repetition_penalty": st.sampled_from([1.0, 1.3, 0.8]),
    "min_tokens": st.sampled_from([0, 5, 30]),
    "logit_bias": st.dictionaries(TOKENS, st.floats(-5, 5, width=16), max_size=4),
    "bad_words": st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=2).map(tuple), max_size=3).map(tuple),
    "stop_tokens": FEW.map(lambda some: tuple(sorted({0, *some}))),
    "repetition": st.sampled_from([None, None, Repetition(4, 1, 2), Repetition(2, 1, 3)]),
    "logprobs": st.sampled_from([None, None, 0, 2]),
}
FORM = st.sampled_from([None, None, *(GOOD[name][0] for name in GOOD), *(FORMS[name][0] for name in FORMS)])
THINKING = st.sampled_from([{}, {}, {"begun": True}, {"begun": False}])


BENCHES: list[Bench] = []
"""One for all: to make it takes longer than to ask it. No argument, whose all would be shown."""


def asked(folder: Path, drawn: dict[str, Any], form: Structured | None, thinking: dict[str, bool], more: Any) -> Submit:
    """Make a request; its thinking, if there is some, begins with a word or has begun, and may have a budget."""
    encode = Tokenizer.load(folder).encode
    close, extra = tuple(encode("the fox")), dict[str, Any]()
    if thinking:
        opening = () if thinking["begun"] else tuple(encode("dog"))
        extra = {"structured_after": close[-1:], "thinking_closing": close, "thinking_opening": opening, **more}
    sampling = Sampling(max_tokens=40, structured=form, **drawn, **extra)
    return Submit("r", tuple(range(3, 30, 2)), sampling, "front", "tenant")


@settings(
    max_examples=60,
    phases=(Phase.generate,),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
@given(
    drawn=st.fixed_dictionaries(DRAWN),
    form=FORM,
    thinking=THINKING,
    budget=st.sampled_from([None, 0, 3, 20]),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_what_is_gone_on_with_ends_as_what_nothing_happened_to(
    folder: Path, drawn: dict[str, Any], form: Any, thinking: Any, budget: Any, cuts: list[float]
) -> None:
    BENCHES[:] = BENCHES or [Bench(folder)]
    (bench,) = BENCHES
    one = asked(folder, drawn, form, thinking, {"thinking_budget": budget})
    numbers = iter(range(1000))

    def run(submit: Submit) -> tuple[str, str, list[int], int | None, list[Any]]:
        named = replace(submit, request=f"r{len(bench.plans)}-{next(numbers)}", cache_salt=str(len(bench.plans)))
        finish, text, tokens = bench.run([named])[named.request]
        return finish, text, tokens, bench.closed.get(named.request), bench.told[named.request]

    whole = run(one)
    finish, _, tokens, closed, told = whole
    if finish == "error":  # nothing may come next
        return
    for cut in cuts:
        at = round(cut * (len(tokens) - 1))
        before = None if closed is None or closed >= at else closed
        assert run(replace(one, output=tuple(tokens[:at]), closed=before, logprobs=tuple(told[:at]))) == whole
