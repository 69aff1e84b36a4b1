"""A scheduler and an executor in one process: requests in, tokens out, with no bus between them."""

from __future__ import annotations

from engine.core.scheduler import Scheduler
from engine.runner.executor import Executor
from schemas.context import Clock
from schemas.generation import Answer, Submit
from schemas.steps import RequestEvent


class Engine:
    """Plans as far ahead as the scheduler allows, and hands results back in order."""

    def __init__(self, scheduler: Scheduler, executor: Executor, clock: Clock) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._clock = clock
        self._launched = 0

    def add(self, submit: Submit) -> Answer:
        """Offer a request to the scheduler; `Refused` says why it does not take it."""
        return self._scheduler.submit(submit, self._clock.now())

    def abort(self, request: str) -> RequestEvent | None:
        """Stop a request and return its last event; `None` if it is unknown or over."""
        return self._scheduler.abort(request)

    def step(self) -> list[RequestEvent]:
        """End what is late, launch what can be planned, wait for the oldest step and return what it brought.

        The list is empty when a step brought no request a token, and when there was nothing to do: see `busy`.
        """
        late = self._scheduler.expire(self._clock.now())
        for prepared in self._executor.prepared():
            late += self._scheduler.prepared(prepared)
        while (plan := self._scheduler.plan(self._clock.now())) is not None:
            self._executor.launch(plan)
            self._launched += 1
        if not self._launched:
            return late
        self._launched -= 1
        return [*late, *self._scheduler.apply(self._executor.collect())]

    @property
    def busy(self) -> bool:
        """Whether a step is launched whose result was not collected yet."""
        return self._launched > 0
