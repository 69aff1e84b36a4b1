"""`gpu.py --dry`: all that a GPU would be asked for, on a processor, in Triton's interpreter. Nothing is measured.

Shapes are tiny, and a processor answers in place of CUDA: clocks are its own, a profiler shows made-up kernels, a graph
that is captured is computed again, and numbers land late. So a line that fails fails before anybody has a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton.testing
from torch import Tensor

from benchmarks import gpu_run
from benchmarks.gpu_kernels import Sizes
from benchmarks.gpu_models import LLAMA, QWEN, Shape, shortened
from benchmarks.gpu_run import Scale
from engine.kernels.gpu.few import FewRows
from engine.models.decoder import Trunk
from engine.runner import model_runner
from engine.runner.graphs import CapturedLayers, EagerLayers, Layers, Replay
from engine.runner.landing import Here, Numbers

TINY = Sizes(5, 48, 40, 4, 2, 16, 2, 40, 7, 4, 2, 50)
_SMALL = {"vocabulary": 50, "hidden": 32, "inner": 24, "heads": 4, "kv_heads": 2, "context_length": 48}


def small(shape: Shape) -> Shape:
    """Return a model of the same kind that is computed in no time."""
    few = shortened(shape, 1)
    experts = few.config.experts and replace(few.config.experts, count=4, chosen=2, inner=16)
    ropes = tuple(replace(rope, width=16) for rope in few.config.ropes)
    return replace(few, config=replace(few.config, head_dim=16, ropes=ropes, experts=experts, **_SMALL))


DRY = Scale(
    "cpu", 32, 1 << 10, TINY, TINY, ((small(LLAMA), 0, 0), (small(QWEN), 0, 0)),
    context=20, many=2, prompts=2, prompt=9, steps=2,
)  # fmt: skip


class Late:
    """Numbers as they come from a device: as they were when they were sent."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._there = {name: tensor.clone() for name, tensor in tensors.items()}

    def wait(self) -> None:
        """See `engine.runner.landing.Landed`."""

    def read(self) -> Numbers:
        """See `engine.runner.landing.Landed`."""
        return Here(self._there).read()


class Recompute:
    """Stands for graphs: what was captured is computed again."""

    def __call__(self, compute: Callable[[], Tensor], /) -> Replay:
        """See `engine.runner.graphs.Capture`."""
        compute()
        return compute

    def free(self) -> int:
        """See `engine.runner.graphs.Capture`."""
        return 1 << 40


@dataclass(frozen=True, slots=True)
class _Profile:
    """Shows kernels of two microseconds, in gaps of one."""

    activities: Sequence[Any]

    def __enter__(self) -> _Profile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self) -> list[Any]:
        kind = torch.autograd.DeviceType.CUDA
        times = [SimpleNamespace(start=3.0 * at, end=3.0 * at + 2.0) for at in range(4)]
        return [SimpleNamespace(time_range=one, device_type=kind) for one in times]


def _once(call: Callable[[], Any], **_: int) -> float:
    """Time a call by the processor's clock, in milliseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _layers(model: Trunk, caches: Sequence[Tensor], block_size: int, *, captured: bool) -> Layers:
    eager = EagerLayers(model, caches)
    return CapturedLayers(eager, model, block_size, Recompute()) if captured and model.ops.capturable else eager


@contextmanager
def standing_in() -> Iterator[None]:
    """Let a processor answer in place of CUDA."""
    with ExitStack() as held:
        for owner, name, other in (
            (torch.cuda, "synchronize", lambda: None),
            (torch.cuda, "empty_cache", lambda: None),
            (torch.cuda, "get_device_name", lambda: "no GPU, a processor in its place"),
            (torch.cuda, "mem_get_info", lambda: (1 << 40, 1 << 40)),
            (torch.profiler, "profile", _Profile),
            (triton.testing, "do_bench", _once),
            (model_runner, "landing_for", lambda _: Late),
            (model_runner, "layers_for", _layers),
        ):
            held.enter_context(patch.object(owner, name, other))
        yield


def run(*, quick: bool) -> int:
    """Go through everything; return how many parts failed."""
    failed = list[str]()

    def say(line: str) -> None:
        failed.extend([line] if "FAILED" in line or "do not agree" in line else [])
        print(f"dry, no measurement: {line}", flush=True)  # noqa: T201

    with standing_in(), patch.object(gpu_run, "say", say):
        gpu_run.run({}, quick=quick, scale=DRY, few=lambda: FewRows(_once))
    return len(failed)
