"""A recorded request comes out again alone, to the last bit; a record that was changed is found where it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from engine.core.transcript import Transcript
from engine.engine import Engine
from engine.models.registry import load_model
from engine.platforms import detect
from engine.regeneration import Difference, Regenerator, difference
from engine.runner.executor import InlineExecutor
from engine.runner.kv_cache import KvCache
from engine.runner.loading import RunnerConfig, load_runner
from engine.runner.model_runner import ModelRunner
from engine.structured.compiler import Grammars
from schemas.generation import Accepted, Sampling, Submit
from schemas.steps import Resync, StepPlan, StepResult
from tests.engine.conftest import VOCABULARY, Tiny
from tests.engine.test_llm import Recorded, Ticks

CONTEXT = 160


@dataclass
class Record:
    """What the trace would hold of an engine: JSON of plans and results."""

    plans: list[bytes] = field(default_factory=list)
    results: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def add(self, plans: Iterable[StepPlan], results: Iterable[StepResult]) -> None:
        self.plans += map(msgspec.json.encode, plans)
        for result in results:
            self.results[result.n].append(msgspec.json.encode(result))

    def of(self, request: str) -> Transcript:
        """Read what it holds of a request."""
        found = Transcript(request)
        for data in self.plans:
            plan = msgspec.json.decode(data, type=StepPlan)
            results = [msgspec.json.decode(one, type=StepResult) for one in self.results[plan.n]]
            found.follow(plan, results)
        return found

    def change(self, request: str, index: int, token: int) -> int:
        """Give a request another token in the record; return the step."""
        mine = [n for n, data in sorted(self.results.items()) if any(_token(one, request) for one in data)]
        n = mine[index]
        self.results[n] = [_changed(one, request, token) for one in self.results[n]]
        return n


def _token(data: bytes, request: str) -> bool:
    return request in dict(msgspec.json.decode(data, type=StepResult).tokens)


def _changed(data: bytes, request: str, token: int) -> bytes:
    result = msgspec.json.decode(data, type=StepResult)
    tokens = tuple((name, token if name == request else was) for name, was in result.tokens)
    return msgspec.json.encode(replace(result, tokens=tokens))


def record(engine: Engine, executor: Recorded, submits: list[Submit], restart: Callable[[int], None]) -> Record:
    """Submit one before each step until all are over; return what would be recorded."""
    waiting, left = list(submits), {submit.request for submit in submits}
    for step in range(3000):
        if waiting:
            assert isinstance(engine.add(waiting.pop(0)), Accepted)
        restart(step)
        left -= {event.request for event in engine.step() if event.finish is not None}
        if not left:
            found = Record()
            found.add(executor.plans, executor.results)
            return found
    raise AssertionError(f"{sorted(left)} never finished")


class Bench:
    """A model, schedulers that are short of memory, and one that has a request at a time."""

    def __init__(self, folder: Path, grammars: Grammars | None = None) -> None:
        self.model = load_model(folder, detect("cpu"))
        self.grammars = grammars
        runner = load_runner(RunnerConfig(model=str(folder), blocks=60), detect("cpu"), "replay")
        runner = ModelRunner(runner._model, runner._cache, "replay", grammars)
        self.regenerator = Regenerator(runner)

    def run(self, submits: list[Submit], limits: dict[str, int], restarts: tuple[int, ...] = ()) -> Record:
        blocks = limits["blocks"]
        scheduler = Scheduler(SchedulerConfig(context_length=CONTEXT, block_size=16, **limits), "epoch-1")
        executor = Recorded(InlineExecutor(self._runner(blocks, 0)), [])
        engine = Engine(scheduler, executor, Ticks())

        def restart(step: int) -> None:
            if step in restarts:
                executor.inner = InlineExecutor(self._runner(blocks, step))
                scheduler.resync(Resync(f"worker-{step}", 0, "started", blocks))
                engine._launched = 0

        return record(engine, executor, submits, restart)

    def _runner(self, blocks: int, number: int) -> ModelRunner:
        return ModelRunner(self.model, KvCache(self.model, blocks, 16), f"worker-{number}", self.grammars)

    def again(self, transcript: Transcript) -> Difference | None:
        return difference(transcript, self.regenerator.again(transcript))


@pytest.fixture(scope="session")
def bench(tiny: Callable[[str], Tiny]) -> Bench:
    return Bench(tiny("qwen3-tied").folder)


def submit(name: str, length: int, **sampling: Any) -> Submit:
    prompt = tuple((at * at * 7 + at * len(name) + length) % VOCABULARY for at in range(length))
    wanted = Sampling(**{"max_tokens": 25, "seed": 3 * length, **sampling})
    return Submit(request=name, prompt=prompt, sampling=wanted, frontend="f", tenant="t")


MANY = [
    submit("greedy", 40),
    submit("drawn", 9, temperature=1.0),
    submit("cut", 31, temperature=1.3, top_p=0.9, top_k=30, min_p=0.01),
    submit("penalised", 17, temperature=0.8, presence_penalty=1.0, repetition_penalty=1.2, logit_bias={5: 3.0}),
    submit("judged", 22, temperature=1.0, logprobs=5, prompt_logprobs=2, prompt_logprob_start=4),
    submit("stopped", 12, temperature=1.0, stop_tokens=tuple(range(0, VOCABULARY, 9)), min_tokens=3),
    submit("forced", 8, logprobs=0, trace_decode_token_ids=tuple(range(20)), max_tokens=20),
    submit("long", 90, temperature=0.7),
]


def test_whatever_became_of_a_request_in_company_it_comes_out_alone(bench: Bench) -> None:
    gave_way = set[bool]()

    @settings(max_examples=6, deadline=None)
    @given(
        st.permutations(MANY),
        st.fixed_dictionaries(
            {
                "blocks": st.integers(9, 30),
                "prefill_chunk": st.integers(3, 64),
                "max_step_tokens": st.integers(8, 200),
                "max_in_flight": st.integers(1, 3),
            }
        ),
        st.lists(st.integers(2, 40), max_size=2).map(tuple),
    )
    def in_company(order: list[Submit], limits: dict[str, int], restarts: tuple[int, ...]) -> None:
        found = bench.run(order, limits, restarts)
        for one in order:
            transcript = found.of(one.request)
            assert (transcript.prompt, transcript.missing) == (one.prompt, ())
            assert transcript.count > 0
            assert bench.again(transcript) is None
            gave_way.add(transcript.preemptions > 0)

    in_company()
    assert gave_way == {True, False}


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_a_token_that_was_changed_in_the_record_is_named_where_it_stands(bench: Bench, data: st.DataObject) -> None:
    found = bench.run(MANY, {"blocks": 30, "max_in_flight": 1})
    one = data.draw(st.sampled_from([one for one in MANY if one.request not in {"stopped", "forced"}]))
    index = data.draw(st.integers(0, 24))
    was = found.of(one.request).drawn[index][0].token
    n = found.change(one.request, index, (was + 1) % VOCABULARY)
    difference = bench.again(found.of(one.request))
    assert difference is not None
    assert (difference.place, difference.index) == (("epoch-1", n), index)
    assert difference.position == len(one.prompt) + index
    assert (difference.what, difference.recorded, difference.made) == ("token", str((was + 1) % VOCABULARY), str(was))


def test_what_was_told_of_a_token_is_compared_to_the_last_bit(bench: Bench) -> None:
    found = bench.run([MANY[4]], {"blocks": 30})
    transcript = found.of("judged")
    assert sorted(transcript.judged) == [*range(5, 22 + 25)]
    for position, where in ((7, -15), (30, 8)):
        changed = found.of("judged")
        told, place = changed.judged[position][0]
        nearly = (told.logprobs[0] * (1 + 1e-7), *told.logprobs[1:])
        changed.judged[position][0] = changed.judged[position][0]._replace(told=replace(told, logprobs=nearly))
        difference = bench.again(changed)
        assert difference is not None
        assert (difference.place, difference.position, difference.index) == (place, position, where)
        assert difference.what == "logprobs"


def test_an_answer_that_is_longer_in_the_record_is_a_difference(bench: Bench) -> None:
    found = bench.run([MANY[0]], {"blocks": 30}).of("greedy")
    assert (found.count, bench.again(found)) == (25, None)
    for index in range(25, 29):
        found.drawn[index].append(found.drawn[24][0])
    difference = bench.again(found)
    assert difference is not None
    assert (difference.index, difference.made) == (27, "nothing (length)"), "two may come of steps planned ahead"


def test_an_answer_that_was_broken_off_is_compared_as_far_as_it_came(bench: Bench) -> None:
    found = bench.run([MANY[0]], {"blocks": 30}).of("greedy")
    for index in range(7, 25):
        del found.drawn[index]
    made = bench.regenerator.again(found)
    assert (len(made.tokens), made.finish) == (7, None)
    assert difference(found, made) is None
    assert bench.regenerator.again(bench.run([MANY[0]], {"blocks": 30}).of("greedy")).finish == "length"


def test_another_prompt_told_later_is_a_contradiction(bench: Bench) -> None:
    found = bench.run([MANY[1]], {"blocks": 30}, (5,))
    at, plan = next(
        (at, plan)
        for at, plan in enumerate(msgspec.json.decode(data, type=StepPlan) for data in found.plans)
        if at and plan.arrivals
    )
    assert found.of("drawn").contradiction is None
    (arrival,) = plan.arrivals
    found.plans[at] = msgspec.json.encode(replace(plan, arrivals=(replace(arrival, tokens=(99, *arrival.tokens[1:])),)))
    assert found.of("drawn").contradiction == ("epoch-1", plan.n)


def test_a_request_that_does_not_fit_here_says_so(bench: Bench) -> None:
    transcript = bench.run([MANY[0]], {"blocks": 30}).of("greedy")
    transcript.prompt = tuple(range(90)) * 4
    made = bench.regenerator.again(transcript)
    assert made.finish == "error"
    assert "256" in made.problem
    found = cast("Difference", difference(transcript, made))
    assert (found.index, found.what) == (0, "token")
    assert found.made.startswith("nothing (")
