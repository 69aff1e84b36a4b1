"""Models asked one after the other: the next one where one cannot be had, before its first word is heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.guarded import Guarded, elsewhere
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from actors.models.wires.failures import late
from schemas.models import ModelChain, ModelEntry, PassedOver
from schemas.programs import ProgramNote
from schemas.runs import Problem

log = logging.getLogger(__name__)

_FIRST_S = 0.5
_LONGEST_S = 8.0
"""The longest wait before a model of a chain is asked again: where more is asked for, the next one is."""

Pause = Callable[[float], Awaitable[None]]


class ChainFailed(CallFailed):
    """No model of a chain could be had."""

    def __init__(self, problem: Problem, passed: Sequence[PassedOver]) -> None:
        super().__init__(problem)
        self.passed = tuple(passed)


@dataclass(frozen=True)
class Chained:
    """The `ModelProvider` of a chain."""

    chain: ModelChain
    models: Mapping[str, ModelProvider]
    pause: Pause = asyncio.sleep

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask one after the other.

        Raises:
            ChainFailed: none could be had.
            CallFailed: one refused for a reason that every other would have too, or broke off after its first word.
        """
        passed: list[PassedOver] = []
        for entry in self.chain.entries:
            for again in range(entry.retries + 1):
                attempt = _Attempt(entry, on_text)
                try:
                    answer = await attempt.ask(self.models[entry.model], call)
                except CallFailed as failure:
                    if attempt.heard or not elsewhere(failure):
                        raise _with(failure, passed) from None
                    problem = failure.problem
                    # its words may quote what it was asked
                    log.warning("model %s cannot be had: %s", entry.model, problem.kind)
                    passed.append(PassedOver(entry.model, problem.kind, problem.message))
                    if again == entry.retries or problem.retry_after_ms > _LONGEST_S * 1000:
                        break
                    await self.pause(max(min(_FIRST_S * 2**again, _LONGEST_S), problem.retry_after_ms / 1000))
                else:
                    return replace(answer, passed_over=tuple(passed)) if passed else answer
        raise ChainFailed(_all(problem, passed), passed[:-1])

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the first one search.

        Raises:
            CallFailed: it cannot.
        """
        return await self.models[self.chain.entries[0].model].search(call)

    async def note(self, note: ProgramNote) -> None:
        """Tell all of them."""
        for entry in self.chain.entries:
            await self.models[entry.model].note(note)

    async def abort(self, request: str) -> None:
        """Stop it wherever it is."""
        for entry in self.chain.entries:
            await self.models[entry.model].abort(request)


class _Attempt:
    """One time that one entry is asked."""

    def __init__(self, entry: ModelEntry, on_text: OnText) -> None:
        self._entry = entry
        self._on_text = on_text
        self._first = asyncio.timeout(None)
        self.heard = False

    async def _hear(self, piece: Piece, /) -> None:
        self.heard = True
        self._first.reschedule(None)
        await self._on_text(piece)

    async def ask(self, model: ModelProvider, call: ModelCall) -> ModelAnswer:
        """Ask within the entry's bounds.

        Raises:
            CallFailed: it did not answer, or not in time.
        """
        entry = self._entry
        whole = asyncio.timeout(entry.total_s or None)
        asked = _asked(entry, call)
        try:
            async with whole, self._first:
                if entry.first_s:
                    self._first.reschedule(asyncio.get_running_loop().time() + entry.first_s)
                return await model.call(asked, self._hear)
        except TimeoutError:
            if not whole.expired() and not self._first.expired():
                raise
            await model.abort(asked.request)
            if isinstance(model, Guarded):
                model.breaker.missed(0)  # it was cut off, and could not tell that for itself
            if whole.expired():
                raise late(entry.model, f"it did not come to its end within {entry.total_s:g} s") from None
            raise late(entry.model, f"no word came within {entry.first_s:g} s") from None


def _asked(entry: ModelEntry, call: ModelCall) -> ModelCall:
    """Ask with the entry's own settings."""
    sampling = call.sampling
    if entry.temperature is not None:
        sampling = replace(sampling, temperature=entry.temperature)
    if entry.max_tokens is not None:
        sampling = replace(sampling, max_tokens=entry.max_tokens)
    options = {**call.options, **entry.options}
    headers = {**call.headers, **entry.headers}
    return replace(call, model=entry.model, sampling=sampling, options=options, headers=headers, chain=None)


def _with(failure: CallFailed, passed: Sequence[PassedOver]) -> CallFailed:
    return ChainFailed(failure.problem, passed) if passed else failure


def _all(problem: Problem, passed: Sequence[PassedOver]) -> Problem:
    """Tell of all of them where there was more than one."""
    names = list(dict.fromkeys(one.model for one in passed))
    if len(names) == 1:
        return problem
    return replace(problem, message=f"none of {', '.join(names)} could be had; the last: {problem.message}")
