"""Measurements of a model in this process, without servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.llm import LLM
from infra.bench.workload import random_tokens
from schemas.generation import Sampling

Progress = Callable[[int, int], None]
_SHARES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Shape:
    """How long prompts and answers are, in tokens, and what they are drawn from."""

    prompt: int
    output: int
    seed: int

    def sampling(self) -> Sampling:
        """Make every answer as long as it is to be."""
        return Sampling(max_tokens=self.output, ignore_eos=True)


def latency(
    llm: LLM, shape: Shape, batch: int, warmups: int, rounds: int, on_progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Time one batch again and again; its prompts are new each time, so that none is in the prefix cache."""
    prompts = random_tokens(batch * (warmups + rounds), shape.prompt, llm.vocabulary, shape.seed)
    seconds = []
    for number in range(warmups + rounds):
        began = time.perf_counter()
        llm.generate(prompts[number * batch : (number + 1) * batch], shape.sampling(), use_tqdm=False)
        if number >= warmups:
            seconds.append(time.perf_counter() - began)
        on_progress(number + 1, warmups + rounds)
    return {
        "avg_latency": float(np.mean(seconds)),
        "latencies": seconds,
        "percentiles": {str(share): float(np.percentile(seconds, share)) for share in _SHARES},
    }


def throughput(llm: LLM, shape: Shape, requests: int) -> dict[str, Any]:
    """Time many requests at once, with a bar where standard error is a terminal."""
    prompts = random_tokens(requests, shape.prompt, llm.vocabulary, shape.seed)
    began = time.perf_counter()
    answers = llm.generate(prompts, shape.sampling())
    seconds = time.perf_counter() - began
    prompt = sum(answer.usage.prompt_tokens for answer in answers)
    output = sum(answer.usage.completion_tokens for answer in answers)
    return {
        "elapsed_time": seconds,
        "num_requests": len(answers),
        "total_num_tokens": prompt + output,
        "requests_per_second": len(answers) / seconds,
        "tokens_per_second": (prompt + output) / seconds,
        "prompt_tokens_per_second": prompt / seconds,
        "output_tokens_per_second": output / seconds,
    }
