"""Every thread of the log checked, by as many processes as there is work for.

A log of a few spans is read here, for starting a process takes longer. Otherwise the processes read the spans for
themselves, and only outcomes come back. They are asked for nothing new while their answer is on its way, hold one
span each, and are killed when this one is done, fails or is told to stop; none of them outlives it, for the end of
their input ends them.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from bus.store import Store
from bus.sweep import Span, spans, threads_of
from infra.cli.replay.checking import Checked, check
from infra.errors import SweepFailed
from schemas import codec

SPAN = 4000
"""Events to a span."""
_FEW = 3
"""Spans that are not worth a process."""
_LONGEST_LINE = 1 << 28

Progress = Callable[[int, int], None]
"""Told (spans done, spans there are)."""


async def sweep(store: Store, jobs: int, progress: Progress) -> AsyncGenerator[list[Checked], None]:
    """Check all threads, yielding the outcomes of a span at a time, in no order.

    Raises:
        SweepFailed: a process ended.
    """
    parts = await spans(store, SPAN)
    jobs = min(jobs, len(parts)) if len(parts) > _FEW else 1
    source = _shared(store, parts, jobs) if jobs > 1 else _alone(store, parts)
    done = 0
    progress(0, len(parts))
    async with aclosing(source):
        async for outcomes in source:
            yield outcomes
            done += 1
            progress(done, len(parts))


async def _alone(store: Store, parts: Sequence[Span]) -> AsyncGenerator[list[Checked], None]:
    for part in parts:
        # Ctrl-C is heard between threads only if the loop gets to run
        outcomes = []
        for events in await threads_of(store, part):
            outcomes.append(check(events))
            await asyncio.sleep(0)
        yield outcomes


async def _shared(store: Store, parts: Sequence[Span], jobs: int) -> AsyncGenerator[list[Checked], None]:
    waiting = iter(parts)
    outcomes: asyncio.Queue[list[Checked]] = asyncio.Queue(jobs)

    async def work() -> None:
        process = await _start(store)
        try:
            for part in waiting:
                await outcomes.put(await _check_by(process, part))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    workers = [asyncio.create_task(work(), name=f"sweeper-{n}") for n in range(jobs)]
    try:
        for _ in parts:
            yield await _next(outcomes, workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _next(outcomes: asyncio.Queue[list[Checked]], workers: Sequence[asyncio.Task[None]]) -> list[Checked]:
    """Wait for an outcome, or raise what a worker failed with."""
    getting = asyncio.ensure_future(outcomes.get())
    try:
        while not getting.done():
            busy = {worker for worker in workers if not worker.done()}
            await asyncio.wait({getting, *busy}, return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()
        return getting.result()
    finally:
        getting.cancel()


async def _start(store: Store) -> Process:
    """Start a process that checks spans. It has a group of its own: Ctrl-C in the terminal is for us alone."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli.replay.sweeper"),
        stdin=PIPE,
        stdout=PIPE,
        limit=_LONGEST_LINE,
        process_group=0,
    )
    assert process.stdin is not None
    # not in an argument: those are seen by everyone
    master = "" if store.keys is None else store.keys.master.secret.decode()
    process.stdin.write(msgspec.json.encode((store.url, master)) + b"\n")
    return process


async def _check_by(process: Process, part: Span) -> list[Checked]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(part) + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
    except OSError as error:
        raise SweepFailed(str(error)) from error
    if not line.endswith(b"\n"):
        raise SweepFailed(f"exit code {await process.wait()}")
    outcomes: list[Checked] = codec.decode(line, list[Checked])
    return outcomes
