"""What stands in a thread from here on: its mode, which tools may be called without asking, and its goal.

Commands on `in.<tenant>.agent.<thread>.<verb>`, and events of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.memory import Resource
from schemas.messages import Usage
from schemas.profiles import Profile
from schemas.wire import Wire

ModeName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ToolPattern = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""A tool's name, in which `*` stands for anything."""
Budget = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
"""As logs have it."""
GivenBudget = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
"""As it is given today: a thread keeps each of its runs."""

MOST_GRANTS = 256


class SetMode(Wire, frozen=True, tag="mode", forbid_unknown_fields=True):
    """Have the thread's agent be in a mode from its next step on. `in.<tenant>.agent.<thread>.mode`."""

    mode: ModeName


class GrantTool(Wire, frozen=True, tag="grant", forbid_unknown_fields=True):
    """Agree beforehand to all calls in this thread of tools whose rule lets one. `in.<tenant>.agent.<thread>.grant`."""

    tool: ToolPattern


class WithdrawGrant(Wire, frozen=True, tag="grant_withdraw", forbid_unknown_fields=True):
    """Be asked again. `in.<tenant>.agent.<thread>.grant_withdraw`."""

    tool: ToolPattern
    """As it was granted."""


class SetGoal(Wire, frozen=True, tag="goal", forbid_unknown_fields=True):
    """Have an agent go on by itself, run after run, until a goal is reached. `in.<tenant>.agent.<thread>.goal`."""

    agent: str
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
    """What is to be reached; the first run's message."""
    budget: Budget = 50
    """How many runs may be begun for it."""
    context: Mapping[str, Any] = {}
    """As of `schemas.commands.RunAgent`; so are those that follow."""
    approvals: Literal["ask", "refuse"] = "ask"
    resource: Resource = ""


class PauseGoal(Wire, frozen=True, tag="goal_pause", forbid_unknown_fields=True):
    """Begin no further run for the goal; one that is under way goes on. `in.<tenant>.agent.<thread>.goal_pause`."""

    reason: str = ""


class ResumeGoal(Wire, frozen=True, tag="goal_resume", forbid_unknown_fields=True):
    """Go on with the goal. `in.<tenant>.agent.<thread>.goal_resume`."""

    budget: Budget | None = None
    """How many runs may have been begun for it in all, from here on; None leaves it."""


class ClearGoal(Wire, frozen=True, tag="goal_clear", forbid_unknown_fields=True):
    """Have no goal any more; a run that is under way goes on. `in.<tenant>.agent.<thread>.goal_clear`."""


StandingCommand = SetMode | GrantTool | WithdrawGrant | SetGoal | PauseGoal | ResumeGoal | ClearGoal


class ModeChanged(Wire, frozen=True, tag="mode.changed"):
    """The thread's agent is in this mode from its next step on."""

    mode: str
    by: str = ""
    """Source of the command; empty for a tool's."""
    agent: str = ""
    """Whose mode it is; empty is any agent's of the thread."""


class ToolGranted(Wire, frozen=True, tag="tool.granted"):
    """Somebody agreed beforehand to calls of tools that are named like this."""

    tool: str
    by: str = ""
    """Source of the command."""
    agent: str = ""
    """Whose tool it was that somebody agreed to; empty is any agent's of the thread."""
    digest: str = ""
    """Of the tool as it was then, as in its binding; empty is whatever it is."""


class GrantWithdrawn(Wire, frozen=True, tag="grant.withdrawn"):
    """Somebody is asked again."""

    tool: str
    by: str = ""
    """Source of the command."""


Verdict = Literal["done", "go_on", "waiting", "failed"]
"""Of a goal: it is reached, or not yet, or only the user can say how to go on; or nobody could judge."""


class GoalSet(Wire, frozen=True, tag="goal.set"):
    """The thread has this goal from here on; the run that begins for it follows."""

    goal: str
    """The id of the command, which holds the rest."""
    agent: str
    text: str
    budget: int
    by: str = ""
    """Source of the command."""


class GoalJudging(Wire, frozen=True, tag="goal.judging"):
    """The intention to ask whether the goal is reached, after a run."""

    effect: str
    """Structural: `<run>-<step>-g`."""
    run: str


class GoalJudged(Wire, frozen=True, tag="goal.judged"):
    """What the judge said."""

    effect: str
    verdict: Verdict
    reason: str = ""
    profile: Profile | None = None
    """The agent as it is by now, where it goes on."""
    usage: Usage = Usage()
    """Of the judge."""
    cost: float | None = 0.0
    """Of that, US dollars; None where the price is not known."""
    agent: str = ""
    """Whose run was judged."""
    engine: str = ""
    """Where a model judged, the one that answered."""


class GoalPaused(Wire, frozen=True, tag="goal.paused"):
    """No run is begun for the goal until somebody resumes it."""

    reason: str = ""
    by: str = ""
    """Source of the command; empty where it came to that by itself."""


class GoalResumed(Wire, frozen=True, tag="goal.resumed"):
    """The thread goes on with its goal."""

    budget: int
    by: str = ""
    """Source of the command."""


class GoalCleared(Wire, frozen=True, tag="goal.cleared"):
    """The thread has no goal any more."""

    by: str = ""
    """Source of the command."""


StandingEvent = (
    ModeChanged
    | ToolGranted
    | GrantWithdrawn
    | GoalSet
    | GoalJudging
    | GoalJudged
    | GoalPaused
    | GoalResumed
    | GoalCleared
)
