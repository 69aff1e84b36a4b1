"""What stands in a thread, as the REST API tells it and takes it: its mode, grants and goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.memory import Resource
from schemas.messages import Usage
from schemas.standing import GivenBudget, ModeName, ToolPattern
from schemas.wire import Wire


class GoalSetting(Wire, frozen=True, forbid_unknown_fields=True):
    """What a thread's agent is to reach by itself."""

    agent: str
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
    budget: GivenBudget = 50
    """How many runs may be begun for it."""
    context: Mapping[str, Any] = {}
    approvals: Literal["ask", "refuse"] = "ask"
    """Whether there is somebody who can be asked."""
    resource: Resource = ""


class GoalResuming(Wire, frozen=True, forbid_unknown_fields=True):
    """How a goal is gone on with."""

    budget: GivenBudget | None = None
    """How many runs may have been begun for it in all, from here on; None leaves it."""


class GoalShown(Wire, frozen=True, omit_defaults=False):
    """A goal, and how it stands."""

    id: str
    agent: str
    text: str
    status: Literal["active", "waiting", "paused", "done"]
    reason: str
    """Why it stands like that."""
    runs: int
    """How many were begun for it."""
    budget: int
    judging: bool
    """Whether the judge is being asked."""
    usage: Usage
    """Of the judge."""
    cost: float | None
    """Of that, US dollars; None where the price is not known."""


class StandingShown(Wire, frozen=True, omit_defaults=False):
    """What stands in a thread."""

    mode: str
    """The one that was gone over to last; empty is the first one of whichever agent runs."""
    grants: tuple[str, ...]
    goal: GoalShown | None


class ModeSetting(Wire, frozen=True, forbid_unknown_fields=True):
    """The mode that a thread's agent is to be in."""

    mode: ModeName


class Granting(Wire, frozen=True, forbid_unknown_fields=True):
    """What is agreed to beforehand."""

    tool: ToolPattern
    """A tool's name, in which `*` stands for anything."""
