"""Scheduler, worker and grammars together: whatever else happens to a request, its answer keeps to its form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from engine.config import SchedulerConfig
from engine.core.retrace import Retrace
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.errors import BadRequest
from engine.llm import LLM
from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.executor import InlineExecutor
from engine.runner.kv_cache import KvCache
from engine.runner.loading import RunnerConfig, vocabulary
from engine.runner.model_runner import ModelRunner
from engine.structured.compiler import Grammars
from engine.structured.grammar import Vocabulary
from engine.structured.guidance import Guidance
from engine.structured.masks import rows_for
from engine.text.tokenizer import Tokenizer
from schemas.generation import Accepted, Sampling, Submit, TokenLogprobs
from schemas.steps import Resync, StepPlan, StepResult
from schemas.structured import Structured
from tests.engine.structured.conftest import SIZE
from tests.engine.structured.forms import BAD, FORMS, GOOD
from tests.engine.test_llm import Recorded, Ticks


@dataclass
class Bench:
    """A scheduler, and workers one after another."""

    folder: Path
    blocks: int = 400
    chunk: int = 16
    plans: list[StepPlan] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)
    workers: int = 0
    closed: dict[str, int] = field(default_factory=dict)
    """Where tokens were taken that were not drawn."""
    told: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """What was told of tokens, where that was wanted."""

    def __post_init__(self) -> None:
        config = SchedulerConfig(
            blocks=self.blocks, context_length=256, block_size=4, prefill_chunk=self.chunk, max_step_tokens=40
        )
        self.scheduler = Scheduler(config, "epoch-1")
        self.model = load_model(self.folder, detect("cpu"))
        self.tokenizer = Tokenizer.load(self.folder)
        self.start_worker()

    def start_worker(self) -> None:
        """Have a new worker take over; whatever the one before it was doing is lost."""
        self.workers += 1
        name = f"worker-{self.workers}"
        grammars = Grammars(Guidance, lambda: vocabulary(self.folder, self.model.config))
        runner = ModelRunner(self.model, KvCache(self.model, self.blocks, 4), name, grammars)
        self.scheduler.resync(Resync(name, 0, "started", self.blocks))
        self.engine = Engine(self.scheduler, Recorded(InlineExecutor(runner), self.plans, self.results), Ticks())

    def run(self, submits: list[Submit], restarts: tuple[int, ...] = ()) -> dict[str, tuple[str, str, list[int]]]:
        """Submit one before each step; give finish, text or problem, and tokens of each."""
        waiting, tokens = list(submits), {submit.request: list(submit.output) for submit in submits}
        waits = {submit.request: submit.logprobs for submit in submits}
        found = self.found = dict[str, tuple[str, str, list[int]]]()
        for step in range(3000):
            if waiting:
                assert isinstance(self.engine.add(waiting.pop(0)), Accepted)
            if step in restarts:
                self.start_worker()
            for event in self.engine.step():
                got = tokens[event.request]
                got.extend(event.tokens)
                self.told.setdefault(event.request, list(waits[event.request])).extend(event.logprobs)
                if event.closed is not None:
                    self.closed[event.request] = event.closed
                if event.finish is not None:
                    text = event.problem or self.tokenizer.decode(got)
                    found[event.request] = (event.finish, text, got)
            self.scheduler.check()
            if len(found) == len(submits):
                return found
        raise AssertionError(f"{sorted(tokens.keys() - found.keys())} never finished")

    def finishes_as_recorded(self) -> dict[str, str | None]:
        """Give each request's reason as it comes out of the record."""
        retrace = Retrace()
        for plan in self.plans:
            assert retrace.follow(msgspec.json.decode(msgspec.json.encode(plan), type=StepPlan)) is None
        for result in self.results:
            if result.n in retrace.in_flight:
                retrace.finish(result)
        events = [retrace.scheduler.attach(request, 0) for request in sorted(self.found)]
        return {event.request: event.finish for event in events if event is not None}


def submit(request: str, structured: Structured | None, max_tokens: int = 80, **more: Any) -> Submit:
    wanted = {"temperature": 1.0, "seed": sum(map(ord, request)), "stop_tokens": (0,), **more}
    prompt = tuple((7 * len(request) + 31 * at) % SIZE for at in range(9 + len(request)))
    sampling = Sampling(max_tokens=max_tokens, structured=structured, **wanted)
    return Submit(request=request, prompt=prompt, sampling=sampling, frontend="test", tenant="t")


EVERYTHING = [
    *[submit(f"good {name}", structured) for name, (structured, _) in GOOD.items()],
    *[submit(f"bad {name}", structured) for name, (structured, _) in BAD.items()],
    *[submit(f"late {name}", structured, min_tokens=70) for name, (structured, _) in GOOD.items()],
    *[submit(f"greedy {name}", structured, temperature=0.0) for name, (structured, _) in GOOD.items()],
    submit("free", None),
    submit("free and long", None, 120),
]


@pytest.mark.parametrize(
    ("blocks", "chunk", "restarts"),
    [(400, 64, ()), (400, 3, ()), (50, 16, ()), (400, 16, (9, 30, 31, 60)), (50, 5, (17, 40))],
    ids=["together", "in chunks", "short of memory", "with new workers", "all of it"],
)
def test_every_answer_keeps_to_its_form_and_bad_grammars_fail_alone(
    folder: Path, blocks: int, chunk: int, restarts: tuple[int, ...]
) -> None:
    bench = Bench(folder, blocks, chunk)
    found = bench.run(EVERYTHING, restarts)
    reasons = set()
    for request, (finish, text, tokens) in found.items():
        kind, _, name = request.partition(" ")
        if kind == "bad":
            assert finish == "error"
            assert BAD[name][1] in text
        elif kind == "free":
            assert finish in {"length", "stop"}
        else:
            assert finish == "stop" or (finish, bench.closed[request] < len(tokens)) == ("length", True)
            assert GOOD[name][1](text), text
            reasons.add(finish)
    assert reasons == {"stop", "length"}
    assert any(plan.preempted for plan in bench.plans) == (blocks == 50)
    assert bench.finishes_as_recorded() == {request: finish for request, (finish, _, _) in found.items()}


@pytest.mark.parametrize(("blocks", "restarts"), [(50, ()), (400, (9, 30, 31, 60))])
def test_an_answer_ends_for_the_same_reason_whatever_happens_to_it(
    folder: Path, blocks: int, restarts: tuple[int, ...]
) -> None:
    good = [one for one in EVERYTHING if not one.request.startswith("bad")]
    assert Bench(folder, blocks).run(good, restarts) == Bench(folder).run(good)


def test_an_engine_that_goes_on_from_tokens_gives_the_reason_that_the_first_would_have(folder: Path) -> None:
    """A scheduler that is lost is followed by one that is told of the tokens there are, and which was not drawn."""
    bench, reasons = Bench(folder), list[str]()
    for name in ("json_schema", "json_object", "regex"):
        one = submit(f"good {name}", GOOD[name][0])
        finish, text, tokens = bench.run([one])[one.request]
        reasons.append(finish)
        closed = bench.closed.get(one.request)
        for at in range(1, len(tokens), 7):
            known = None if closed is None or closed >= at else closed
            again = replace(one, output=tuple(tokens[:at]), closed=known)
            found = Bench(folder).run([again])[one.request]
            assert found == (finish, text, tokens)
    assert set(reasons) == {"stop", "length"}


def test_an_answer_is_the_same_alone_and_beside_others(folder: Path) -> None:
    several = [one for one in EVERYTHING if one.request.startswith(("good", "free"))]
    together = Bench(folder).run(several)
    for one in several:
        assert Bench(folder).run([one])[one.request] == together[one.request], one.request


def test_documents_whose_ends_are_text_of_their_bodies_are_closed_whatever_happens_to_them(folder: Path) -> None:
    asked = [submit(name, form, 30) for name, (form, _, _) in FORMS.items()]
    bench = Bench(folder, 50, 5)
    found = bench.run(asked, (9, 30, 31, 60))
    assert any(plan.preempted for plan in bench.plans)
    for name, (finish, text, tokens) in found.items():
        assert FORMS[name][2](text), text
        assert finish == "stop" or (finish, bench.closed[name] < len(tokens)) == ("length", True)
    assert "length" in {finish for finish, _, _ in found.values()}
    assert found == Bench(folder).run(asked)
    retrace = Retrace()
    assert all(retrace.follow(plan) is None for plan in bench.plans)


def test_plans_that_ask_for_grammars_come_out_again_as_they_were_recorded(folder: Path) -> None:
    bench = Bench(folder, 50, 5)
    bench.run(EVERYTHING, (17, 40))
    assert sum(len(plan.prepare) for plan in bench.plans) > len(GOOD) + len(BAD)
    retrace = Retrace()
    for plan in bench.plans:
        assert retrace.follow(plan) is None


def test_the_end_of_an_answer_waits_for_min_tokens_where_it_can(folder: Path) -> None:
    digits = Structured(kind="regex", text="[0-9]{1,30}")
    finish, text, tokens = Bench(folder).run([submit("a", digits, min_tokens=9)])["a"]
    assert (finish, text.isdigit()) == ("stop", True)
    assert len(tokens) > 9


def test_one_that_no_token_is_left_for_fails_alone(folder: Path) -> None:
    letters = Structured(kind="regex", text="[a-f]{5}")
    digit = Tokenizer.load(folder).encode("7")[0]
    found = Bench(folder).run([submit("none", letters, allowed_token_ids=(digit,)), submit("some", letters)])
    assert found["none"][0] == "error"
    assert found["some"][0] == "stop"


def test_tokens_to_be_avoided_are_avoided_within_a_form(folder: Path) -> None:
    letters = Structured(kind="regex", text="[ab]{20}")
    a, b = (Tokenizer.load(folder).encode(letter)[0] for letter in "ab")
    _, text, tokens = Bench(folder).run([submit("x", letters, logit_bias={a: -100.0}, bad_words=((b, b, b),))])["x"]
    assert len(text) == 20
    assert tokens[:3] != [b, b, b]


def test_the_thinking_before_an_answer_is_free(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    structured, check = GOOD["regex"]
    (after,) = tokenizer.encode("</think>")
    one = submit("a", structured, 200, structured_after=(after,), logit_bias={after: 9.0, 0: -100.0})
    finish, _, tokens = Bench(folder).run([one])["a"]
    assert finish == "stop"
    assert check(tokenizer.decode(tokens[tokens.index(after) + 1 :]))


# offline


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), device="cpu", runner=RunnerConfig(model="", blocks=100))


def test_generate_answers_in_a_form(llm: LLM) -> None:
    structured, check = GOOD["json_schema"]
    answers = llm.generate(["one", "two"], Sampling(max_tokens=60, temperature=1.0, structured=structured))
    assert all(check(answer.text) and answer.finish in {"stop", "length"} for answer in answers)


def test_generate_says_what_is_wrong_with_a_grammar_and_goes_on_afterwards(llm: LLM) -> None:
    for structured, problem in BAD.values():
        with pytest.raises(BadRequest) as error:
            llm.generate(["one", "two"], Sampling(structured=structured))
        assert str(error.value).startswith("structured: ")
        assert problem in str(error.value)
    assert llm.generate(["one"], Sampling(max_tokens=5))[0].tokens


def test_a_text_that_ends_an_answer_ends_it_within_a_form(llm: LLM) -> None:
    structured = Structured(kind="regex", text="[a-c]{30}")
    sampling = Sampling(max_tokens=60, temperature=1.0, seed=5, structured=structured)
    (answer,) = llm.generate(["one"], sampling)
    stop = answer.text[7:9]
    (cut,) = llm.generate(["one"], sampling, stop=(stop,))
    assert (cut.text, cut.finish) == (answer.text[: answer.text.index(stop)], "stop")


def test_the_text_that_ends_the_thinking_is_found(llm: LLM, folder: Path) -> None:
    structured = Structured(kind="choice", choices=("yes", "no"), after="</think>")
    (after,) = Tokenizer.load(folder).encode("</think>")
    sampling = Sampling(max_tokens=200, temperature=1.0, structured=structured, logit_bias={0: -100.0, after: 9.0})
    for answer in llm.generate(["one", "two", "three"], sampling):
        _, marker, said = answer.text.partition("</think>")
        assert marker
        assert (said, answer.finish) in {("yes", "stop"), ("no", "stop")}


def test_a_backend_that_is_not_installed_is_named(folder: Path) -> None:
    with pytest.raises(BadRequest, match="grammar_backend: there is no backend 'none': installed are llguidance"):
        LLM(str(folder), device="cpu", runner=RunnerConfig(model="", blocks=10, grammar_backend="none"))


# the likeliest


@pytest.mark.parametrize("pattern", ["[a-c]{2,4}", "(the|a) (quick |brown ){1,3}fox", "x?y*"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_search_bound_to_a_grammar_finds_what_transformers_finds(
    llm: LLM, folder: Path, vocabulary: Vocabulary, pattern: str, penalty: float
) -> None:
    # slow to import, so only when a test needs it
    import transformers  # noqa: PLC0415

    structured = Structured(kind="regex", text=pattern)
    grammar, (end,) = Guidance(vocabulary).compile(structured), vocabulary.ends
    prompt = Tokenizer.load(folder).encode("the others think")

    def allowed(batch: int, said: torch.Tensor) -> list[int]:
        matcher, row = grammar.matcher(), rows_for(1, SIZE)
        for token in said[len(prompt) :].tolist():
            if token == end:
                return [end]
            assert matcher.accept(token)
        matcher.mask(row[0])
        bits = np.unpackbits(row[0], bitorder="little")[:SIZE]
        bits[end] = matcher.is_accepting()
        return list(np.flatnonzero(bits).tolist())

    ids = torch.tensor([prompt])
    wanted = transformers.Qwen3ForCausalLM.from_pretrained(folder).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        num_beams=3,
        num_return_sequences=3,
        do_sample=False,
        early_stopping="never",
        length_penalty=penalty,
        eos_token_id=end,
        pad_token_id=end,
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    (found,) = llm.beam_search([prompt], 3, 24, penalty, structured=structured)
    sequences = [one[len(prompt) :].tolist() for one in wanted.sequences]
    assert [[*one.tokens] for one in found] == [one[: one.index(end) + 1] for one in sequences]
    assert [one.score for one in found] == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)
    assert all(re.fullmatch(pattern, one.text) for one in found)


@pytest.mark.parametrize("form", sorted(GOOD))
@pytest.mark.parametrize("most", [14, 40])
def test_whatever_a_search_finds_keeps_to_its_form_and_comes_to_its_end_in_time(
    llm: LLM, vocabulary: Vocabulary, form: str, most: int
) -> None:
    structured, check = GOOD[form]
    grammar = Guidance(vocabulary).compile(structured)
    if grammar.shortest is None or len(grammar.shortest) > most:
        pytest.skip("it cannot end in so few tokens")
    for found in llm.beam_search(["one", "the lazy dog"], 3, most, structured=structured):
        assert found
        assert all(check(one.text) for one in found)


def test_a_search_among_few_answers_finds_as_many_as_there_are(llm: LLM) -> None:
    structured = Structured(kind="regex", text="[ab]")
    (found,) = llm.beam_search(["one"], 5, 4, structured=structured)
    assert {one.text for one in found} == {"a", "b"}
