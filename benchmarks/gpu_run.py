"""The measurements of `gpu.py`, in the order of their worth: where time or memory is short the later ones go."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_kernels import EIGHT_BILLION, ODD, Ceilings, cases, check, measure, measure_ceilings
from benchmarks.gpu_models import (
    LLAMA,
    QWEN,
    Running,
    Shape,
    forget,
    idle_share,
    step_seconds,
    tables_for,
    their_seconds,
    theirs,
)
from engine.kernels.gpu.ops import SteadyTritonOps, TritonOps

LIMIT_S = 510
"""By then all must be done."""
CONTEXT, PROMPTS, PROMPT, STEPS = 1024, 4, 2048, 48


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


def check_kernels() -> None:
    """Compare every kernel with PyTorch, on odd shapes."""
    for dtype in (torch.float32, torch.bfloat16):
        found = [(case.name, check(case, dtype)) for case in cases(ODD, "cuda", dtype)]
        name, worst = max(found, key=lambda pair: pair[1])
        say(f"{len(found)} kernels agree with PyTorch in {dtype}; {name!r} least, by {worst:.1e} of the largest number")


def run_ours(shape: Shape, ceilings: Ceilings, found: dict[str, float]) -> None:
    """Measure decoding and prompts of our model: seconds and fractions, put in as they are known."""
    held = CONTEXT + 2 * STEPS
    with torch.inference_mode():
        running = Running(shape, TritonOps(), "cuda", torch.bfloat16, max(64 * held, PROMPTS * PROMPT))
        for requests in (1, 64):
            tokens = torch.zeros(requests, dtype=torch.int64, device="cuda")
            step = running.decoder(tables_for(requests, held, "cuda"), tokens, CONTEXT)
            spent = step_seconds(step, STEPS)
            fraction = shape.step_bytes(requests, CONTEXT + STEPS / 2) / spent / ceilings.bandwidth
            found |= {f"decode {requests}": spent, f"decode fraction {requests}": fraction}
            say(f"{shape.name}, {requests} requests: {spent * 1e3:.2f} ms a step, {fraction:.1%} of bandwidth")
            if requests == 1:
                found["idle"] = idle_share(step, 16)
                say(f"{shape.name}, 1 request: no kernel runs in {found['idle']:.1%} of the time")
        tables = tables_for(PROMPTS, PROMPT, "cuda")
        spent = min(step_seconds(lambda: running.prefill(tables, PROMPT), 2) for _ in range(2))
    fraction = shape.prefill_operations(PROMPTS, PROMPT) / spent / ceilings.rate
    say(f"{shape.name}, {PROMPTS} prompts of {PROMPT}: {spent * 1e3:.0f} ms, {fraction:.1%} of the rate of products")
    found |= {"prefill": spent, "prefill fraction": fraction}


def run_steady(shape: Shape, ours: dict[str, float]) -> None:
    """Measure what it costs that a request's tokens do not depend on its neighbours."""
    with torch.inference_mode():
        held = CONTEXT + 2 * STEPS
        running = Running(shape, SteadyTritonOps(), "cuda", torch.bfloat16, 64 * held)
        for requests in (1, 64):
            tokens = torch.zeros(requests, dtype=torch.int64, device="cuda")
            spent = step_seconds(running.decoder(tables_for(requests, held, "cuda"), tokens, CONTEXT), STEPS)
            ratio = spent / ours[f"decode {requests}"]
            say(f"{shape.name}, independent of neighbours, {requests} requests: {ratio:.2f} times as long a step")


def run_theirs(shape: Shape, ours: dict[str, float]) -> None:
    """Measure transformers on the same shapes, and tell how much longer it takes."""
    model = theirs(shape)
    for requests in (1, 64):
        _, spent = their_seconds(model, requests, CONTEXT, 16)
        ratio = spent / ours[f"decode {requests}"]
        say(f"{shape.name}, transformers, {requests} requests: {spent * 1e3:.2f} ms a step, {ratio:.1f} times ours")
    spent, _ = their_seconds(model, PROMPTS, PROMPT, 1)
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


def run(figures: dict[str, float | None], *, quick: bool) -> None:
    """Measure, and put figures in as they are known."""
    clock = Clock()
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if guarded("kernels", lambda: check_kernels() or True) is None:
        say("kernels do not agree: nothing is measured")
        return
    ceilings = guarded("ceilings", measure_ceilings)
    if ceilings is None:
        return
    say(f"ceilings: {ceilings.bandwidth / 1e12:.2f} TB/s, {ceilings.rate / 1e12:.0f} TFLOP/s in bfloat16")
    for shape, needed, gib in ((LLAMA, 45, 30), (QWEN, 80, 68)):
        if quick and shape is not LLAMA:
            continue
        if (free := torch.cuda.mem_get_info()[0] / 2**30) < gib:
            say(f"{shape.name}: left out, {free:.0f} GiB are free and {gib} needed")
            continue
        if clock.fits(shape.name, needed):
            _run_shape(shape, ceilings, clock, needed, figures, quick)
    if not quick and clock.fits("kernels on the shapes of a model", 100):
        for case in cases(EIGHT_BILLION, "cuda", torch.bfloat16):
            guarded(case.name, lambda case=case: say(measure(case, ceilings)))


def _run_shape(
    shape: Shape, ceilings: Ceilings, clock: Clock, needed: float, figures: dict[str, float | None], quick: bool
) -> None:
    ours: dict[str, float] = {}
    guarded(shape.name, lambda: run_ours(shape, ceilings, ours))
    if shape is LLAMA:
        names = {
            "decode_bandwidth_fraction_b1": "decode fraction 1",
            "decode_bandwidth_fraction_b64": "decode fraction 64",
            "prefill_flop_fraction": "prefill fraction",
            "idle_fraction": "idle",
        }
        figures |= {figure: round(ours[name], 4) for figure, name in names.items() if name in ours}
    if not quick and clock.fits(f"{shape.name} of transformers", needed):
        guarded(f"{shape.name} of transformers", lambda: run_theirs(shape, ours))
    if not quick and shape is LLAMA and clock.fits("independent of neighbours", needed):
        guarded("independent of neighbours", lambda: run_steady(shape, ours))
