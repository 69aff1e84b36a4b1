"""What stands in a thread, as a fold over its events: its mode, grants and goal."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, assert_never

import msgspec
from msgspec.structs import replace

from schemas.commands import Command, RunAgent
from schemas.messages import Usage, added
from schemas.profiles import Profile, ToolBinding
from schemas.runs import RunFailed, RunFinished
from schemas.standing import (
    GoalCleared,
    GoalJudged,
    GoalJudging,
    GoalPaused,
    GoalResumed,
    GoalSet,
    GrantWithdrawn,
    ModeChanged,
    StandingEvent,
    ToolGranted,
)

GoalStatus = Literal["active", "waiting", "paused", "done"]


class Goal(msgspec.Struct, frozen=True):
    """What a thread's agent is to reach by itself."""

    id: str
    """Of the command that set it."""
    agent: str
    text: str
    budget: int
    """How many runs may be begun for it."""
    runs: int = 0
    """How many were."""
    status: GoalStatus = "active"
    reason: str = ""
    """Why it stands like that, as the judge or whoever paused it says."""
    due: str = ""
    """A run that has ended, of which the judge is still to be asked."""
    failure: str = ""
    """Why that one came to nothing."""
    judging: GoalJudging | None = None
    """What the judge is asked about."""
    usage: Usage = Usage()
    """Of the judge."""
    cost: float | None = 0.0


class Grant(msgspec.Struct, frozen=True):
    """What somebody agreed to beforehand."""

    tool: str
    """A pattern of tools' names."""
    agent: str = ""
    """Whose tools; empty is any agent's."""
    digest: str = ""
    """What the tool must be, as in its binding; empty is whatever it is."""

    def covers(self, agent: str, tool: ToolBinding) -> bool:
        """Say whether a tool of an agent is one that was agreed to."""
        fits = self.agent in {"", agent} and self.digest in {"", tool.digest}
        return fits and fnmatchcase(tool.name, self.tool)


class Standing(msgspec.Struct, frozen=True):
    """What holds until somebody says otherwise."""

    mode: str = ""
    """The one that was gone over to last, by whichever agent; empty is the first one of whichever runs."""
    modes: Mapping[str, str] = {}
    """By agent, those that went over to one by themselves; by an empty name what holds for all others."""
    granted: tuple[Grant, ...] = ()
    goal: Goal | None = None

    @property
    def grants(self) -> tuple[str, ...]:
        """The patterns of tools' names that somebody agreed to, whosever the tools are."""
        return tuple(dict.fromkeys(grant.tool for grant in self.granted))

    def mode_of(self, agent: str) -> str:
        """Name the mode that an agent is in; empty is its first one."""
        return self.modes.get(agent, self.modes.get("", ""))

    def is_granted(self, agent: str, tool: ToolBinding) -> bool:
        """Say whether somebody agreed beforehand to calls of an agent's tool that a person must agree to."""
        return tool.grantable and any(grant.covers(agent, tool) for grant in self.granted)


def named_by(profile: Profile) -> str:
    """Name a run's agent as what stands by it does: empty in what older versions recorded."""
    return profile.agent if profile.edition > 1 else ""


def stood(standing: Standing, event: StandingEvent) -> Standing:
    """Fold one fact. Never fails: the event has already happened."""
    match event:
        case ModeChanged(mode=mode, agent=agent):
            return replace(standing, mode=mode, modes={**standing.modes, agent: mode} if agent else {"": mode})
        case ToolGranted(tool=tool, agent=agent, digest=digest):
            others = (grant for grant in standing.granted if (grant.tool, grant.agent) != (tool, agent))
            return replace(standing, granted=(*others, Grant(tool, agent, digest)))
        case GrantWithdrawn(tool=tool):
            return replace(standing, granted=tuple(grant for grant in standing.granted if grant.tool != tool))
        case GoalSet(goal=goal, agent=agent, text=text, budget=budget):
            return replace(standing, goal=Goal(goal, agent, text, budget))
        case GoalCleared():
            return replace(standing, goal=None)
        case GoalJudging() | GoalJudged() | GoalPaused() | GoalResumed():
            return standing if standing.goal is None else replace(standing, goal=_moved(standing.goal, event))
        case _:
            assert_never(event)


def _moved(goal: Goal, event: GoalJudging | GoalJudged | GoalPaused | GoalResumed) -> Goal:
    match event:
        case GoalJudging():
            return replace(goal, judging=event, due="", failure="")
        case GoalJudged():
            return _judged(goal, event)
        case GoalPaused(reason=reason):
            return replace(goal, status="paused", reason=reason, due="", failure="")
        case GoalResumed(budget=budget):
            return replace(goal, status="active", reason="", budget=budget)
        case _:
            assert_never(event)


def _judged(goal: Goal, event: GoalJudged) -> Goal:
    if goal.judging is None or goal.judging.effect != event.effect:
        return goal  # of a goal that was cleared meanwhile
    goal = replace(goal, judging=None, usage=goal.usage + event.usage, cost=added(goal.cost, event.cost))
    if event.verdict == "done":
        return replace(goal, status="done", reason=event.reason, due="", failure="")
    if event.verdict == "waiting" and goal.status == "active" and not goal.due:
        return replace(goal, status="waiting", reason=event.reason)
    return replace(goal, reason=event.reason) if goal.status == "active" else goal


def accepted(standing: Standing, command: Command) -> Standing:
    """Count a run that is begun for the goal."""
    goal, data = standing.goal, command.data
    if goal is None or not isinstance(data, RunAgent) or data.goal != goal.id:
        return standing
    return replace(standing, goal=replace(goal, runs=goal.runs + 1))


def began(standing: Standing) -> Standing:
    """Note that a run begins: whoever was waited for has spoken, and what ended before it is not judged any more."""
    goal = standing.goal
    if goal is None or (goal.status != "waiting" and not goal.due):
        return standing
    status: GoalStatus = "active" if goal.status == "waiting" else goal.status
    return replace(standing, goal=replace(goal, status=status, due="", failure=""))


def ended(standing: Standing, run: str, event: RunFinished | RunFailed) -> Standing:
    """Note that a run has ended, of which the judge is to be asked."""
    goal = standing.goal
    if goal is None or goal.status not in {"active", "waiting"}:
        return standing
    failure = event.problem.message if isinstance(event, RunFailed) else ""
    return replace(standing, goal=replace(goal, status="active", due=run, failure=failure))


def parted(standing: Standing) -> Standing:
    """Leave the origin of a fork: what it was after by itself, a copy is not."""
    goal = standing.goal
    if goal is None or goal.status == "done":
        return standing
    at_rest = replace(goal, status="paused", reason="the thread is a fork", due="", failure="", judging=None)
    return replace(standing, goal=at_rest)
