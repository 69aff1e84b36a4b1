"""Sees that what a program sends is within its bounds, which a struct that is made does not look at."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from infra.errors import ThreadUnfit
from schemas.standing import GivenBudget, ResumeGoal, SetGoal

T = TypeVar("T")


class _Budgeted(msgspec.Struct):
    """What of a goal is bounded more narrowly than in logs."""

    budget: GivenBudget | None


def checked(data: T) -> T:
    """Give a command back.

    Raises:
        ThreadUnfit: one of its fields has a value that it cannot have; says which.
    """
    try:
        if isinstance(data, SetGoal | ResumeGoal):
            msgspec.convert({"budget": data.budget}, _Budgeted)
        return msgspec.convert(msgspec.to_builtins(data), type(data))
    except msgspec.ValidationError as error:
        raise ThreadUnfit(str(error)) from error
