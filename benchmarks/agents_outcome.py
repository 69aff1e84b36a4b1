"""What came of a run of programs, in numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.agents_programs import Row


@dataclass(slots=True)
class Served:
    """What one program saw."""

    row: Row
    completion_s: float = 0.0
    """From when it was to begin, whether or not the client let it, to its last token."""
    first_token_s: list[float] = field(default_factory=list)
    """Of each of its requests, from when it was asked for."""


@dataclass(slots=True)
class Outcome:
    """Of one engine and one seed."""

    rival: str
    programs: list[Served] = field(default_factory=list)
    span_s: float = 0.0
    output_tokens: int = 0
    prefilled: int = 0
    """Positions computed that are not those of a token just sampled."""
    recomputed: int = 0
    """Those of them that had been computed before."""
    counted: bool = True
    """Whether the engine says what it had in its cache, so that these two are known."""
    steps: int = 0
    preemptions: int = 0
    pauses: int = 0
    digest: str = ""

    @property
    def completions(self) -> list[float]:
        """How long programs took."""
        return [served.completion_s for served in self.programs]

    @property
    def recomputed_share(self) -> float | None:
        """Of what was prefilled; None where that is not known."""
        return self.recomputed / max(self.prefilled, 1) if self.counted else None


def quantile(values: Iterable[float], share: float) -> float:
    """Give the value that a share of them is at most."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def row(
    outcomes: Sequence[Outcome], alone_s: Mapping[tuple[int, int], float] | None = None, seeds: Sequence[int] = ()
) -> dict[str, float | str | None]:
    """Sum up one rival's runs, programs of all of them together: one line of the table.

    Args:
        outcomes: of one run or several.
        alone_s: by seed and program, how long it would take alone.
        seeds: of the runs, where that is known.
    """
    completions = [one for outcome in outcomes for one in outcome.completions]
    served = [one for outcome in outcomes for one in outcome.programs]
    first = [one.first_token_s[0] for one in served]
    later = [wait for one in served for wait in one.first_token_s[1:]] or [0.0]
    shares = [outcome.recomputed_share for outcome in outcomes]
    known = [share for share in shares if share is not None]
    told: dict[str, float | str | None] = {
        "rival": outcomes[0].rival,
        "mean_s": round(statistics.mean(completions), 1),
        "p50_s": round(quantile(completions, 0.5), 1),
        "p95_s": round(quantile(completions, 0.95), 1),
        "p99_s": round(quantile(completions, 0.99), 1),
        "ttft_first_p95_s": round(quantile(first, 0.95), 2),
        "ttft_later_p95_s": round(quantile(later, 0.95), 2),
        "recomputed": round(statistics.mean(known), 3) if len(known) == len(shares) else None,
        "tok_s": round(sum(one.output_tokens for one in outcomes) / sum(one.span_s for one in outcomes), 1),
        "preemptions": round(statistics.mean(outcome.preemptions for outcome in outcomes)),
        "pauses": round(statistics.mean(outcome.pauses for outcome in outcomes)),
    }
    if alone_s is not None:
        good = sum(
            one.completion_s <= 2 * alone_s[seed, one.row.program] and max(one.first_token_s) <= 1.0
            for seed, outcome in zip(seeds, outcomes, strict=True)
            for one in outcome.programs
        )
        told["good_per_min"] = round(60 * good / sum(outcome.span_s for outcome in outcomes), 2)
    return told
