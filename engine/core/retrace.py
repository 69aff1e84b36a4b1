"""Makes a scheduler's plans again from what it was told, and finds the first that is another one.

A scheduler is deterministic: told the same in the same order it plans the same. So a plan that comes out otherwise
means that the code is another one than that which made it, or that the record was changed: as it is on purpose when a
thread is erased. Where its tokens were, a scheduler does not find again what its requests shared with others, nor
where they ended, so from then on plans may come out otherwise with nothing being wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from engine.errors import EngineError
from schemas.generation import Accepted
from schemas.steps import (
    Aborted,
    Applied,
    Arrival,
    Began,
    Compiled,
    Expired,
    Forgot,
    Noted,
    Prepared,
    Resync,
    Resynced,
    StepPlan,
    StepResult,
    Submitted,
    Told,
    ToldMore,
    Tried,
)

_NOBODY = "retrace"
_BEFORE: Final[dict[str, int | float | str]] = {"least_shared": 1 << 62, "least_tail": 1 << 62, "reserved": 0.85}
"""Limits that did not stand in a record while nothing was done by them, or while they could not be others."""
_COMPARED = ("full", "arrivals", "slices", "gone", "preempted", "prepare", "decisions")


class Divergence(NamedTuple):
    """A plan that does not come out as it was recorded."""

    n: int
    field: str
    """Of `StepPlan`."""
    recorded: str
    made: str


class CannotRetrace(EngineError):
    """What was recorded does not suffice to make the plans again."""


class PlansMissing(CannotRetrace):
    """Plans are not in the record, or not any more."""


class Retrace:
    """Follows one scheduler from its beginning."""

    def __init__(self) -> None:
        self._scheduler: Scheduler | None = None
        self._in_flight: OrderedDict[int, StepPlan] = OrderedDict()
        self._n = 0
        self._epoch = ""
        self._erased = set[str]()

    @property
    def erased(self) -> int:
        """How many of the requests heard of until now have no tokens any more."""
        return len(self._erased)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler as it was after what was followed last.

        Raises:
            CannotRetrace: nothing was followed.
        """
        if self._scheduler is None:
            raise CannotRetrace("the scheduler's beginning is not recorded")
        return self._scheduler

    def follow(self, plan: StepPlan) -> Divergence | None:
        """Make the next plan again; say how it differs. After a difference there is no going on.

        Raises:
            PlansMissing: plans are missing before it.
            CannotRetrace: it says something that cannot have happened.
        """
        if plan.n != self._n + 1:
            raise PlansMissing(f"plans {self._n + 1} to {plan.n - 1} are missing")
        self._erased.update(arrival.request for arrival in plan.arrivals if arrival.erased)
        self._hear(plan.epoch, plan.told, {arrival.request: arrival for arrival in plan.arrivals})
        made = self.scheduler.plan(plan.time)
        self._n = plan.n
        if made is None:
            return Divergence(plan.n, "n", str(plan.n), "no plan")
        self._in_flight[plan.n] = made
        for field in _COMPARED:
            recorded, now = getattr(plan, field), getattr(made, field)
            if field == "arrivals" and self._erased:
                recorded = tuple(replace(arrival, erased=False) for arrival in plan.arrivals)
            if recorded != now:
                return Divergence(plan.n, field, _text(recorded), _text(now))
        return None

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Numbers of the plans of whose results nothing was told."""
        return tuple(self._in_flight)

    def finish(self, result: StepResult) -> None:
        """Take in a result that came after the last plan, and so is told by none."""
        self.scheduler.apply(result)
        self._in_flight.pop(result.n, None)

    def follow_more(self, more: ToldMore) -> None:
        """Take in what was told while no plan could be made.

        Raises:
            PlansMissing: plans are missing before it.
            CannotRetrace: it says something that cannot have happened.
        """
        if more.n != self._n:
            raise PlansMissing(f"plans {self._n + 1} to {more.n} are missing")
        self._hear(more.epoch, more.told, {})

    def _hear(self, epoch: str, told: tuple[Told, ...], arrivals: dict[str, Arrival]) -> None:
        for one in told:
            if isinstance(one, Began):
                limits = msgspec.convert(_BEFORE | one.limits, SchedulerConfig, strict=False)
                self._scheduler, self._epoch = Scheduler(limits, epoch), epoch
            else:
                self._tell(one, arrivals)

    def _tell(self, told: Told, arrivals: dict[str, Arrival]) -> None:
        scheduler = self.scheduler
        match told:
            case Submitted():
                if told.erased:
                    self._erased.add(told.submit.request)
                self._submit(told, arrivals)
            case Aborted(request=request):
                scheduler.abort(request)
            case Expired(time=time):
                scheduler.expire(time)
            case Applied():
                self._apply(told)
            case Resynced(worker=worker, blocks=blocks):
                scheduler.resync(Resync(worker=worker, expected=0, reason="gap", blocks=blocks))
                self._in_flight.clear()
            case Compiled():
                scheduler.prepared(Prepared(self._epoch, told.worker, told.key, told.problem))
            case Forgot():
                scheduler.forget_prefixes()
            case _:
                self._time_passes(told)

    def _time_passes(self, told: Noted | Tried | Began) -> None:
        match told:
            case Noted(note=note, time=time):
                self.scheduler.note(note, time)
            case Tried(time=time):
                self._try(time)
            case Began():
                raise AssertionError("it began before")

    def _try(self, time: int) -> None:
        if self.scheduler.plan(time) is not None:
            raise CannotRetrace(f"after plan {self._n} a plan comes out where none did")

    def _submit(self, told: Submitted, arrivals: dict[str, Arrival]) -> None:
        submit = told.submit
        if not submit.prompt:
            arrival = arrivals.get(submit.request)
            if arrival is None:
                raise CannotRetrace(f"the tokens of {submit.request!r} are not recorded")
            prompt, output = arrival.tokens[: arrival.prompt_tokens], arrival.tokens[arrival.prompt_tokens :]
            submit = replace(submit, prompt=prompt, output=output, sampling=arrival.sampling)
        answer = self.scheduler.submit(submit, told.time)
        if not isinstance(answer, Accepted):
            raise CannotRetrace(f"after plan {self._n} {submit.request!r} is refused: {answer.message}")

    def _apply(self, told: Applied) -> None:
        plan = self._in_flight.get(told.n)
        if plan is None:
            raise CannotRetrace(f"after plan {self._n} a result of step {told.n} is told, which is not under way")
        first = next(iter(self._in_flight)) == told.n
        sampling = [part.request for part in plan.slices if part.sample]
        if first and len(sampling) != len(told.tokens):
            raise CannotRetrace(f"step {told.n} samples {len(sampling)} tokens, and {len(told.tokens)} are told")
        tokens = tuple((name, token) for name, token in zip(sampling, told.tokens, strict=False) if token is not None)
        errors = tuple((name, "") for name in told.failed)
        heard = StepResult(told.n, plan.epoch, _NOBODY, tokens, errors, whole=told.whole, closed=told.closed)
        self.scheduler.apply(heard)
        if first:
            del self._in_flight[told.n]
        else:
            self._in_flight.clear()


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
