"""The measurements of `gpu.py`, in the order of their worth: where time or memory is short the later ones go."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_kernels import EIGHT_BILLION, ODD, Ceilings, Sizes, cases, check, measure, measure_ceilings
from benchmarks.gpu_models import LLAMA, QWEN, Running, Shape, forget, their_seconds, theirs
from engine.kernels.gpu.few import FewRows
from engine.kernels.gpu.ops import SteadyTritonOps, TritonOps

LIMIT_S = 510
"""By then all must be done."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    device: str
    side: int
    """Of the matrices by which the rate of products is measured."""
    copied: int
    """Numbers that are copied to measure bandwidth."""
    odd: Sizes
    """Of kernels that are checked."""
    models: Sizes
    """Of kernels that are timed."""
    shapes: tuple[tuple[Shape, float, int], ...]
    """Models, the seconds that each takes, and GiB of memory."""
    context: int
    many: int
    """Requests that are decoded together."""
    prompts: int
    prompt: int
    steps: int


REAL = Scale(
    "cuda", 8192, 1 << 30, ODD, EIGHT_BILLION, ((LLAMA, 60, 30), (QWEN, 80, 68)),
    context=1024, many=64, prompts=4, prompt=2048, steps=48,
)  # fmt: skip


class Clock:
    """Says what still fits."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def fits(self, what: str, needed: float) -> bool:
        """Tell what is left out for want of time."""
        left = LIMIT_S - (time.perf_counter() - self._began)
        if left < needed:
            say(f"{what}: left out, {left:.0f} s are left and some {needed:.0f} s needed")
        return left >= needed


def say(line: str) -> None:
    """Print at once: whoever waits wants to know how far it is."""
    print(line, flush=True)  # noqa: T201


def check_kernels(scale: Scale) -> None:
    """Compare every kernel with PyTorch, on odd shapes."""
    for dtype in (torch.float32, torch.bfloat16):
        found = [(case.name, check(case, dtype)) for case in cases(scale.odd, scale.device, dtype)]
        name, worst = max(found, key=lambda pair: pair[1])
        say(f"{len(found)} kernels agree with PyTorch in {dtype}; {name!r} least, by {worst:.1e} of the largest number")


def run_ours(shape: Shape, scale: Scale, ceilings: Ceilings, found: dict[str, float], few: FewRows | None) -> None:
    """Measure decoding and prompts of our model: seconds and fractions, put in as they are known."""
    context, steps, most = scale.context, scale.steps, scale.context + 2 * scale.steps
    began = time.perf_counter()
    tokens = max(scale.many * most, scale.prompts * (scale.prompt + 1)) + 16 * scale.many
    running = Running(shape, TritonOps(few), scale.device, torch.bfloat16, tokens)
    loaded = time.perf_counter()
    running.warm_up(scale.many)
    ready = time.perf_counter()
    say(f"{shape.name}: ready after {loaded - began:.0f} s of loading and {ready - loaded:.0f} s of warming up")
    for which, requests in (("alone", 1), ("many", scale.many)):
        spent = running.decode_seconds(requests, context, steps)
        fraction = shape.step_bytes(requests, context + steps / 2) / spent / ceilings.bandwidth
        found |= {f"decode {which}": spent, f"decode fraction {which}": fraction}
        say(f"{shape.name}, {requests} requests: {spent * 1e3:.2f} ms a step, {fraction:.1%} of bandwidth")
    spent = running.prefill_seconds(scale.prompts, scale.prompt)
    fraction = shape.prefill_operations(scale.prompts, scale.prompt) / spent / ceilings.rate
    say(f"{shape.name}, {scale.prompts} prompts of {scale.prompt}: {spent * 1e3:.0f} ms, {fraction:.1%} of the rate")
    found |= {"prefill": spent, "prefill fraction": fraction}
    idle, waiting = running.idle(1, context, 16)  # last: a profiler does not run everywhere
    found["idle"] = idle
    say(f"{shape.name}, 1 request: no kernel runs in {idle:.1%} of the time, {waiting:.1%} of it in gaps over 5 us")


def run_steady(shape: Shape, scale: Scale, ours: dict[str, float]) -> None:
    """Measure what it costs that a request's tokens do not depend on its neighbours."""
    tokens = scale.many * (scale.context + 2 * scale.steps + 16)
    running = Running(shape, SteadyTritonOps(), scale.device, torch.bfloat16, tokens)
    running.warm_up(scale.many)
    for which, requests in (("alone", 1), ("many", scale.many)):
        ratio = running.decode_seconds(requests, scale.context, scale.steps) / ours[f"decode {which}"]
        say(f"{shape.name}, independent of neighbours, {requests} requests: {ratio:.2f} times as long a step")


def run_theirs(shape: Shape, scale: Scale, ours: dict[str, float]) -> None:
    """Measure transformers on the same shapes, and tell how much longer it takes."""
    model = theirs(shape, scale.device)
    for which, requests in (("alone", 1), ("many", scale.many)):
        _, spent = their_seconds(model, requests, scale.context, min(16, scale.steps))
        ratio = spent / ours[f"decode {which}"]
        say(f"{shape.name}, transformers, {requests} requests: {spent * 1e3:.2f} ms a step, {ratio:.1f} times ours")
    spent, _ = their_seconds(model, scale.prompts, scale.prompt, 1)
    say(f"{shape.name}, transformers, prompts: {spent * 1e3:.0f} ms, {spent / ours['prefill']:.1f} times ours")


def guarded(what: str, call: Callable[[], Any]) -> Any:
    """Do a part; if it fails, say how and go on without it: a device is lent for one run."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  whatever a driver, a compiler or a library says
        say(f"{what}: FAILED, {type(error).__name__}: {' '.join(str(error).split())[:500]}")
        say(traceback.format_exc(limit=-6))
        return None
    finally:
        forget()


def run(
    figures: dict[str, float | None],
    *,
    quick: bool,
    scale: Scale = REAL,
    few: Callable[[], FewRows | None] = lambda: None,
) -> None:
    """Measure, and put figures in as they are known; `few` makes what chooses products of few rows."""
    clock = Clock()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if guarded("kernels", lambda: check_kernels(scale) or True) is None:
        say("kernels do not agree: nothing is measured")
        return
    ceilings = guarded("ceilings", lambda: measure_ceilings(scale.device, scale.side, scale.copied))
    if ceilings is None:
        return
    say(f"ceilings: {ceilings.bandwidth / 1e12:.2f} TB/s, {ceilings.rate / 1e12:.0f} TFLOP/s in bfloat16")
    for at, (shape, needed, gib) in enumerate(scale.shapes[:1] if quick else scale.shapes):
        if (free := torch.cuda.mem_get_info()[0] / 2**30) < gib:
            say(f"{shape.name}: left out, {free:.0f} GiB are free and {gib} needed")
        elif clock.fits(shape.name, needed):
            ours: dict[str, float] = {}
            guarded(shape.name, lambda shape=shape, ours=ours: run_ours(shape, scale, ceilings, ours, few()))
            if at == 0:
                figures |= {figure: round(ours[name], 4) for figure, name in NAMES.items() if name in ours}
            if not quick:
                _run_beside(shape, scale, ours, clock, needed)
    if not quick and clock.fits("kernels on the shapes of a model", 100):
        for case in cases(scale.models, scale.device, torch.bfloat16):
            guarded(case.name, lambda case=case: say(measure(case, ceilings)))


NAMES = {
    "decode_bandwidth_fraction_b1": "decode fraction alone",
    "decode_bandwidth_fraction_b64": "decode fraction many",
    "prefill_flop_fraction": "prefill fraction",
    "idle_fraction": "idle",
}
"""Figures, and what they are found as, of the first model."""


def _run_beside(shape: Shape, scale: Scale, ours: dict[str, float], clock: Clock, needed: float) -> None:
    if clock.fits(f"{shape.name} of transformers", needed):
        guarded(f"{shape.name} of transformers", lambda: run_theirs(shape, scale, ours))
    if shape is scale.shapes[0][0] and clock.fits("independent of neighbours", needed):
        guarded("independent of neighbours", lambda: run_steady(shape, scale, ours))
