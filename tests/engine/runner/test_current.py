"""Kernels go to the model's device, of several: with stand-ins for PyTorch's own way to choose one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from engine.runner import loading, model_runner
from engine.runner.current import current
from engine.runner.graphs import EagerLayers
from engine.runner.loading import RunnerConfig, load_runner
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan
from tests.engine.conftest import Tiny, platform


def test_an_accelerator_becomes_the_threads_own_and_a_processor_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    with current(torch.device("cuda:1")) as chosen:
        assert chosen == torch.device("cuda:1")
    with current(torch.device("cpu")) as chosen:
        assert chosen is None


def test_a_model_is_loaded_and_its_steps_are_launched_on_its_device(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    within, computed = list[torch.device](), list[list[torch.device]]()

    @contextmanager
    def noted(device: torch.device) -> Iterator[None]:
        within.append(device)
        yield
        within.pop()

    class Noting(EagerLayers):
        def __init__(self, *given: object, **others: object) -> None:
            computed.append([*within])
            super().__init__(*given[:2])  # type: ignore[arg-type]

        def __call__(self, *given: object) -> torch.Tensor:
            computed.append([*within])
            return super().__call__(*given)  # type: ignore[arg-type]

    for module in (loading, model_runner):
        monkeypatch.setattr(module, "current", noted)
    monkeypatch.setattr(model_runner, "layers_for", lambda *given, **_: Noting(*given))
    runner = load_runner(RunnerConfig(model=str(tiny("mistral").folder), blocks=5), platform("gathered"), "w")
    arrival = Arrival("a", (1, 2, 3), 3, Sampling(), (0,), 0)
    runner.execute(StepPlan(1, "e", 0, True, (arrival,), (Slice("a", 0, 3),), ()))
    assert computed == [[torch.device("cpu")]] * 2
