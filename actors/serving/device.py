"""The thread in which a model runs: plan after plan, with nothing between two of them but a queue.

The event loop only hands plans in and takes results out. So a step that is planned ahead begins when the one before it
ends, however long the loop takes to say so on the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
from queue import SimpleQueue
from threading import Thread

from engine.runner.model_runner import ModelRunner
from schemas.steps import StepPlan, StepResult


class Device:
    """Runs plans in the order in which they are handed in.

    There is one thread for all steps: each new one would start a pool of OpenMP threads of its own.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._plans: SimpleQueue[StepPlan] = SimpleQueue()
        self._made: asyncio.Queue[StepResult | BaseException] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = 0
        self._stopped = False

    @property
    def under_way(self) -> int:
        """How many plans were handed in whose results were not taken out."""
        return self._under_way

    def run(self, plan: StepPlan) -> None:
        """Have a plan run once those before it are."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            Thread(target=self._work, args=(self._loop,), name="device").start()
        self._under_way += 1
        self._plans.put(plan)

    async def result(self) -> StepResult:
        """Wait for the result of the first plan whose result was not taken out; raise what running it raised."""
        made = await self._made.get()
        self._under_way -= 1
        if isinstance(made, BaseException):
            raise made
        return made

    def stop(self) -> None:
        """Run nothing more. A step under way goes on to its end, and nobody hears of it."""
        self._stopped = True
        self._plans.put(_NOTHING)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        # the loop may be closed when a step ends that nobody waits for any more
        with contextlib.suppress(RuntimeError):
            while True:
                plan = self._plans.get()
                if self._stopped:
                    return
                loop.call_soon_threadsafe(self._made.put_nowait, self._executed(plan))

    def _executed(self, plan: StepPlan) -> StepResult | BaseException:
        try:
            return self._runner.execute(plan)
        except BaseException as error:  # noqa: BLE001  raised again where the result is waited for
            return error


_NOTHING = StepPlan(n=0, epoch="", time=0, full=False, arrivals=(), slices=(), gone=())
"""Wakes a thread that is to stop."""
