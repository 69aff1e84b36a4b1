"""Our engine in one process, asked through a pipe: no servers and no bus.

`python peers_inline.py FOLDER THREADS KV_TOKENS CONTEXT DTYPE`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from benchmarks.peers_pipe import Pipe, Told
from engine.core.scheduler import Scheduler
from engine.engine import Engine
from engine.generator import Uptime
from engine.platforms import detect
from engine.runner.executor import InlineExecutor
from engine.runner.loading import RunnerConfig, load_runner
from schemas.generation import Accepted, Sampling, Submit

NAME: Final = "inline"
BLOCK: Final = 16


def loaded(folder: str, threads: int, kv_tokens: int, context: int, dtype: str) -> Engine:
    """Load a checkpoint."""
    told = {
        "model": folder,
        "threads": threads,
        "block_size": BLOCK,
        "blocks": kv_tokens // BLOCK,
        "context_length": context,
        "dtype": dtype,
    }
    runner = load_runner(msgspec.convert(told, RunnerConfig), detect("cpu"), NAME)
    return Engine(Scheduler(runner.limits, NAME), InlineExecutor(runner), Uptime())


def serve(pipe: Pipe, engine: Engine) -> None:
    """Answer until there are no more requests."""
    pipe.ready()
    open_: set[str] = set()
    while True:
        try:
            asked = pipe.take(wait=not open_ and not engine.busy)
        except EOFError:
            return
        for one in asked:
            sampling = Sampling(max_tokens=one.wanted, ignore_eos=True)
            answer = engine.add(Submit(str(one.name), tuple(one.prompt), sampling, NAME, NAME))
            assert isinstance(answer, Accepted), answer
            open_.add(str(one.name))
        news = engine.step()
        pipe.tell([Told(int(event.request), list(event.tokens), event.finish is not None) for event in news])
        open_ -= {event.request for event in news if event.finish is not None}


def main() -> None:
    """Load, then serve."""
    folder, threads, kv_tokens, context, dtype = sys.argv[1:]
    pipe = Pipe()
    serve(pipe, loaded(folder, int(threads), int(kv_tokens), int(context), dtype))


if __name__ == "__main__":
    main()
