"""What a run found: one row a fault, what went wrong while it was under way, and how fast all served again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.fault import Fault
from tests.chaos.oracle import Finding, Verdict

CALM = "no fault under way"
_MOST = 10


@dataclass(slots=True)
class Trials:
    """What happened with one fault."""

    recovery_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    """When each trial began and all was well again, seconds since the Unix epoch."""


@dataclass(slots=True)
class Report:
    """A whole run."""

    seed: int
    faults: Sequence[Fault]
    trials: dict[str, Trials]
    missing: dict[str, str]
    """Faults that could not be tried here, and why."""
    verdict: Verdict
    kills: int
    seconds: float
    own: Sequence[str] = ()
    """Wrong answers that are the model's own: it gave them in the calm after the fire too."""

    def figures(self) -> dict[str, float]:
        """Give the figures of `benchmarks/chaos.py`."""
        tried = [fault for fault in self.faults if fault.name in self.trials]
        serving = [s for f in tried if f.kills and f.recovers == "commands" for s in self.trials[f.name].recovery_s]
        return {
            "kills": self.kills,
            "lost": len(self.verdict.lost),
            "duplicated": len(self.verdict.duplicated),
            "reordered": len(self.verdict.reordered),
            "recovery_p99_s": round(_p99(serving), 3) if serving else 0.0,
            "commands": self.verdict.commands,
            "events": self.verdict.events,
            "tool_calls": self.verdict.tool_calls,
        }

    def broken(self) -> list[str]:
        """List the promises that did not hold, and the faults after which nothing served again."""
        verdict = self.verdict
        failures = [f"{name}: {failure}" for name, trials in self.trials.items() for failure in trials.failures]
        found = [*verdict.lost, *verdict.duplicated, *verdict.reordered, *verdict.wrong]
        return [*map(str, found), *failures]

    def table(self) -> str:
        """Print one line a fault."""
        heads = f"{'trials':>6} {'lost':>5} {'duplicated':>11} {'reordered':>10} {'recovery p50':>13} {'p99':>8}"
        lines = [f"{'fault':<24} {heads}"]
        for name in (*(fault.name for fault in self.faults), CALM):
            trials = self.trials.get(name, Trials())
            if name in self.missing:
                lines.append(f"{name:<24} skipped: {self.missing[name]}")
            elif trials.recovery_s or any(self._counts(name)):
                lines.append(self._row(name, trials.recovery_s))
            elif not trials.failures and name != CALM:
                lines.append(f"{name:<24} {0:>6} not reached in this time")
            lines += [f"{name:<24} FAILED: {failure}" for failure in trials.failures]
        return "\n".join((*lines, *self._sum()))

    def _row(self, name: str, recovery_s: Sequence[float]) -> str:
        lost, duplicated, reordered = self._counts(name)
        row = f"{name:<24} {len(recovery_s):>6} {lost:>5} {duplicated:>11} {reordered:>10}"
        return f"{row} {statistics.median(recovery_s):>11.2f} s {_p99(recovery_s):>6.2f} s" if recovery_s else row

    def _counts(self, name: str) -> tuple[int, int, int]:
        verdict = self.verdict
        lost, duplicated, reordered = (
            sum(self.under_way(finding) == name for finding in found)
            for found in (verdict.lost, verdict.duplicated, verdict.reordered)
        )
        return lost, duplicated, reordered

    def under_way(self, finding: Finding) -> str:
        """Name the fault that a finding belongs to: the first while its question was open, else the last before it."""
        spans = sorted((*span, name) for name, trials in self.trials.items() for span in trials.times)
        meanwhile = [name for began, ended, name in spans if began <= finding.ended and ended >= finding.began > 0]
        before = [name for began, _, name in spans if began <= finding.began]
        return (meanwhile or before[-1:] or [CALM])[0]

    def _sum(self) -> list[str]:
        verdict = self.verdict
        lines = [
            f"\nseed {self.seed}: {self.kills} kills in {self.seconds:.0f} s; {verdict.commands} commands, "
            f"{verdict.events} events, {verdict.tool_calls} tool calls, "
            f"{verdict.poison} poisonous commands; lost {len(verdict.lost)}, "
            f"duplicated {len(verdict.duplicated)}, reordered {len(verdict.reordered)}",
            f"{verdict.verified} threads decided the same again; {verdict.in_doubt} tool calls in doubt, and told so",
            f"errands: {_counted(verdict.errands)}; came to nothing: {_counted(verdict.came_to_nothing)}",
        ]
        for what in ("lost", "duplicated", "reordered", "wrong"):
            found: list[Finding] = getattr(verdict, what)
            lines += [f"  {what} ({self.under_way(finding)}): {finding}" for finding in found[:_MOST]]
        lines += [f"  the model's own mistake: {sentence}" for sentence in self.own[:_MOST]]
        return lines


def _counted(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()) if count) or "none"


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
