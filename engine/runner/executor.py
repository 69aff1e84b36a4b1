"""Who runs a scheduler's plans, and which plans a worker may run at all."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from engine.runner.model_runner import ModelRunner
from engine.runner.pending import Pending
from schemas.steps import Prepare, Prepared, StepPlan, StepResult

_REMEMBERED: Final = 16
"""How many schedulers a worker remembers to have left."""


class Executor(Protocol):
    """Runs the plans of one scheduler, in the order given."""

    def launch(self, plan: StepPlan) -> None:
        """Start a step and return at once; results come from `collect` in launch order."""

    def collect(self) -> StepResult:
        """Wait for the oldest step launched and not collected. At least one must be."""

    def prepared(self) -> list[Prepared]:
        """Tell what became of grammars since the last time; if no step is launched wait for one under way, if any."""


class InlineExecutor:
    """Runs plans in this process: a processor each when its result is wanted, an accelerator as they come."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._launched: deque[Pending] = deque()
        self._compiling: deque[Future[Prepared]] = deque()
        # a thread of their own, which no step waits for; none before there is a grammar
        self._grammars = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    def launch(self, plan: StepPlan) -> None:
        """Launch the plan, and begin to compile what it asks for."""
        self._launched.append(self._runner.launch(plan))
        for prepare in plan.prepare:
            self._compiling.append(self._grammars.submit(self._compile, plan.epoch, prepare))

    def _compile(self, epoch: str, prepare: Prepare) -> Prepared:
        return Prepared(epoch, self._runner.worker, prepare.key, self._runner.prepare(prepare))

    def prepared(self) -> list[Prepared]:
        """Tell what became of grammars."""
        if self._compiling and not self._launched:
            wait([self._compiling[0]])
        found = []
        while self._compiling and self._compiling[0].done():
            found.append(self._compiling.popleft().result())
        return found

    def collect(self) -> StepResult:
        """Give the result of the oldest plan."""
        return self._launched.popleft().result()


@dataclass(frozen=True, slots=True)
class Run:
    """Execute the plan."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing: the plan was run before, or comes from a scheduler that was replaced."""

    why: Literal["duplicate", "old epoch"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Run nothing and ask for a full plan. The fields are those of `schemas.steps.Resync`."""

    expected: int
    reason: Literal["started", "gap", "epoch"]


Verdict = Run | Ignore | Ask


@dataclass(frozen=True, slots=True)
class Follower:
    """Where a worker stands in the plans it hears."""

    epoch: str | None = None
    """The scheduler it follows; `None` until its first full plan."""
    expected: int = 0
    """The number of the next plan."""
    left: tuple[str, ...] = ()
    """Schedulers followed before, the latest last: what they still say is ignored."""


def follow(follower: Follower, plan: StepPlan) -> tuple[Follower, Verdict]:
    """Decide what to do with a plan, and where the worker stands then.

    A full plan is a place to start from at any number not yet run, and the only way to a new scheduler. After asking
    for one a worker stands where it stood, so each further plan asks again until the full one comes.
    """
    if plan.epoch in follower.left:
        return follower, Ignore("old epoch")
    if plan.epoch != follower.epoch:
        if not plan.full:
            return follower, Ask(follower.expected, "started" if follower.epoch is None else "epoch")
        left = follower.left if follower.epoch is None else (*follower.left, follower.epoch)[-_REMEMBERED:]
        return Follower(plan.epoch, plan.n + 1, left), Run()
    if plan.n < follower.expected:
        return follower, Ignore("duplicate")
    if plan.n > follower.expected and not plan.full:
        return follower, Ask(follower.expected, "gap")
    return replace(follower, expected=plan.n + 1), Run()
