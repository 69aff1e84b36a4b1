"""What looking prompts up and entering them costs when none begins like another, as a share of the whole run.

`python -m benchmarks.scheduler_prefixes` prints it as JSON; `benchmarks/scheduler.py` runs it. The model is of
SmolLM2-135M's size, so what the share is taken of is short; its memory holds so few requests that what was entered is
evicted again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.checkpoints import CONFIGS, describe
from engine.core.blocks import BlockPool
from engine.core.prefix_cache import PrefixCache
from engine.llm import LLM
from engine.runner.loading import RunnerConfig
from schemas.generation import Sampling

THREADS = 2


class Clocked:
    """Adds up the time spent in some methods, those that they call of one another counted once."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._within = False

    def of(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method, clocked."""

        def clocked(*given: Any) -> Any:
            if self._within:
                return method(*given)
            self._within, began = True, time.perf_counter()
            try:
                return method(*given)
            finally:
                self._within = False
                self.spent += time.perf_counter() - began

        return clocked


def prefix_cache_cost(quick: bool) -> dict[str, float]:
    """Say which share of a run without a single hit goes into the prefix cache."""
    requests, words, answers = (24, 256, 32) if quick else (64, 512, 64)
    prompts = [[1000 + (number * 7919 + at * 31) % 40_000 for at in range(words)] for number in range(requests)]
    with TemporaryDirectory(prefix="ostinato-benchmark-") as folder, ExitStack() as patches:
        blocks = 8 * (words + answers) // 16  # so few that all that was entered is evicted, too
        runner = RunnerConfig(
            model=str(describe(Path(folder), CONFIGS["smol-135m"])),
            dtype="bfloat16",
            load_format="dummy",
            blocks=blocks,
            threads=THREADS,
        )
        llm = LLM(runner.model, device="cpu", runner=runner)
        llm.generate(prompts[:1], Sampling(max_tokens=2, ignore_eos=True), use_tqdm=False)
        clocked = Clocked()
        for kind, name in (
            *((PrefixCache, name) for name in ("match", "tail", "enter", "enter_tail", "extend", "forget", "shared")),
            (BlockPool, "keep"),
        ):
            patches.enter_context(patch.object(kind, name, clocked.of(getattr(kind, name))))
        began = time.perf_counter()
        llm.generate(prompts, Sampling(max_tokens=answers, ignore_eos=True), use_tqdm=False)
        whole = time.perf_counter() - began
    return {
        "prefix_cache_cost_share": round(clocked.spent / whole, 5),
        "prefix_cache_us_per_token": round(1e6 * clocked.spent / (requests * (words + answers)), 3),
    }


def main() -> None:
    """Print the share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter prompts")
    print(json.dumps(prefix_cache_cost(parser.parse_args().quick)))  # noqa: T201


if __name__ == "__main__":
    main()
