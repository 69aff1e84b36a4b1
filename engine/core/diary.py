"""What a scheduler was told, in order: with it any of its plans can be made again."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from engine.config import SchedulerConfig
from schemas.steps import Began, Submitted, Told, ToldMore

MOST = 1024
"""Entries after which they are told without waiting for a plan."""


class Diary:
    """Collects what a scheduler is told between two plans."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._told: list[Told] = [Began(msgspec.structs.asdict(config))]

    def note(self, told: Told) -> None:
        """Remember what changed something."""
        self._told.append(told)

    def take(self, arriving: Collection[str]) -> tuple[Told, ...]:
        """Tell all since the last time; the tokens of requests that arrive in the same plan stand there already."""
        told, self._told = self._told, []
        return tuple(_without_tokens(one, arriving) if type(one) is Submitted else one for one in told)

    def spill(self, epoch: str, n: int) -> ToldMore | None:
        """Tell all since the last time if it is very much: no plan may come for long."""
        if len(self._told) < MOST:
            return None
        return ToldMore(epoch, n, self.take(()))


def _without_tokens(told: Submitted, arriving: Collection[str]) -> Submitted:
    if told.submit.request not in arriving:
        return told
    return Submitted(msgspec.structs.replace(told.submit, prompt=(), output=()))
