"""The thread in which a model runs: plan after plan, with nothing between two of them but a queue.

The event loop only hands plans in and takes results out. So a step that is planned ahead begins when the one before it
ends, however long the loop takes to say so on the bus. What an accelerator computes by itself a second thread waits
for, and says when it is there, so that the first one is free to launch the next step meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from queue import SimpleQueue
from threading import Thread

from engine.runner.model_runner import ModelRunner
from engine.runner.pending import Pending
from schemas.steps import StepPlan, StepResult


class Device:
    """Runs plans in the order in which they are handed in.

    There is one thread for all steps: each new one would start a pool of OpenMP threads of its own.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._plans: SimpleQueue[StepPlan | Pending | None] = SimpleQueue()
        """What the first thread does next: launch a plan, or take in a step that is computed; None wakes it to stop."""
        self._awaited: SimpleQueue[Pending | None] = SimpleQueue()
        self._waiter: Thread | None = None
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
        self._plans.put(None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        # the loop may be closed when a step ends that nobody waits for any more
        with contextlib.suppress(RuntimeError):
            while (next_one := self._plans.get()) is not None and not self._stopped:
                made = self._advanced(next_one)
                if made is not None:
                    loop.call_soon_threadsafe(self._made.put_nowait, made)
        self._awaited.put(None)

    def _advanced(self, next_one: StepPlan | Pending) -> StepResult | BaseException | None:
        """Launch a plan or take in a step; give what came of it, if that is known by then."""
        try:
            if not isinstance(next_one, StepPlan):
                return next_one.result()
            pending = self._runner.launch(next_one)
            if not pending.under_way:
                return pending.result()
        except BaseException as error:  # noqa: BLE001  raised again where the result is waited for
            return error
        if self._waiter is None:
            self._waiter = Thread(target=self._wait, name="device-waits", daemon=True)
            self._waiter.start()
        self._awaited.put(pending)
        return None

    def _wait(self) -> None:
        """Hand steps back as the device has computed them; what went wrong there is raised when they are taken in."""
        while (pending := self._awaited.get()) is not None:
            with contextlib.suppress(Exception):
                pending.wait()
            self._plans.put(pending)
