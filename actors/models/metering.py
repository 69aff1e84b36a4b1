"""What model calls take, counted where they are made: the client's half of OpenTelemetry's metrics of generative AI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from actors.models.provider import ModelCall
from actors.tally import Tally
from schemas.messages import Usage

TOKENS: Final = tuple(4**power for power in range(14))
DURATIONS: Final = tuple(round(0.01 * 2**power, 2) for power in range(14))
CHUNKS: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds that the conventions want."""
_MOST_ROWS: Final = 512
"""Models and errors that are told apart: a client may name what it likes, and what there is none of is not counted."""
OURS: Final = "ostinato"
"""The provider of what is served here."""


class Kind(NamedTuple):
    """What calls are told apart by."""

    operation: str
    provider: str
    model: str
    error: str = ""
    """What kind of problem they ended with; empty where with an answer."""


def provider_of(model: str) -> str:
    """Say who serves a model, by its name."""
    return model.split("/", 1)[0] if "/" in model else OURS


class CallMeter:
    """Counts for one process."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        """Make it; `now` gives seconds that only ever grow, those of the event loop unless given."""
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._rows: dict[Kind, dict[str, Tally]] = {}

    def begin(self, call: ModelCall) -> Stopwatch:
        """Begin to measure a call."""
        operation = "chat" if call.prompt is None else "text_completion"
        return Stopwatch(self, Kind(operation, provider_of(call.model), call.model), self._now)

    def add(self, kind: Kind, name: str, value: float) -> None:
        """Count a value."""
        row = self._rows.get(kind)
        if row is None:
            if len(self._rows) >= _MOST_ROWS:
                return
            row = self._rows[kind] = {}
        row.setdefault(name, Tally(_BOUNDS[name])).add(value)

    def numbers(self) -> list[dict[str, Any]]:
        """Say what was counted, by kind."""
        return [
            {**kind._asdict(), "histograms": {name: tally.numbers() for name, tally in row.items()}}
            for kind, row in self._rows.items()
        ]


_BOUNDS: Final = {
    "input_tokens": TOKENS,
    "output_tokens": TOKENS,
    "duration": DURATIONS,
    "time_to_first_chunk": CHUNKS,
    "time_per_output_chunk": CHUNKS,
}


class Stopwatch:
    """Measures one call."""

    __slots__ = ("_began", "_kind", "_last", "_meter", "_now")

    def __init__(self, meter: CallMeter, kind: Kind, now: Callable[[], float]) -> None:
        self._meter = meter
        self._kind = kind
        self._now = now
        self._began = now()
        self._last = 0.0

    def heard(self) -> None:
        """Note a piece of the answer."""
        now = self._now()
        if self._last:
            self._meter.add(self._kind, "time_per_output_chunk", now - self._last)
        else:
            self._meter.add(self._kind, "time_to_first_chunk", now - self._began)
        self._last = now

    def answered(self, usage: Usage) -> None:
        """Note the answer."""
        self._meter.add(self._kind, "input_tokens", usage.prompt_tokens)
        self._meter.add(self._kind, "output_tokens", usage.completion_tokens)
        self._meter.add(self._kind, "duration", self._now() - self._began)

    def failed(self, problem: str) -> None:
        """Note the kind of problem that there is in place of an answer."""
        self._meter.add(self._kind._replace(error=problem), "duration", self._now() - self._began)
