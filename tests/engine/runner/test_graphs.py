"""A step through buffers that never move gives what it gives launch by launch; only the capture itself is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.runner import graphs
from engine.runner.graphs import Capture, CapturedLayers, EagerLayers, Replay, layers_for
from engine.runner.kv_cache import KvCache
from engine.runner.model_runner import ModelRunner
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan
from tests.engine.conftest import Tiny, platform


class Recompute:
    """Does again what a graph would replay, and counts."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, compute: Callable[[], Tensor]) -> Replay:
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

    def refuse(compute: Callable[[], torch.Tensor]) -> Replay:
        tried.append(compute)
        raise torch.OutOfMemoryError("no room for a graph")

    assert decoded(model, refuse) == decoded(model)
    assert len(tried) == 1


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
    monkeypatch.setattr(graphs, "CudaCapture", lambda: None)
    monkeypatch.setattr(graphs.torch, "zeros", lambda shape, **_: torch.empty(shape))
    assert isinstance(layers_for(model, cache.layers, 4), CapturedLayers)
    assert isinstance(layers_for(model, cache.layers, 4, captured=False), EagerLayers)
