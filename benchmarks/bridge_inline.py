"""The inline side of `benchmarks/bridge.py`: reads prompts, a JSON line each, and writes seconds to the first token."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.llm import LLM
from engine.runner.loading import RunnerConfig
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling


def main() -> None:
    """Answer until the input ends."""
    runner = RunnerConfig(model=str(EMBEDDED_CHECKPOINT), threads=int(sys.argv[1]))
    llm = LLM(str(EMBEDDED_CHECKPOINT), device="cpu", runner=runner)
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        began = time.perf_counter()
        stream = llm.stream([json.loads(line)], Sampling(max_tokens=4, ignore_eos=True), output_kind="delta")
        next(stream)
        first = time.perf_counter() - began
        stream.close()
        print(json.dumps(first), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
