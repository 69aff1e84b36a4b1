"""Counts what the bridge answers, and what it refuses: an operator is to see overload and keys that do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Scope

ROUTE: Final = "ostinato.route"
"""Where a request's scope holds the path of its route, as it is written in the table."""
PROBLEM: Final = "ostinato.problem"
"""Where it holds the code of the error that it is answered with."""
NOWHERE: Final = "none"
"""The route of what no route was found for: its paths are whatever anybody sends."""

_REFUSING: Final = frozenset({401, 403, 413, 429, 503})
_USUAL: Final = (
    (401, "invalid_api_key"),
    (403, "insufficient_scope"),
    (413, "too_large"),
    (429, "overloaded"),
    (429, "rate_limit_exceeded"),
    (503, "draining"),
    (503, "overloaded"),
    (503, "unavailable"),
)
"""Told from the start, so that a rate sees the first of a kind too."""


@dataclass
class Answers:
    """Counts since the bridge began."""

    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status."""
    refused: Counter[tuple[int, str]] = field(default_factory=lambda: Counter(dict.fromkeys(_USUAL, 0)))
    """By status and code."""

    def expect(self, routes: Iterable[str]) -> None:
        """Tell from the start of internal errors of so many routes, as of what is usual."""
        for route in (*routes, NOWHERE):
            self.answered[route, 500] += 0

    def count(self, scope: Scope, status: int) -> None:
        """Count an answer that begins."""
        self.answered[scope.get(ROUTE, NOWHERE), status] += 1
        if status in _REFUSING and PROBLEM in scope:
            self.refused[status, scope[PROBLEM]] += 1

    def statistics(self) -> dict[str, Any]:
        """Say what was counted."""
        answered = [(route, status, count) for (route, status), count in sorted(self.answered.items())]
        refused = [(status, code, count) for (status, code), count in sorted(self.refused.items())]
        return {"answered": answered, "refused": refused}
