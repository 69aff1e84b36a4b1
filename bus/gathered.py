"""Pieces of text that are kept soon: those of a call that follow one another become one record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from schemas.live import Delta

SOON_S: Final = 0.25
"""How long a piece waits for those behind it."""


class Gathered:
    """Holds deltas for a moment, and hands them on joined up.

    A model says some ten to a hundred pieces a second of every call, and a record costs about the same however much
    text it holds. Watchers hear each piece; a reader of the record goes by offsets.
    """

    def __init__(self, keep: Callable[[str, Delta], None]) -> None:
        """Make it; `keep` is called with (subject, what was joined up)."""
        self._keep = keep
        self._held: dict[tuple[str, str, int, int | None], list[Delta]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subject: str, delta: Delta) -> None:
        """Hold a piece for at most `SOON_S`."""
        key = (subject, delta.effect, delta.choice, None if delta.call is None else delta.call.index)
        held = self._held.setdefault(key, [])
        if held and not _follows(delta, held[-1]):
            self._keep(subject, joined(held))
            held.clear()
        held.append(delta)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self.flush)

    def flush(self) -> None:
        """Hand on all that is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, {}
        for (subject, *_), deltas in held.items():
            self._keep(subject, joined(deltas))


def joined(deltas: Sequence[Delta]) -> Delta:
    """Join pieces that follow one another."""
    first, *others = deltas
    if not others:
        return first
    return replace(
        first,
        text="".join(delta.text for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        logprobs=tuple(told for delta in deltas for told in delta.logprobs),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        arguments="".join(delta.arguments for delta in deltas),
    )


def _follows(delta: Delta, before: Delta) -> bool:
    """Whether nothing lies between two pieces of a call."""
    return (
        delta.version == before.version
        and delta.offset == before.offset + len(before.text)
        and delta.reasoning_offset == before.reasoning_offset + len(before.reasoning)
        and delta.arguments_offset == before.arguments_offset + len(before.arguments)
        and delta.token_offset == before.token_offset + max(len(before.logprobs), len(before.token_ids))
    )
