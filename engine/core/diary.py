"""What a scheduler was told, in order: with it any of its plans can be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from engine.config import SchedulerConfig
from engine.core.step import Planned
from schemas.generation import Sampling, Submit
from schemas.programs import ProgramNote
from schemas.steps import (
    Aborted,
    Applied,
    Began,
    Compiled,
    Expired,
    Forgot,
    Noted,
    Prepared,
    Resynced,
    StepResult,
    Submitted,
    Told,
    ToldMore,
    Tried,
)

MOST = 1024
"""Entries after which they are told without waiting for a plan."""
MOST_TOKENS = 200_000
"""Tokens of requests after which they are: a message holds about a million."""


class Diary:
    """Collects what a scheduler is told between two plans."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._told: list[Told] = [
            Began({name: limit for name, limit in msgspec.structs.asdict(config).items() if limit is not None})
        ]
        self._tokens = 0

    def submitted(self, submit: Submit, time: int = 0) -> None:
        """A request was taken on."""
        self._told.append(Submitted(submit, time))
        structured = submit.sampling.structured
        self._tokens += (
            len(submit.prompt) + len(submit.output) + (structured.size // 4 if structured is not None else 0)
        )

    def aborted(self, request: str) -> None:
        """A request was ended by those who asked for it."""
        self._told.append(Aborted(request))

    def expired(self, time: int) -> None:
        """Requests were ended because they were late."""
        self._told.append(Expired(time))

    def applied(self, planned: Iterable[Planned], result: StepResult, tokens: Mapping[str, int]) -> None:
        """The result of the first step under way was taken in; `tokens` are those that it brings, by request."""
        sampled = tuple([tokens.get(request.id) for request, part, _ in planned if part.sample])
        failed = tuple(request for request, _ in result.errors)
        self._told.append(Applied(result.n, sampled, failed, result.whole, result.closed))

    def lost(self, n: int) -> None:
        """The result of a later step came before that of the first."""
        self._told.append(Applied(n))

    def resynced(self, worker: str, blocks: int) -> None:
        """A worker asked for a full plan."""
        self._told.append(Resynced(worker, blocks))

    def compiled(self, prepared: Prepared) -> None:
        """A worker said what became of a grammar."""
        self._told.append(Compiled(prepared.key, prepared.worker, prepared.problem))

    def forgot(self) -> None:
        """The prefix cache was emptied."""
        self._told.append(Forgot())

    def tried(self, time: int) -> None:
        """Planning took blocks away and came to no plan."""
        self._told.append(Tried(time))

    def noted(self, note: ProgramNote, time: int) -> None:
        """Something was heard of a program."""
        self._told.append(Noted(note, time))

    def take(self, arriving: Collection[str]) -> tuple[Told, ...]:
        """Tell all since the last time; what requests that arrive in the same plan bring stands there already."""
        told, self._told, self._tokens = self._told, [], 0
        return tuple(_without_tokens(one, arriving) if type(one) is Submitted else one for one in told)

    def spill(self, epoch: str, n: int) -> ToldMore | None:
        """Tell all since the last time if it is very much: no plan may come for long."""
        if len(self._told) < MOST and self._tokens < MOST_TOKENS:
            return None
        return ToldMore(epoch, n, self.take(()))


def _without_tokens(told: Submitted, arriving: Collection[str]) -> Submitted:
    if told.submit.request not in arriving:
        return told
    return Submitted(msgspec.structs.replace(told.submit, prompt=(), output=(), sampling=Sampling()), told.time)
