"""A request's numbers, to the last bit: the same alone and in company, in any chunks, cold and warm, written or read.

Log-probabilities of the whole vocabulary stand for the logits: two rows with the same ones are the same row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.platforms import Dtype, detect
from engine.runner.executor import InlineExecutor
from engine.runner.kv_cache import KvCache
from engine.runner.model_runner import ModelRunner
from schemas.generation import Accepted, Sampling, Submit, TokenLogprobs
from tests.engine.conftest import KINDS, VOCABULARY, Tiny, grouped
from tests.engine.test_llm import Ticks

BLOCK = 16
CONTEXT = 256


@dataclass
class Limits:
    """How a scheduler cuts its work into steps."""

    chunk: int = 256
    step: int = 4096
    running: int = 8
    rows: int = 256
    frees: bool = True
    """Whether blocks that a window has left behind are given up."""

    def engine(self, model: Decoder) -> Engine:
        layers = grouped(model)
        blocks = self.rows * layers["groups"]
        config = SchedulerConfig(
            blocks=blocks,
            context_length=CONTEXT,
            block_size=BLOCK,
            prefill_chunk=self.chunk,
            max_step_tokens=self.step,
            max_running=self.running,
            **(layers if self.frees else layers | {"window": None}),
        )
        runner = ModelRunner(model, KvCache(model, blocks, BLOCK), "worker")
        return Engine(Scheduler(config, "epoch"), InlineExecutor(runner), Ticks())


@dataclass
class Answer:
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt: tuple[TokenLogprobs, ...] = ()
    cached: int = 0


def prompt(length: int, salt: int) -> tuple[int, ...]:
    return tuple((at * at * 7 + at * (salt + 3) + salt) % VOCABULARY for at in range(length))


def ask(name: str, tokens: tuple[int, ...], more: int, *, judged: bool = False, temperature: float = 1.0) -> Submit:
    sampling = Sampling(
        temperature=temperature,
        seed=5,
        max_tokens=more,
        logprobs=VOCABULARY,
        prompt_logprobs=VOCABULARY if judged else None,
    )
    return Submit(request=name, prompt=tokens, sampling=sampling, frontend="f", tenant="t")


def finish(engine: Engine, *submits: Submit) -> dict[str, Answer]:
    """Offer one request a step, so that they are at different places when they meet."""
    answers: dict[str, Answer] = {}
    waiting, left = list(submits), {submit.request for submit in submits}
    while left:
        if waiting:
            assert isinstance(engine.add(waiting.pop(0)), Accepted)
        for event in engine.step():
            answer = answers.setdefault(event.request, Answer())
            answer.tokens += event.tokens
            answer.logprobs += event.logprobs
            answer.prompt += event.prompt_logprobs
            answer.cached = event.cached
            if event.finish is not None:
                assert event.finish == "length"
                left.remove(event.request)
    return answers


@pytest.fixture(scope="session")
def model(tiny: Callable[[str], Tiny]) -> Callable[[str, Dtype], Decoder]:
    def load(kind: str, dtype: Dtype) -> Decoder:
        return load_model(tiny(kind).folder, detect("cpu"), dtype)

    return load


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_token_by_token_reads_the_same_as_a_prompt(
    model: Callable[[str, Dtype], Decoder], kind: str, dtype: Dtype
) -> None:
    loaded = model(kind, dtype)
    start = prompt(23, 1)
    written = finish(Limits().engine(loaded), ask("r", start, 90))["r"]
    read = finish(Limits().engine(loaded), ask("r", start + written.tokens, 1, judged=True))["r"]
    assert [one.logprobs for one in read.prompt[len(start) - 1 :]] == [one.logprobs for one in written.logprobs]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_prefix_cache_gives_the_bits_of_a_cold_one(
    model: Callable[[str, Dtype], Decoder], kind: str, dtype: Dtype
) -> None:
    loaded = model(kind, dtype)
    # of other chunks than those it is read in
    warm = Limits(chunk=7).engine(loaded)
    finish(warm, ask("first", prompt(61, 2), 20))
    for length in (20, 33, 61):
        found = finish(warm, ask(f"again-{length}", prompt(length, 2), 40))[f"again-{length}"]
        cold = finish(Limits(frees=False).engine(loaded), ask("r", prompt(length, 2), 40))["r"]
        assert found.cached > 0
        assert cold.cached == 0
        assert (found.tokens, found.logprobs) == (cold.tokens, cold.logprobs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3-tied", "llama-dynamic", "gemma3"])
def test_a_conversation_goes_on_within_a_block_with_the_bits_of_a_cold_one(
    model: Callable[[str, Dtype], Decoder], kind: str, dtype: Dtype
) -> None:
    """Two go on from each of its ends at once: one in the block where it stopped, the other computes that again."""
    loaded = model(kind, dtype)
    # of several groups of layers, too, where nothing is given up
    warm, history = Limits(chunk=7, frees=False).engine(loaded), prompt(21, 4)
    for turn, more in enumerate((4, 9, 1, 18)):
        asked = [ask(f"{turn}-{at}", history + prompt(at, 9), more) for at in (0, 3)]
        found = finish(warm, *asked)
        for one in asked:
            cold = finish(Limits().engine(loaded), one)[one.request]
            answer = found[one.request]
            assert (answer.tokens, answer.logprobs) == (cold.tokens, cold.logprobs)
        said = found[f"{turn}-3"].tokens
        assert not turn or max(answer.cached for answer in found.values()) >= len(history) - 1
        history += prompt(3, 9) + said


@pytest.mark.parametrize("start", [3, 25, 28])
def test_a_prompt_is_judged_from_within_a_found_block_on_with_the_bits_of_a_cold_one(
    model: Callable[[str, Dtype], Decoder], start: int
) -> None:
    loaded, tokens = model("qwen3-tied", "float32"), prompt(30, 4)
    sampling = Sampling(max_tokens=3, logprobs=VOCABULARY, prompt_logprobs=VOCABULARY, prompt_logprob_start=start)
    asked = replace(ask("r", tokens, 3), sampling=sampling)
    warm = Limits().engine(loaded)
    finish(warm, ask("first", tokens[: start + 1], 1))
    found, cold = finish(warm, asked)["r"], finish(Limits().engine(loaded), asked)["r"]
    assert (found.cached, cold.cached) == (start, 0)
    assert len(found.prompt) == len(tokens) - start - 1
    assert (found.tokens, found.logprobs, found.prompt) == (cold.tokens, cold.logprobs, cold.prompt)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3-tied", "qwen2-windowed", "mistral-windowed", "gemma2", "gemma3"])
def test_neighbours_chunks_preemptions_and_blocks_given_up_change_no_bit(
    model: Callable[[str, Dtype], Decoder], kind: str, dtype: Dtype
) -> None:
    loaded = model(kind, dtype)
    asked = [ask(f"r{index}", prompt(length, index), 30) for index, length in enumerate((5, 70, 1, 31, 64, 18, 40))]
    alone = {one.request: finish(Limits(frees=False).engine(loaded), one)[one.request] for one in asked}

    @settings(max_examples=12, deadline=None)
    @given(
        st.builds(Limits, st.integers(1, 80), st.integers(1, 120), st.integers(1, 7), st.integers(32, 120)),
        st.permutations(asked),
    )
    def in_company(limits: Limits, order: list[Submit]) -> None:
        found = finish(limits.engine(loaded), *order)
        for name, answer in found.items():
            assert (answer.tokens, answer.logprobs) == (alone[name].tokens, alone[name].logprobs)

    in_company()
