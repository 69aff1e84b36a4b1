"""Whether our tokens are right, before anything is timed: served as inline, and in float32 as transformers'."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from benchmarks.checkpoints import Checkpoint
from benchmarks.peers_client import run
from benchmarks.peers_engines import Engine, Job, inline, ostinato, transformers
from benchmarks.peers_workloads import Tokens, Turn, Workload, workloads

_COUNT: Final = 16
_PROMPTS: Final = 6

Folders = Callable[[], AbstractContextManager[Path]]


async def check_tokens(made: Checkpoint, threads: int, folders: Folders, beside_transformers: bool) -> None:
    """Compare answers of some prompts that are asked together.

    Raises:
        AssertionError: They differ.
        EngineFailed: There is none.
    """
    many = next(one for one in workloads(made.vocabulary) if one.name == "w2")
    programs = tuple((Turn(program[0].new, _COUNT),) for program in many.programs[:_PROMPTS])
    asked = Workload("tokens", programs)
    pairs = [(ostinato(), inline(), "bfloat16")]
    if beside_transformers:
        pairs.append((inline(), transformers(), "float32"))
    for one, other, dtype in pairs:
        with folders() as folder, folders() as beside:
            ours, theirs = await asyncio.gather(
                _answers(one, Job(made, threads, folder, dtype), asked),
                _answers(other, Job(made, threads, beside, dtype), asked),
            )
        for number, (left, right) in enumerate(zip(ours, theirs, strict=True)):
            assert left == right, f"{made.name} in {dtype}, prompt {number}: {one.name} {left}, {other.name} {right}"


async def _answers(engine: Engine, job: Job, asked: Workload) -> list[Tokens]:
    async with engine.opened(job) as running:
        ran, _ = await run(asked, running.door)
    return [one.turns[0].tokens for one in ran]
