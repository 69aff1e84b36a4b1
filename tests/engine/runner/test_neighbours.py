"""What goes wrong for one request leaves those beside it as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.kv_cache import KvCache
from engine.runner.model_runner import ModelRunner
from engine.structured.compiler import Grammars
from engine.structured.grammar import Vocabulary
from schemas.generation import Sampling, Submit
from schemas.steps import Arrival, Prepare, Slice, StepPlan
from schemas.structured import Structured
from tests.engine.conftest import VOCABULARY, Tiny, grouped

BAD = 100
"""A token whose embedding is not finite."""


def poisoned(tiny: Callable[[str], Tiny], kind: str) -> Decoder:
    model = load_model(tiny(kind).folder, detect("cpu"), "float32")
    weight = model._embedding.weight.clone()
    weight[BAD] = float("inf")
    model._embedding.weight = weight
    return model


def arrival(name: str, tokens: tuple[int, ...], *blocks: int, **wanted: Any) -> Arrival:
    return Arrival(name, tokens, len(tokens), Sampling(**wanted), blocks, 0)


def step(n: int, *arrivals: Arrival, slices: list[Slice]) -> StepPlan:
    return StepPlan(n=n, epoch="e", time=0, full=n == 1, arrivals=arrivals, slices=tuple(slices), gone=())


def test_numbers_in_a_block_that_only_fills_a_width_reach_nobody(tiny: Callable[[str], Tiny]) -> None:
    """Three blocks are attended over as four; the fourth is not its own, and is written in the same step."""
    model = poisoned(tiny, "mistral")
    answers = []
    for token in (BAD, 7):
        runner = ModelRunner(model, KvCache(model, 64, 4), "w")
        runner.execute(step(1, arrival("a", tuple(range(3, 12)), 5, 6, 7), slices=[Slice("a", 0, 9)]))
        both = [Slice("a", 9, 1), Slice("b", 0, 2)]
        result = runner.execute(step(2, arrival("b", (token, 7), 0), slices=both))
        assert [name for name, _ in result.errors] == (["b"] if token == BAD else [])
        answers.append(dict(result.tokens)["a"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("at", [14, 18, 22, 26])
@pytest.mark.parametrize(("kind", "blocks"), [("mistral-windowed", 9), ("gemma2", 38), ("gemma3", 38)])
def test_numbers_in_blocks_that_a_window_left_behind_reach_nobody(
    tiny: Callable[[str], Tiny], kind: str, blocks: int, at: int
) -> None:
    model = poisoned(tiny, kind)
    found = []
    for token in (BAD, 7):
        runner = ModelRunner(model, KvCache(model, blocks, 4), "w")
        limits = {"prefill_chunk": 8, "max_in_flight": 1, "watermark": 0.0} | grouped(model)
        config = SchedulerConfig(blocks=blocks, context_length=200, block_size=4, **limits)
        scheduler, answer, failed = Scheduler(config, "e"), list[int](), set[str]()
        prompt = tuple(range(3, 43))
        scheduler.submit(Submit("a", prompt, Sampling(max_tokens=40, bad_words=((BAD,),)), "f", "t"))
        for n in range(80):
            if n == at:
                scheduler.submit(Submit("b", (token,) * 8, Sampling(max_tokens=4), "f", "u"))
            plan = scheduler.plan(0)
            if plan is None:
                break
            result = runner.execute(plan)
            failed |= {name for name, _ in result.errors}
            answer += [token for event in scheduler.apply(result) if event.request == "a" for token in event.tokens]
        assert failed == ({"b"} if token == BAD else set())
        found.append(answer)
    assert len(found[0]) == 40
    assert found[0] == found[1]


def test_a_token_that_the_model_has_not_fails_its_request_alone(tiny: Callable[[str], Tiny]) -> None:
    model = load_model(tiny("mistral").folder, detect("cpu"), "float32")
    runner = ModelRunner(model, KvCache(model, 64, 4), "w")
    given = arrival("c", (3, 4), 7, trace_decode_token_ids=(3, VOCABULARY))
    asked = (arrival("a", (3, VOCABULARY), 5), arrival("b", (3, 4), 6), given)
    result = runner.execute(step(1, *asked, slices=[Slice(name, 0, 2) for name in "abc"]))
    problem = f"token {VOCABULARY} is none that the model knows, 0 to {VOCABULARY - 1}"
    assert result.errors == (("a", problem), ("c", problem))
    assert [name for name, _ in result.tokens] == ["b"]


class Broken:
    """A grammar backend, its grammar and its matcher, which breaks when it is to say what may come."""

    shortest = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        pass

    def compile(self, structured: Structured) -> Broken:
        return self

    def matcher(self) -> Broken:
        return self

    def mask(self, row: object) -> None:
        raise RuntimeError("out of order")


def test_a_grammar_backend_that_breaks_fails_its_request_alone(tiny: Callable[[str], Tiny]) -> None:
    model = load_model(tiny("mistral").folder, detect("cpu"), "float32")
    vocabulary = Vocabulary("", VOCABULARY, (2,))
    runner = ModelRunner(model, KvCache(model, 64, 4), "w", Grammars(Broken, lambda: vocabulary))  # type: ignore[arg-type]
    form = Structured(kind="regex", text="a")
    assert runner.prepare(Prepare(form.key(), form)) == ""
    asked = (arrival("a", (3, 4), 5, structured=form), arrival("b", (3, 4), 6))
    result = runner.execute(step(1, *asked, slices=[Slice("a", 0, 2), Slice("b", 0, 2)]))
    assert result.errors == (("a", "the grammar backend broke: RuntimeError('out of order')"),)
    assert [name for name, _ in result.tokens] == ["b"]
