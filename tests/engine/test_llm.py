"""Scheduler and runner together in one process: many requests at once, each as if it were alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import peft
import pytest
import torch
from msgspec.structs import replace
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from engine.config import MOST_NUMBERS, SchedulerConfig
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.errors import BadRequest
from engine.generator import Completion
from engine.llm import LLM
from engine.logprobs import LogprobsMode
from engine.models.registry import load_model
from engine.platforms import detect
from engine.runner.executor import Executor, InlineExecutor
from engine.runner.kv_cache import KvCache
from engine.runner.loading import RunnerConfig
from engine.runner.model_runner import ModelRunner
from engine.text.prompts import Customs
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Accepted, Sampling, Submit
from schemas.messages import Calling, Message, ToolSpec
from schemas.steps import Prepared, StepPlan, StepResult
from tests.engine.conftest import KINDS, VOCABULARY, Tiny, grouped

LETTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?+-*/=<>()[]{}#$%&_~^|@'\"\\"


class Ticks:
    """A clock that moves by a millisecond whenever it is asked."""

    def __init__(self) -> None:
        self._times: Iterator[int] = itertools.count(0, 1000)

    def now(self) -> int:
        return next(self._times)


@dataclass
class Recorded:
    """An executor that remembers the plans it was given, and what came of them."""

    inner: Executor
    plans: list[StepPlan]
    results: list[StepResult] = field(default_factory=list)

    def launch(self, plan: StepPlan) -> None:
        self.plans.append(plan)
        self.inner.launch(plan)

    def collect(self) -> StepResult:
        self.results.append(self.inner.collect())
        return self.results[-1]

    def prepared(self) -> list[Prepared]:
        return self.inner.prepared()


def make_engine(
    tiny: Tiny,
    *,
    blocks: int = 200,
    block_size: int = 4,
    plans: list[StepPlan] | None = None,
    logprobs_mode: LogprobsMode = "raw_logprobs",
) -> Engine:
    model = load_model(tiny.folder, detect("cpu"))
    limits: dict[str, Any] = {"block_size": block_size, "prefill_chunk": 16, "max_step_tokens": 40} | grouped(model)
    config = SchedulerConfig(blocks=blocks, context_length=256, **limits)
    runner = ModelRunner(model, KvCache(model, blocks, block_size), "worker-1", logprobs_mode=logprobs_mode)
    executor = Recorded(InlineExecutor(runner), [] if plans is None else plans)
    return Engine(Scheduler(config, "epoch-1"), executor, Ticks())


def run(engine: Engine, submits: list[Submit]) -> dict[str, list[int]]:
    """Submit a request before each of the first steps, and step until all are over."""
    waiting, over = list(submits), set[str]()
    tokens: dict[str, list[int]] = {submit.request: [] for submit in submits}
    for _ in range(2000):
        if waiting:
            assert isinstance(engine.add(waiting.pop(0)), Accepted)
        for event in engine.step():
            tokens[event.request].extend(event.tokens)
            if event.finish is not None:
                assert event.finish in {"length", "stop"}
                over.add(event.request)
        if len(over) == len(submits):
            return tokens
    raise AssertionError(f"{sorted(tokens.keys() - over)} never finished")


def submit(request: str, prompt: list[int], sampling: Sampling) -> Submit:
    return Submit(request=request, prompt=tuple(prompt), sampling=sampling, frontend="test", tenant="t")


def prompts(seed: int, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_of_concurrent_requests_equal_those_of_transformers(
    tiny: Callable[[str], Tiny], kind: str, block_size: int
) -> None:
    made = prompts(1, 1, 30, 7, 64, 16)
    engine = make_engine(tiny(kind), block_size=block_size)
    found = run(engine, [submit(str(i), prompt, Sampling(max_tokens=64)) for i, prompt in enumerate(made)])
    for i, prompt in enumerate(made):
        assert found[str(i)] == tiny(kind).greedy(prompt, 64)


def test_what_requests_want_of_their_logits_equals_transformers_in_one_batch(tiny: Callable[[str], Tiny]) -> None:
    made = prompts(5, 30, 12, 20, 9)
    plain = tiny("qwen3-tied").greedy(made[2], 40)
    word, stop = plain[6:8], plain[3]
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"repetition_penalty": 1.6}, {"repetition_penalty": 1.6}),
        ({}, {}),
        ({"bad_words": (tuple(word), (plain[0],))}, {"bad_words_ids": [word, [plain[0]]]}),
        (
            {"min_tokens": 30, "stop_tokens": (stop,), "repetition_penalty": 1.2},
            {"min_new_tokens": 30, "eos_token_id": stop, "repetition_penalty": 1.2},
        ),
    ]
    submits = [
        submit(str(i), prompt, Sampling(max_tokens=40, **ours))
        for i, (prompt, (ours, _)) in enumerate(zip(made, pairs, strict=True))
    ]
    found = run(make_engine(tiny("qwen3-tied")), submits)
    for i, (prompt, (_, theirs)) in enumerate(zip(made, pairs, strict=True)):
        assert found[str(i)] == tiny("qwen3-tied").greedy(prompt, 40, **theirs), pairs[i][0]
    assert found["0"] != tiny("qwen3-tied").greedy(made[0], 40)
    # short of memory, requests come back and count what they had said before
    assert run(make_engine(tiny("qwen3-tied"), blocks=26), submits) == found


def test_a_request_that_no_token_is_left_for_ends_with_an_error_alone(tiny: Callable[[str], Tiny]) -> None:
    engine = make_engine(tiny("qwen3-tied"))
    nothing = Sampling(max_tokens=4, allowed_token_ids=(3,), bad_words=((3,),))
    for one in (submit("a", [1, 2, 3], nothing), submit("b", [1, 2, 3], Sampling(max_tokens=4))):
        assert isinstance(engine.add(one), Accepted)
    ends = {event.request: event for _ in range(10) for event in engine.step() if event.finish}
    assert (ends["a"].finish, ends["a"].tokens) == ("error", ())
    assert ends["b"].finish == "length"


def test_the_same_seed_gives_the_same_tokens_alone_in_a_crowd_and_short_of_memory(
    tiny: Callable[[str], Tiny],
) -> None:
    samplings = [
        Sampling(temperature=1.0, seed=i, max_tokens=30, top_k=10 * (i % 3), top_p=(1.0, 0.9)[i % 2]) for i in range(6)
    ]
    submits = [
        submit(str(i), prompt, sampling)
        for i, (prompt, sampling) in enumerate(zip(prompts(2, 9, 20, 33, 4, 17, 26), samplings, strict=True))
    ]
    alone = {}
    for one in submits:
        alone |= run(make_engine(tiny("qwen3-tied")), [one])
    assert run(make_engine(tiny("qwen3-tied")), submits) == alone
    # room for about two requests: the others wait or are preempted and computed anew
    plans: list[StepPlan] = []
    assert run(make_engine(tiny("qwen3-tied"), blocks=32, plans=plans), submits) == alone
    assert any(plan.preempted for plan in plans)


def test_a_prefix_cache_hit_gives_the_same_tokens_as_a_cold_start(tiny: Callable[[str], Tiny]) -> None:
    prompt = prompts(3, 50)[0]
    engine = make_engine(tiny("llama-untied"))
    sampling = Sampling(temperature=0.8, seed=4, max_tokens=20)
    cold = run(engine, [submit("cold", prompt, sampling)])["cold"]
    assert isinstance(engine.add(submit("warm", prompt, sampling)), Accepted)
    events = [event for _ in range(40) for event in engine.step()]
    assert max(event.cached for event in events) >= 48
    assert [token for event in events for token in event.tokens] == cold


def test_a_stop_token_ends_a_generation_although_the_next_step_was_planned(tiny: Callable[[str], Tiny]) -> None:
    prompt = prompts(1, 30)[0]
    greedy = tiny("qwen3-tied").greedy(prompt, 20)
    stop = greedy[9]
    sampling = Sampling(max_tokens=20, stop_tokens=(stop,))
    found = run(make_engine(tiny("qwen3-tied")), [submit("a", prompt, sampling)])["a"]
    assert found == greedy[: greedy.index(stop) + 1]


@pytest.fixture
def readable(tiny: Callable[[str], Tiny], tmp_path: Path) -> Path:
    """A checkpoint that reads and writes single characters, and has a chat template."""
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen3-tied").folder, folder)
    vocabulary = {character: i for i, character in enumerate(LETTERS[: VOCABULARY - 1])} | {"<|end|>": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }};{% endfor %}assistant:"
    config = {"eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def llm(readable: Path) -> LLM:
    return LLM(str(readable), device="cpu", runner=RunnerConfig(model="", blocks=100))


def uncounted(answer: Completion | None) -> Completion | None:
    """An answer, without what it owes to those before it."""
    return answer and dataclasses.replace(answer, usage=replace(answer.usage, cached_tokens=0))


def test_generate_answers_every_prompt_in_order(llm: LLM) -> None:
    asked = ["one", "two, three", "and four."]
    together = llm.generate(asked, Sampling(max_tokens=12))
    assert [answer.text for answer in together] == [
        llm.generate([one], Sampling(max_tokens=12))[0].text for one in asked
    ]
    for one, answer in zip(asked, together, strict=True):
        assert answer.usage.prompt_tokens == len(one)
        assert answer.usage.completion_tokens == len(answer.tokens) <= 12
        assert answer.finish in {"length", "stop"}


def test_generate_ends_at_a_stop_text_and_leaves_it_out(llm: LLM) -> None:
    (whole,) = llm.generate(["hello"], Sampling(max_tokens=30))
    stop = whole.text[5:7]
    (cut,) = llm.generate(["hello"], Sampling(max_tokens=30), stop=(stop,))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish == "stop"
    # its last character comes with the last token there may be
    (just,) = llm.generate(["hello"], Sampling(max_tokens=len(cut.tokens)), stop=(stop,))
    assert (just.text, just.tokens, just.finish) == (cut.text, cut.tokens, "stop")


def test_a_text_is_no_list_of_its_characters_and_there_is_no_answer_less_than_one(llm: LLM) -> None:
    wrong: dict[str, Any] = {"prompts": "ab", "stop": "ab", "bad_words": "ab", "n": 0}
    for name, value in wrong.items():
        for ask in (llm.generate, llm.stream):
            with pytest.raises(BadRequest, match=f"^{name}: "):
                ask(**{"prompts": ["hello"], name: value})
    with pytest.raises(BadRequest, match="prompts: is one text; give a list of them"):
        llm.beam_search("ab")


def test_chat_puts_messages_through_the_checkpoints_template(llm: LLM) -> None:
    answer = llm.chat([Message(role="user", content="hi")], Sampling(max_tokens=5))
    assert answer.text == llm.generate(["user: hi;assistant:"], Sampling(max_tokens=5))[0].text


def test_a_call_that_must_come_needs_a_tokenizer_that_grammars_can_be_made_for(readable: Path) -> None:
    llm = LLM(str(readable), device="cpu", runner=RunnerConfig(model="", blocks=100), customs=Customs("hermes"))
    asked, tool = [Message(role="user", content="hi")], ToolSpec("add", parameters={"type": "object"})
    with pytest.raises(BadRequest, match="tool_choice: this model's tokenizer cannot be used with grammars"):
        llm.chat(asked, Sampling(max_tokens=9), [tool], calling=Calling("required"))


def test_what_a_model_thinks_is_told_apart_in_a_conversation_and_not_after_a_raw_prompt(readable: Path) -> None:
    customs = Customs(reasoning_parser="deepseek_r1")
    llm = LLM(str(readable), device="cpu", runner=RunnerConfig(model="", blocks=100), customs=customs)
    (raw,) = llm.generate(["user: hi;assistant:"], Sampling(max_tokens=9))
    answer = llm.chat([Message(role="user", content="hi")], Sampling(max_tokens=9))
    # its answers begin inside reasoning, and this one never ends it
    assert (answer.reasoning, answer.text) == (raw.text.strip(), "")
    assert (answer.usage.reasoning_tokens, raw.usage.reasoning_tokens) == (9, 0)


def test_a_prompt_beyond_the_context_is_refused_and_the_next_call_works(llm: LLM) -> None:
    with pytest.raises(BadRequest, match="prompt"):
        llm.generate(["short", "long" * 200], Sampling(max_tokens=5))
    assert llm.generate(["short"], Sampling(max_tokens=5))[0].usage.completion_tokens > 0


def test_what_must_not_come_up_does_not_and_what_is_allowed_alone_does(llm: LLM) -> None:
    (plain,) = llm.generate(["hello"], Sampling(max_tokens=30))
    word = plain.text[4:7]
    (without,) = llm.generate(["hello"], Sampling(max_tokens=30), bad_words=[word])
    assert word in plain.text
    assert word not in without.text
    (few,) = llm.generate(["hello"], Sampling(max_tokens=30, allowed_token_ids=(1, 2)))
    assert set(few.tokens) <= {1, 2}
    with pytest.raises(BadRequest, match="allowed_token_ids: token 9999 is not one of the model's"):
        llm.generate(["hello"], Sampling(allowed_token_ids=(9999,)))


def test_prompts_may_be_token_ids() -> None:
    llm = LLM(str(EMBEDDED_CHECKPOINT), device="cpu")
    ids = llm._writing.tokenizer.encode("Hello there")
    answers = llm.generate(["Hello there", ids], Sampling(max_tokens=3))
    assert answers[0].tokens == answers[1].tokens
    assert all(0 <= token < llm.vocabulary for token in ids)
    short = Sampling(max_tokens=3, truncate_prompt_tokens=1)
    assert llm.generate([ids], short)[0].usage.prompt_tokens == 1


@pytest.mark.parametrize("n", [1, 2])
def test_answers_can_be_heard_while_they_are_written(llm: LLM, n: int) -> None:
    asked, sampling = ["one", "two, three"], Sampling(max_tokens=8, temperature=1, logprobs=1)
    wanted = llm.generate(asked, sampling, n=n)
    places = [(prompt, choice) for prompt in range(2) for choice in range(n)]
    whole = {}
    for told in llm.stream(asked, sampling, n=n):
        before = whole.get((told.prompt, told.choice))
        assert before is None or (before.tokens == told.tokens[: len(before.tokens)] and before.completion is None)
        assert told.text.startswith("" if before is None else before.text)
        assert len(told.logprobs) == len(told.tokens)
        whole[told.prompt, told.choice] = told
    assert [uncounted(whole[place].completion) for place in places] == [uncounted(answer) for answer in wanted]
    assert [(whole[place].text, whole[place].tokens) for place in places] == [(one.text, one.tokens) for one in wanted]


def test_what_is_new_of_answers_joins_up_to_them_and_those_that_are_over_come_once(llm: LLM) -> None:
    asked, sampling = ["one", "two, three"], Sampling(max_tokens=8, logprobs=0)
    wanted = llm.generate(asked, sampling)
    parts = list(llm.stream(asked, sampling, output_kind="delta"))
    for at, answer in enumerate(wanted):
        own = [part for part in parts if part.prompt == at]
        assert len(own) > 4
        assert "".join(part.text for part in own) == answer.text
        assert tuple(token for part in own for token in part.tokens) == answer.tokens
        assert tuple(one for part in own for one in part.logprobs) == answer.logprobs
        assert [uncounted(part.completion) for part in own] == [None] * (len(own) - 1) + [uncounted(answer)]
    final = sorted(llm.stream(asked, sampling, output_kind="final"), key=lambda told: told.prompt)
    assert [(told.text, told.tokens, uncounted(told.completion)) for told in final] == [
        (answer.text, answer.tokens, uncounted(answer)) for answer in wanted
    ]
    with pytest.raises(BadRequest, match="output_kind: 'all' is none of cumulative, delta, final"):
        llm.stream(asked, output_kind="all")  # type: ignore[arg-type]


def test_whoever_stops_to_listen_ends_the_answers_and_others_go_on(llm: LLM) -> None:
    sampling = Sampling(max_tokens=30, ignore_eos=True)
    (wanted,) = llm.generate(["one"], sampling)
    first, second = llm.stream(["two"], sampling), llm.stream(["one"], sampling)
    next(first)
    next(second)
    # another call between two steps of a stream takes nothing from it
    assert llm.generate(["one"], sampling)[0].tokens == wanted.tokens
    first.close()
    *_, last = second
    assert last.completion is not None
    assert last.completion.tokens == wanted.tokens
    assert llm._writing._open == {}
    assert llm._writing._engine._scheduler.statistics().running == 0


def test_tokens_that_are_given_are_said_whatever_they_are(llm: LLM) -> None:
    end = VOCABULARY - 1
    given = (4, end, 9, 4)
    (answer,) = llm.generate(["hello"], Sampling(trace_decode_token_ids=given, logprobs=0, temperature=1, seed=3))
    assert (answer.tokens, answer.finish, answer.text) == (given, "length", LETTERS[4] + LETTERS[9] + LETTERS[4])
    # it is what a prompt is told to be
    ids = [LETTERS.index(letter) for letter in "hello"]
    (judged,) = llm.generate([[*ids, *given]], Sampling(max_tokens=1, prompt_logprobs=0, prompt_logprob_start=4))
    assert [one.tokens for one in judged.prompt_logprobs] == [(token,) for token in given]
    assert [one.logprobs for one in judged.prompt_logprobs] == [
        pytest.approx(one.logprobs, abs=1e-5) for one in answer.logprobs
    ]
    cut = Sampling(trace_decode_token_ids=given, max_tokens=2)
    assert llm.chat([Message(role="user", content="hi")], cut).tokens == given[:2]
    with pytest.raises(BadRequest, match="n: the answer's tokens are given"):
        llm.generate(["hello"], cut, n=2)
    with pytest.raises(BadRequest, match="stop: beside `trace_decode_token_ids`"):
        llm.generate(["hello"], cut, ("a",))


def test_an_answer_without_a_text_has_its_tokens(llm: LLM) -> None:
    (wanted,) = llm.generate(["hello"], Sampling(max_tokens=8))
    (silent,) = llm.generate(["hello"], Sampling(max_tokens=8, detokenize=False))
    assert (silent.tokens, silent.text) == (wanted.tokens, "")
    with pytest.raises(BadRequest, match="stop: beside `detokenize`"):
        llm.generate(["hello"], Sampling(detokenize=False), ("a",))


def test_the_whole_vocabulary_can_be_told(llm: LLM, tiny: Callable[[str], Tiny]) -> None:
    prompt = [LETTERS.index(letter) for letter in "hello"]
    sampling = Sampling(max_tokens=200, logprobs=-1, prompt_logprobs=-1, ignore_eos=True)
    answers = llm.generate([prompt] * 12, sampling)
    assert len(answers[0].tokens) == 200
    rows = torch.log_softmax(tiny("qwen3-tied").logits([*prompt, *answers[0].tokens]).float(), dim=-1)
    told = [*answers[0].prompt_logprobs, *answers[0].logprobs]
    for row, one in zip(rows[:-1], told, strict=True):
        assert sorted(one.tokens[1:]) == list(range(VOCABULARY))
        assert row[list(one.tokens)].tolist() == pytest.approx(one.logprobs, abs=2e-4)
    # a message on the bus would not hold so many numbers
    (much,) = llm.generate([prompt], msgspec.structs.replace(sampling, logprob_token_ids=tuple(range(100)) * 20))
    assert sum(len(one.logprobs) for one in much.logprobs) > MOST_NUMBERS


@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("ends", [True, False])
def test_beam_search_finds_what_transformers_finds(
    llm: LLM, tiny: Callable[[str], Tiny], penalty: float, ends: bool
) -> None:
    reference = tiny("qwen3-tied").reference
    finishes = set()
    for text in ("one", "two, three", "{ }"):
        prompt = [LETTERS.index(letter) for letter in text]
        # a token that likely continuations have
        stop = llm.beam_search([prompt], 3, 10, penalty, ignore_eos=True)[0][0].tokens[5] if ends else VOCABULARY - 1
        ids = torch.tensor([prompt])
        wanted = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            num_beams=3,
            num_return_sequences=3,
            do_sample=False,
            early_stopping="never",
            length_penalty=penalty,
            eos_token_id=[stop, VOCABULARY - 1] if ends else None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        stops = [stop] if ends else []
        (found,) = llm.beam_search([prompt], 3, 10, penalty, stop_token_ids=stops, ignore_eos=not ends)
        sequences = [one[len(prompt) :].tolist() for one in wanted.sequences]
        assert [[*one.tokens] for one in found] == [
            one[: one.index(stop) + 1] if stop in one else one for one in sequences
        ]
        finishes |= {one.finish for one in found}
        assert [one.score for one in found] == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)
    assert ("stop" in finishes) == ends


def test_a_model_that_writes_embeds_and_scores_too() -> None:
    llm, texts = LLM(str(EMBEDDED_CHECKPOINT), device="cpu"), ["Hello", "What is 2+2?"]
    vectors = llm.embed(texts)
    assert [float(np.linalg.norm(vector)) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)
    near, same = llm.score([(texts[0], texts[1]), (texts[0], texts[0])])
    assert near == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert same == pytest.approx(1, abs=1e-5)


def test_half_a_character_is_refused_wherever_texts_come_in() -> None:
    llm, torn = LLM(str(EMBEDDED_CHECKPOINT), device="cpu"), "a\ud83d b"
    refused: dict[str, Callable[[], object]] = {
        "prompt": lambda: llm.generate([torn]),
        "bad_words": lambda: llm.generate(["a"], bad_words=[torn]),
        "messages": lambda: llm.chat([Message("user", torn)]),
        r"texts\[1\]": lambda: llm.embed(["a", torn]),
    }
    for named, ask in refused.items():
        with pytest.raises(BadRequest, match=f"{named}: holds half of a surrogate pair"):
            ask()
    assert llm.generate(["a \U0001f600"], Sampling(max_tokens=1))


@pytest.mark.parametrize("ends", [True, False])
def test_beam_search_among_some_tokens_finds_what_transformers_finds(
    llm: LLM, tiny: Callable[[str], Tiny], ends: bool
) -> None:
    prompt, stop = [LETTERS.index(letter) for letter in "two, three"], 40
    allowed = [3, 17, 25, 31, 44, 60, 71, *([stop] if ends else [])]
    ids = torch.tensor([prompt])
    wanted = tiny("qwen3-tied").reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        num_beams=3,
        num_return_sequences=3,
        do_sample=False,
        early_stopping="never",
        eos_token_id=stop,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda batch, said: allowed,
        renormalize_logits=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    (found,) = llm.beam_search([prompt], 3, 6, stop_token_ids=[stop], ignore_eos=True, allowed_token_ids=allowed)
    sequences = [one[len(prompt) :].tolist() for one in wanted.sequences]
    assert [[*one.tokens] for one in found] == [one[: one.index(stop) + 1] if stop in one else one for one in sequences]
    assert {token for one in found for token in one.tokens} <= {*allowed}
    assert [one.score for one in found] == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)


def test_beam_search_searches_for_every_prompt_apart(llm: LLM) -> None:
    prompts = ["one", "two, three"]
    assert llm.beam_search(prompts, 2, 6) == [llm.beam_search([prompt], 2, 6)[0] for prompt in prompts]
    with pytest.raises(BadRequest, match="width"):
        llm.beam_search(prompts, 0)
    with pytest.raises(BadRequest, match="prompt"):
        llm.beam_search([[]])


def test_an_adapter_is_asked_for_by_name_beside_those_who_want_none(readable: Path, tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(readable, dtype=torch.float32)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config = peft.LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, target_modules="all-linear")
        adapted = peft.get_peft_model(base, config)
        adapted.save_pretrained(str(adapter))
    llm = LLM(str(readable), device="cpu", runner=RunnerConfig(model="", blocks=100, adapters={"x": str(adapter)}))
    greedy = Sampling(max_tokens=16, ignore_eos=True)
    prompt = [5, 9, 2, 7]
    (changed,) = llm.generate([prompt], replace(greedy, adapter="x"))
    ids = torch.tensor([prompt])
    merged = adapted.merge_and_unload()
    expected = merged.generate(
        ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(ids)
    )
    assert list(changed.tokens) == expected[0, len(prompt) :].tolist()
    (plain,) = llm.generate([prompt], greedy)
    assert plain.tokens != changed.tokens
    with pytest.raises(BadRequest, match="no adapter 'y': there are x") as refused:
        llm.generate([prompt], replace(greedy, adapter="y"))
    assert refused.value.field == "adapter"
