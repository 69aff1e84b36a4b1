"""The inline side of `benchmarks/bus_path.py`: `LLM(...).generate` in a process of its own.

`python -m benchmarks.bus_path_inline FOLDER THREADS` says `ready`, reads loads as JSON, a line each (requests, prompt
tokens, answer tokens, rounds, seed), and writes what each took, its tokens and its texts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bus_path import BLOCKS, Load
from engine.llm import LLM
from engine.runner.loading import RunnerConfig


def main() -> None:
    """Run loads until the input ends."""
    folder, threads = sys.argv[1], int(sys.argv[2])
    runner = RunnerConfig(model=folder, dtype="bfloat16", load_format="dummy", blocks=BLOCKS, threads=threads)
    llm = LLM(folder, device="cpu", runner=runner)
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        *shape, seed = json.loads(line)
        load = Load(*shape)
        prompts = load.prompts(seed)
        began = time.perf_counter()
        answers = llm.generate(prompts, load.sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        print(json.dumps([seconds, [one.tokens for one in answers], [one.text for one in answers]]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
