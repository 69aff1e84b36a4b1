"""What was measured of each request, and what it comes to: names and keys as `vllm bench` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_NAMES = {"ttft": "time to first token", "tpot": "time per output token", "itl": "gap between tokens", "e2el": "whole"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client saw it; times in seconds."""

    started: float
    ended: float
    first: float | None
    """When the first text came; None if none did."""
    gaps: tuple[float, ...]
    """Between one piece of text and the next."""
    prompt_tokens: int
    output_tokens: int
    error: str = ""

    @property
    def e2el(self) -> float:
        """From the request to the end of the answer."""
        return self.ended - self.started

    @property
    def ttft(self) -> float:
        """From the request to the first text."""
        return (self.ended if self.first is None else self.first) - self.started

    @property
    def tpot(self) -> float:
        """From one token to the next after the first, on average."""
        return (self.e2el - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


def summary(
    samples: Sequence[Sample], duration: float, percentiles: Sequence[float] = (99,), goodput: Mapping[str, float] = {}
) -> dict[str, Any]:
    """Say what a measurement came to.

    Args:
        samples: of all requests.
        duration: of the whole, seconds.
        percentiles: beside mean, median and standard deviation.
        goodput: limits in milliseconds that a request must keep to be a good one.
    """
    good = [sample for sample in samples if not sample.error]
    prompt = sum(sample.prompt_tokens for sample in good)
    output = sum(sample.output_tokens for sample in good)
    per_s = 1 / duration if duration else 0.0
    told: dict[str, Any] = {
        "duration": duration,
        "completed": len(good),
        "failed": len(samples) - len(good),
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": len(good) * per_s,
        "output_throughput": output * per_s,
        "total_token_throughput": (prompt + output) * per_s,
    }
    if goodput:
        kept = [all(getattr(each, name) * 1000 <= limit for name, limit in goodput.items()) for each in good]
        told["request_goodput"] = sum(kept) * per_s
    values = {
        "ttft": [sample.ttft for sample in good],
        "tpot": [sample.tpot for sample in good if sample.output_tokens > 1],
        "itl": [gap for sample in good for gap in sample.gaps],
        "e2el": [sample.e2el for sample in good],
    }
    for name, seconds in values.items():
        told |= _spread(name, seconds, percentiles)
    return told


def _spread(name: str, seconds: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    times = np.array(seconds or [0.0]) * 1000
    told = {
        f"mean_{name}_ms": float(times.mean()),
        f"median_{name}_ms": float(np.median(times)),
        f"std_{name}_ms": float(times.std()),
    }
    return told | {f"p{share:g}_{name}_ms": float(np.percentile(times, share)) for share in percentiles}


def table(told: Mapping[str, Any], percentiles: Sequence[float] = (99,)) -> str:
    """Lay a summary out for a person."""
    goodput = f", {told['request_goodput']:.2f}/s within the limits" if "request_goodput" in told else ""
    lines = [
        f"{told['completed']} requests in {told['duration']:.2f} s, {told['failed']} failed",
        f"requests {told['request_throughput']:.2f}/s{goodput}",
        f"tokens   {told['output_throughput']:.1f}/s out, {told['total_token_throughput']:.1f}/s in and out "
        f"({told['total_input_tokens']} in, {told['total_output_tokens']} out)",
        "",
        f"{'milliseconds':<24}{'mean':>10}{'median':>10}" + "".join(f"{f'p{share:g}':>10}" for share in percentiles),
    ]
    for name, words in _NAMES.items():
        spread = ["mean", "median", *(f"p{share:g}" for share in percentiles)]
        numbers = "".join(f"{told[f'{each}_{name}_ms']:>10.2f}" for each in spread)
        lines.append(f"{words:<24}{numbers}")
    return "\n".join(lines) + "\n"
