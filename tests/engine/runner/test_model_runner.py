"""Plans in, results out: what a worker keeps between steps, and what it does with a plan or a number that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from engine.errors import NotEnoughMemory, PlatformUnavailable
from engine.kernels.reference import ReferenceOps
from engine.models.registry import load_model
from engine.platforms import Platform, detect
from engine.runner.executor import InlineExecutor
from engine.runner.kv_cache import KvCache, block_bytes, blocks_that_fit
from engine.runner.loading import RunnerConfig, load_runner
from engine.runner.model_runner import ModelRunner
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan, StepResult
from tests.engine.conftest import SHAPE, VOCABULARY, Tiny

CPU = Platform(kind="cpu", device=torch.device("cpu"), name="test", ops="cpu")
PROMPT = tuple(range(20, 33))
GREEDY = Sampling()


@dataclass
class Plans:
    """Numbers plans as a scheduler would."""

    n: int = 0

    def step(
        self, *slices: Slice, arrivals: tuple[Arrival, ...] = (), gone: tuple[str, ...] = (), full: bool = False
    ) -> StepPlan:
        self.n += 1
        return StepPlan(
            n=self.n, epoch="e", time=0, full=full or self.n == 1, arrivals=arrivals, slices=slices, gone=gone
        )


def arrive(
    request: str,
    tokens: tuple[int, ...] = PROMPT,
    blocks: tuple[int, ...] = (0, 1, 2, 3, 4),
    *,
    computed: int = 0,
    prompt: int | None = None,
    sampling: Sampling = GREEDY,
) -> Arrival:
    return Arrival(request, tokens, len(tokens) if prompt is None else prompt, sampling, blocks, computed)


@pytest.fixture
def runner(tiny: Callable[[str], Tiny]) -> ModelRunner:
    model = load_model(tiny("qwen3-tied").folder, CPU)
    return ModelRunner(model, KvCache(model, 64, 4), "worker-1")


def generate(runner: ModelRunner, arrival: Arrival, count: int) -> list[int]:
    """Run one request alone, its prompt in one chunk."""
    plans = Plans()
    done, size = arrival.computed, len(arrival.tokens)
    result = runner.execute(plans.step(Slice(arrival.request, done, size - done), arrivals=(arrival,)))
    tokens = [result.tokens[0][1]]
    for position in range(size, size + count - 1):
        result = runner.execute(plans.step(Slice(arrival.request, position, 1)))
        tokens.append(result.tokens[0][1])
    return tokens


def test_greedy_tokens_equal_those_of_transformers(runner: ModelRunner, tiny: Callable[[str], Tiny]) -> None:
    expected = tiny("qwen3-tied").greedy(list(PROMPT), 48)
    assert generate(runner, arrive("a", blocks=tuple(range(20, 40))), 48) == expected
    assert len(set(expected)) > 5, "a model that repeats itself proves little"


def test_a_result_names_its_plan_and_worker_and_lists_tokens_in_batch_order(runner: ModelRunner) -> None:
    arrivals = (arrive("long", blocks=(0, 1, 2, 3)), arrive("short", (5,), (4,)), arrive("mute", blocks=(5, 6, 7, 8)))
    plan = Plans().step(
        Slice("long", 0, 13), Slice("mute", 0, 5, sample=False), Slice("short", 0, 1), arrivals=arrivals
    )
    result = runner.execute(plan)
    assert (result.n, result.epoch, result.worker, result.errors) == (1, "e", "worker-1", ())
    assert [request for request, _ in result.tokens] == ["long", "short"]
    assert result.compute_us > 0


def test_plans_may_run_one_ahead_of_what_the_scheduler_has_seen(runner: ModelRunner) -> None:
    expected = generate(runner, arrive("a"), 6)
    plans, executor = Plans(), InlineExecutor(runner)
    executor.launch(plans.step(Slice("a", 0, 13), arrivals=(arrive("a"),)))
    results: list[StepResult] = []
    for position in range(13, 18):
        executor.launch(plans.step(Slice("a", position, 1)))
        results.append(executor.collect())
    results.append(executor.collect())
    assert [result.n for result in results] == [1, 2, 3, 4, 5, 6]
    assert [result.tokens[0][1] for result in results] == expected


def test_blocks_may_come_one_by_one(runner: ModelRunner) -> None:
    expected = generate(runner, arrive("a"), 2)
    plans = Plans()
    runner.execute(plans.step(Slice("a", 0, 4, (9,), False), arrivals=(arrive("a", blocks=()),)))
    runner.execute(plans.step(Slice("a", 4, 7, (3, 30), False)))
    first = runner.execute(plans.step(Slice("a", 11, 2, (12,))))
    second = runner.execute(plans.step(Slice("a", 13, 1)))
    assert [first.tokens[0][1], second.tokens[0][1]] == expected


def test_a_cached_prefix_gives_the_same_tokens_as_a_cold_start(runner: ModelRunner) -> None:
    cold = generate(runner, arrive("a"), 5)
    assert generate(runner, arrive("b", blocks=(0, 1, 2, 10, 11), computed=12), 5) == cold


def test_a_preempted_request_goes_on_with_the_same_tokens(runner: ModelRunner) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=5)
    whole = generate(runner, arrive("a", sampling=sampling), 7)
    again = arrive("a", (*PROMPT, *whole[:3]), tuple(range(40, 46)), prompt=len(PROMPT), sampling=sampling)
    assert generate(runner, again, 4) == whole[3:]


def test_the_same_seed_gives_the_same_tokens_whoever_is_beside_it(runner: ModelRunner) -> None:
    sampling = Sampling(temperature=1.2, top_k=40, seed=77)
    alone = generate(runner, arrive("a", sampling=sampling), 6)
    others = (
        arrive("b", (9, 8, 7), (20, 21, 22), sampling=Sampling(temperature=0.7, seed=1)),
        arrive("c", PROMPT, (30, 31, 32, 33, 34)),
    )
    plans = Plans()
    first = runner.execute(
        plans.step(
            Slice("b", 0, 3), Slice("a", 0, 13), Slice("c", 0, 13), arrivals=(*others, arrive("a", sampling=sampling))
        )
    )
    crowd = [dict(first.tokens)["a"]]
    for step in range(5):
        result = runner.execute(plans.step(Slice("c", 13 + step, 1), Slice("b", 3 + step, 1), Slice("a", 13 + step, 1)))
        crowd.append(dict(result.tokens)["a"])
    assert crowd == alone


def test_a_full_plan_forgets_whoever_it_does_not_list(runner: ModelRunner) -> None:
    plans = Plans()
    runner.execute(plans.step(Slice("a", 0, 13), arrivals=(arrive("a"),)))
    result = runner.execute(plans.step(Slice("a", 13, 1), full=True))
    assert result.errors == (("a", "the worker does not know this request"),)


def test_those_gone_are_forgotten_before_the_same_name_arrives_afresh(runner: ModelRunner) -> None:
    plans = Plans()
    first = runner.execute(plans.step(Slice("a", 0, 13), arrivals=(arrive("a"),)))
    again = runner.execute(plans.step(Slice("a", 0, 13), arrivals=(arrive("a", blocks=(7, 8, 9, 10)),), gone=("a",)))
    assert again.tokens == first.tokens


@pytest.mark.parametrize(
    ("arrival", "piece", "message"),
    [
        (arrive("bad"), Slice("bad", 1, 12), "wants tokens 1 to 13, but 0 are computed"),
        (arrive("bad"), Slice("bad", 0, 14), "wants tokens 0 to 14"),
        (arrive("bad"), Slice("bad", 0, 0), "wants tokens 0 to 0"),
        (arrive("bad", blocks=(1,)), Slice("bad", 0, 5), "1 blocks of 4"),
        (arrive("bad", blocks=(1,)), Slice("bad", 0, 5, (64,)), "1 blocks of 4"),
        (arrive("bad", blocks=(1, -1)), Slice("bad", 0, 5), "not among the worker's 64"),
        (arrive("bad", blocks=(1,), computed=5), Slice("bad", 5, 1), "5 tokens cannot be cached in 1 blocks"),
    ],
)
def test_a_plan_that_does_not_fit_fails_its_request_alone(
    runner: ModelRunner, arrival: Arrival, piece: Slice, message: str
) -> None:
    good = arrive("good", blocks=(20, 21, 22, 23))
    result = runner.execute(Plans().step(piece, Slice("good", 0, 13), arrivals=(arrival, good)))
    assert [request for request, _ in result.tokens] == ["good"]
    assert [request for request, _ in result.errors] == ["bad"]
    assert message in result.errors[0][1]


def test_a_plan_without_slices_has_an_empty_result(runner: ModelRunner) -> None:
    result = runner.execute(Plans().step(arrivals=(arrive("a"),)))
    assert (result.tokens, result.errors) == ((), ())


def poison(runner: ModelRunner, token: int) -> None:
    """Make the embedding of one token infinite, in a copy: the weight may be the mapped file."""
    embedding = runner._model._embedding
    embedding.weight = embedding.weight.clone()
    embedding.weight[token] = torch.inf


@pytest.mark.parametrize("sampled", [True, False])
def test_a_request_whose_numbers_are_not_finite_fails_alone_and_stays_failed(
    tiny: Callable[[str], Tiny], sampled: bool
) -> None:
    model = load_model(tiny("llama-untied").folder, CPU)
    runner = ModelRunner(model, KvCache(model, 64, 4), "worker-1")
    expected = generate(runner, arrive("good"), 2)
    poison(runner, 100)
    plans = Plans()
    arrivals = (arrive("bad", (4, 100, 6), (10,)), arrive("good", blocks=(11, 12, 13, 14)))
    first = runner.execute(plans.step(Slice("bad", 0, 3, (), sampled), Slice("good", 0, 13), arrivals=arrivals))
    assert [request for request, _ in first.errors] == ["bad"]
    assert "not finite" in first.errors[0][1]
    second = runner.execute(plans.step(Slice("bad", 3, 1), Slice("good", 13, 1)))
    assert [request for request, _ in second.errors] == ["bad"]
    assert [first.tokens[0][1], second.tokens[0][1]] == expected


def test_blocks_of_a_failed_request_can_be_used_again_but_not_as_a_cached_prefix(
    tiny: Callable[[str], Tiny],
) -> None:
    model = load_model(tiny("llama-untied").folder, CPU)
    runner = ModelRunner(model, KvCache(model, 64, 4), "worker-1")
    expected = generate(runner, arrive("cold"), 1)
    poison(runner, 100)
    plans = Plans()
    runner.execute(plans.step(Slice("bad", 0, 8), arrivals=(arrive("bad", (100,) * 8, (10, 11)),)))
    warm = arrive("warm", blocks=(10, 11, 12, 13), computed=8)
    refused = runner.execute(plans.step(Slice("warm", 8, 5), arrivals=(warm,), gone=("bad",)))
    assert refused.errors == (("warm", "its cached prefix belongs to a request that failed"),)
    again = arrive("again", blocks=(13, 12, 11, 10))
    reused = runner.execute(plans.step(Slice("again", 0, 13), arrivals=(again,), gone=("warm",)))
    assert [token for _, token in reused.tokens] == expected


def test_what_a_request_computed_of_a_block_before_it_failed_there_can_be_gone_on_from(
    tiny: Callable[[str], Tiny],
) -> None:
    model = load_model(tiny("llama-untied").folder, CPU)
    runner = ModelRunner(model, KvCache(model, 64, 4), "worker-1")
    expected = generate(runner, arrive("cold", (4, 5, 6, 7, 8, 9, 1, 2, 3)), 1)
    poison(runner, 100)
    plans = Plans()
    arrival = arrive("bad", (4, 5, 6, 7, 8, 9, 100), (10, 11))
    runner.execute(plans.step(Slice("bad", 0, 6, (), sample=False), arrivals=(arrival,)))
    failed = runner.execute(plans.step(Slice("bad", 6, 1)))
    assert [request for request, _ in failed.errors] == ["bad"]
    over = arrive("over", (4, 5, 6, 7, 8, 9, 1, 2, 3), blocks=(10, 11, 12), computed=7)
    refused = runner.execute(plans.step(Slice("over", 7, 2), arrivals=(over,), gone=("bad",)))
    assert refused.errors == (("over", "its cached prefix belongs to a request that failed"),)
    warm = arrive("warm", (4, 5, 6, 7, 8, 9, 1, 2, 3), blocks=(10, 11, 12), computed=6)
    found = runner.execute(plans.step(Slice("warm", 6, 3), arrivals=(warm,), gone=("over",)))
    assert [token for _, token in found.tokens] == expected
    next_one = arrive("next", (4, 5, 6, 7, 8, 9, 1, 2, 3), blocks=(10, 11, 13), computed=8)
    again = runner.execute(plans.step(Slice("next", 8, 1), arrivals=(next_one,), gone=("warm",)))
    assert [token for _, token in again.tokens] == expected


def test_many_requests_outgrow_the_first_arrays(tiny: Callable[[str], Tiny]) -> None:
    model = load_model(tiny("qwen3-tied").folder, CPU)
    runner = ModelRunner(model, KvCache(model, 100, 4), "worker-1")
    arrivals = tuple(arrive(f"r{i}", (i % VOCABULARY, 1, 2), (i,)) for i in range(40))
    together = runner.execute(Plans().step(*(Slice(f"r{i}", 0, 3) for i in range(40)), arrivals=arrivals))
    for i in (0, 13, 39):
        assert generate(runner, arrive("x", (i, 1, 2), (99,)), 1) == [together.tokens[i][1]]


def test_a_runner_loads_from_its_settings_with_the_blocks_that_memory_allows(tiny: Callable[[str], Tiny]) -> None:
    folder = str(tiny("qwen3-tied").folder)
    one = block_bytes(load_model(tiny("qwen3-tied").folder, CPU).config, 16, torch.float32)
    assert one == 2 * 16 * 2 * 2 * SHAPE["head_dim"] * 4
    assert load_runner(RunnerConfig(model=folder, blocks=5), CPU, "w").blocks == 5
    assert load_runner(RunnerConfig(model=folder, most_contexts=3), CPU, "w").blocks == 3 * 256 // 16
    share = 1.5 * one / CPU.free_memory()
    assert load_runner(RunnerConfig(model=folder, memory_share=share), CPU, "w").blocks in {1, 2}


def test_a_cache_larger_than_memory_is_refused_with_what_it_takes(tiny: Callable[[str], Tiny]) -> None:
    folder = str(tiny("qwen3-tied").folder)
    one = 2 * 16 * 2 * 2 * SHAPE["head_dim"] * 4
    with pytest.raises(NotEnoughMemory, match=f"KV cache: .*{one << 40:,} bytes.* are needed, .*: lower kv_memory_mb"):
        load_runner(RunnerConfig(model=folder, blocks=1 << 40), CPU, "w")


def test_the_cache_begins_as_zeros_on_a_line_of_the_processor(tiny: Callable[[str], Tiny]) -> None:
    model = load_model(tiny("gemma2").folder, CPU, "bfloat16")
    (first, *_) = KvCache(model, 3, 5).layers
    assert first.shape == (3, 5, 2, 2, SHAPE["head_dim"])
    assert first.dtype == torch.bfloat16
    assert first.data_ptr() % 64 == 0
    assert not first.any()


def test_a_runner_says_in_one_line_what_it_holds(tiny: Callable[[str], Tiny]) -> None:
    folder = str(tiny("mistral-windowed").folder)
    line = load_runner(RunnerConfig(model=folder, blocks=3), CPU, "w").describe()
    assert line.startswith("MistralForCausalLM, 0.0 million parameters in float32, context 48 tokens, KV memory ")
    assert line.endswith("for 48 tokens in 3 blocks")
    small = load_runner(RunnerConfig(model=folder, blocks=3, quantization="int8"), CPU, "w").describe()
    assert small == line.replace("in float32,", "in float32, products in 8 bits,")
    assert "context 40 tokens" in load_runner(RunnerConfig(model=folder, context_length=40), CPU, "w").describe()


def test_a_runner_that_must_not_depend_on_the_batch_takes_ops_that_do_not(tiny: Callable[[str], Tiny]) -> None:
    config = RunnerConfig(model=str(tiny("qwen3-tied").folder), blocks=3, batch_invariant=True)
    assert isinstance(load_runner(config, replace(CPU, steady_ops="reference"), "w").trunk.ops, ReferenceOps)
    with pytest.raises(PlatformUnavailable, match="not batch-invariant"):
        load_runner(config, CPU, "w")


def test_memory_that_holds_no_block_is_refused() -> None:
    with pytest.raises(NotEnoughMemory, match="memory_share"):
        blocks_that_fit(CPU, 2**60)
    one = CPU.free_memory() // 5
    assert blocks_that_fit(CPU, one, 0.9) > 1
    with pytest.raises(NotEnoughMemory, match="9 KV blocks, one for each group of layers: "):
        blocks_that_fit(CPU, one, 0.9, 9)


def test_memory_is_for_blocks_of_every_group_of_layers(tiny: Callable[[str], Tiny]) -> None:
    folder = str(tiny("gemma3").folder)
    config = load_model(tiny("gemma3").folder, CPU).config
    # one of three layers sees all
    assert (config.groups.full, config.groups.windowed, config.groups.size) == (1, 2, 1)
    assert block_bytes(config, 16, torch.float32) == 16 * 2 * 2 * SHAPE["head_dim"] * 4
    assert load_runner(RunnerConfig(model=folder, most_contexts=3), CPU, "w").blocks == 3 * 3 * 256 // 16
    runner = load_runner(RunnerConfig(model=folder, blocks=30), CPU, "w")
    line = runner.describe()
    assert "context 160 tokens, " in line
    assert line.endswith("for 160 tokens in 30 blocks (1 for 16 tokens, and 2 while a window sees them)")
    assert runner.limits.context_length == 160


def test_blocks_that_are_no_whole_rows_fail_their_request_alone(tiny: Callable[[str], Tiny]) -> None:
    model, plans = load_model(tiny("gemma3").folder, CPU), Plans()
    runner = ModelRunner(model, KvCache(model, 64, 4), "worker-1")
    arrivals = (arrive("bad", (4, 5, 6), (10, 11)), arrive("good", (4, 5, 6), (20, 21, 22)))
    result = runner.execute(plans.step(Slice("bad", 0, 3), Slice("good", 0, 3), arrivals=arrivals))
    assert dict(result.errors) == {"bad": "2 KV blocks are no whole rows for layers in 3 groups"}
    assert dict(result.tokens)["good"] == tiny("gemma3").greedy([4, 5, 6], 1)[0]


def test_a_platform_says_in_one_line_what_was_chosen() -> None:
    line = detect("cpu").describe()
    assert "cpu" in line
    assert "GiB free" in line
    assert "\n" not in line


@pytest.mark.parametrize("device", ["xpu:7", "toaster"])
def test_a_device_that_is_not_there_is_refused_by_name(device: str) -> None:
    with pytest.raises(PlatformUnavailable, match=device):
        detect(device)
