"""A step that was launched, and what it will have come to.

On an accelerator a step is launched while what came of the one before is on its way: the host prepares it while the
device computes. A processor computes a step when its result is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.runner.landing import Landed
from schemas.steps import StepResult


class Pending(Protocol):
    """A step that was launched."""

    @property
    def under_way(self) -> bool:
        """Whether a device computes it by itself: then it is worth while to launch another one meanwhile."""

    def wait(self) -> None:
        """Wait until it is computed, in any thread; what is not under way is not waited for."""

    def result(self) -> StepResult:
        """Give what came of it, in the thread that launches, in the order of launches."""


class Deferred:
    """Is computed when it is wanted."""

    under_way = False

    def __init__(self, execute: Callable[[], StepResult]) -> None:
        self._execute = execute

    def wait(self) -> None:
        """See `Pending`."""

    def result(self) -> StepResult:
        """See `Pending`."""
        return self._execute()


class Launched:
    """Is computed by now, or soon."""

    under_way = True

    def __init__(self, landed: Landed, finish: Callable[[], StepResult]) -> None:
        """Take what is waited for, and what then puts the result together; it is asked once."""
        self._landed = landed
        self._finish = finish
        self._result: StepResult | None = None

    def wait(self) -> None:
        """See `Pending`."""
        self._landed.wait()

    def result(self) -> StepResult:
        """See `Pending`."""
        if self._result is None:
            self._result = self._finish()
        return self._result
