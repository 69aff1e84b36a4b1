"""A step through buffers that never move gives what it gives launch by launch; only the capture itself is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.runner import graphs, model_runner
from engine.runner.graphs import Capture, CapturedLayers, EagerLayers, Replay, layers_for
from engine.runner.kv_cache import KvCache
from engine.runner.landing import Pinned
from engine.runner.loading import RunnerConfig, load_runner
from engine.runner.model_runner import ModelRunner
from engine.runner.warming import warm_up
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan
from tests.engine.conftest import Tiny, platform


class Recompute:
    """Does again what a graph would replay, and counts."""

    def __init__(self, each: int = 0) -> None:
        self.captured = 0
        self.replayed = 0
        self.each = each
        """Bytes that a graph takes, of a hundred."""
        self.others = 0
        """Bytes that kernels and libraries take."""

    def free(self) -> int:
        return 100 - self.others - self.captured * self.each

    def __call__(self, compute: Callable[[], Tensor], /) -> Replay:
        compute()
        self.captured += 1

        def replay() -> Tensor:
            self.replayed += 1
            return compute()

        return replay


def step(n: int, arrivals: list[Arrival], slices: list[Slice]) -> StepPlan:
    return StepPlan(n=n, epoch="e", time=0, full=n == 1, arrivals=tuple(arrivals), slices=tuple(slices), gone=())


def decoded(model: Decoder, capture: Capture | None = None) -> list[tuple[tuple[str, int], ...]]:
    """Read three prompts, then decode for all of them and for one; give the tokens of each step."""
    groups, lengths = model.config.groups.count, {"a": 3, "b": 10, "c": 2}
    cache = KvCache(model, 16 * groups, 8)
    runner = ModelRunner(model, cache, "w")
    if capture is not None:
        runner._layers = CapturedLayers(EagerLayers(model, cache.layers), model, 8, capture)
    free = iter(range(cache.blocks))
    arrivals = [
        Arrival(name, tuple(range(3, 3 + count)), count, Sampling(), tuple(next(free) for _ in range(2 * groups)), 0)
        for name, count in lengths.items()
    ]
    results = [runner.execute(step(1, arrivals, [Slice(name, 0, count) for name, count in lengths.items()]))]
    for n, names in enumerate(("abc", "c"), start=2):
        at = {name: lengths[name] + sum(name in dict(done.tokens) for done in results) - 1 for name in names}
        results.append(runner.execute(step(n, [], [Slice(name, at[name], 1) for name in names])))
    assert not any(result.errors for result in results)
    return [result.tokens for result in results]


def test_decoding_through_buffers_gives_the_same_tokens(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute()
    assert decoded(model, recompute) == decoded(model)
    assert (recompute.captured, recompute.replayed) == (2, 2)  # of four requests, of one


def test_where_a_step_cannot_be_captured_it_is_launched_and_nothing_is_tried_again(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, tried = load_model(tiny("qwen3-windowed").folder, platform("triton")), []

    class Refuse(Recompute):
        def __call__(self, compute: Callable[[], Tensor], /) -> Replay:
            tried.append(compute)
            raise torch.OutOfMemoryError("no room for a graph")

    assert decoded(model, Refuse()) == decoded(model)
    assert len(tried) == 1


def captured(
    model: Decoder, capture: Recompute, now: Callable[[], float] = lambda: 0.0, rows: int = 16
) -> tuple[CapturedLayers, KvCache]:
    cache = KvCache(model, rows * model.config.groups.count, 8)
    return CapturedLayers(EagerLayers(model, cache.layers), model, 8, capture, now), cache


def test_graphs_are_captured_before_the_first_request_and_nobody_stores_anything(
    tiny: Callable[[str], Tiny], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute(each=1)
    layers, cache = captured(model, recompute)
    with caplog.at_level("INFO"), torch.inference_mode():
        layers.prepare(3, 200)
    assert recompute.captured == 3  # of four requests, of two, of one
    assert "captured 3 of 3 graphs of decoding steps in 0.0 s, in 0 MiB" in caplog.text
    assert all(not layer.any() for layer in cache.layers)
    assert decoded(model, recompute) == decoded(model)


@pytest.mark.parametrize(("each", "spent", "made"), [(10, 0.0, 3), (0, 11.0, 3), (0, 0.0, 5)])
def test_graphs_take_no_more_than_their_share_of_memory_and_time(
    tiny: Callable[[str], Tiny], each: int, spent: float, made: int
) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute(each)
    layers, _ = captured(model, recompute, lambda: recompute.captured * spent)
    with torch.inference_mode():
        layers.prepare(16, 200)
    assert recompute.captured == made  # a quarter of memory, 30 seconds, or as many as there are


def test_what_kernels_took_before_is_not_counted_as_graphs(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute(each=10)
    layers, _ = captured(model, recompute)
    recompute.others = 20
    with torch.inference_mode():
        layers.prepare(16, 200)
    assert recompute.captured == 3  # of 80 bytes a quarter, and what began within it


def test_where_there_is_no_room_for_a_graph_a_larger_one_is_replayed(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute(each=30)
    assert decoded(model, recompute) == decoded(model)
    assert (recompute.captured, recompute.replayed) == (1, 2)  # of four requests, and one of those alone


def test_an_accelerator_is_warmed_up_and_nothing_of_it_stays(tiny: Callable[[str], Tiny]) -> None:
    pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    model, recompute = load_model(tiny("qwen3-windowed").folder, platform("triton")), Recompute()
    layers, cache = captured(model, recompute, rows=5)
    counts = list[int]()

    class Counted:
        def prepare(self, requests: int, longest: int) -> None:
            layers.prepare(requests, longest)

        def __call__(self, tokens: Tensor, *others: Any) -> Tensor:
            counts.append(len(tokens))
            hidden = layers(tokens, *others)
            assert hidden.isfinite().all()
            return hidden

    warm_up(model, Counted(), cache, 2)
    assert counts == [1, 16, 32]  # what there are blocks for
    assert recompute.captured == 2
    assert all(not layer.any() for layer in cache.layers)


def test_a_runner_is_warmed_up_as_it_is_loaded_for_as_many_requests_as_it_can_hold(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[int]()
    monkeypatch.setattr(model_runner, "landing_for", lambda _: Pinned)  # as on an accelerator
    monkeypatch.setattr(model_runner, "warm_up", lambda *given: asked.append(given[-1]))
    config = RunnerConfig(model=str(tiny("mistral").folder), blocks=5)
    for most in (3, 300):
        load_runner(msgspec.structs.replace(config, most_contexts=most), platform("gathered"), "w")
    assert asked == [3, 5]


def test_a_processor_captures_nothing(tiny: Callable[[str], Tiny]) -> None:
    model = load_model(tiny("mistral").folder, platform("gathered"))
    cache = KvCache(model, 8, 4)
    assert isinstance(layers_for(model, cache.layers, 4), EagerLayers)
    assert model.device == torch.device("cpu")
    assert not load_model(tiny("llama-dynamic").folder, platform("gathered")).steady


def test_who_wants_no_graphs_gets_none(tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny("mistral").folder, platform("gathered"))
    cache = KvCache(model, 8, 4)
    # as on an accelerator: what is captured is not looked at before it is needed
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(model.ops, "capturable", True)
    monkeypatch.setattr(graphs, "CudaCapture", Recompute)
    monkeypatch.setattr(graphs.torch, "full", lambda shape, *_, **__: torch.empty(shape))
    assert isinstance(layers_for(model, cache.layers, 4), CapturedLayers)
    assert isinstance(layers_for(model, cache.layers, 4, captured=False), EagerLayers)
