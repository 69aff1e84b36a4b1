"""Runs the checks side by side, each within its bound; a check that fails or hangs is itself a finding."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.doctor.finding import Finding, problem, warning

BOUND_S = 4.0


@dataclass(frozen=True, slots=True)
class Check:
    """A question with a name; its probes are bound already."""

    name: str
    ask: Callable[[], Finding]
    bound_s: float = BOUND_S


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Return one finding per check, in their order, when all have answered or their time is over."""
    found: dict[str, Finding] = {}

    def answer(check: Check) -> None:
        try:
            found[check.name] = check.ask()
        except Exception as error:  # noqa: BLE001  whatever a check raises is what the user must hear
            says = f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}"
            found[check.name] = problem(check.name, says, "please report this line")

    # daemons: a check that hangs in the kernel must not keep the command alive
    threads = [threading.Thread(target=answer, args=(check,), daemon=True) for check in checks]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for check, thread in zip(checks, threads, strict=True):
        thread.join(max(0.0, begun + check.bound_s - time.monotonic()))
    return [found.get(check.name) or _late(check) for check in checks]


def _late(check: Check) -> Finding:
    return warning(check.name, f"no answer within {check.bound_s:g} s", "see what keeps the disk or network busy")
