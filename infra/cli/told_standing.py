"""What stands in a thread from here on, told in a line. Pure."""

from __future__ import annotations

from typing import assert_never

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


def told_of_standing(event: StandingEvent) -> tuple[str, str]:
    """Say who did it, and what in one line."""
    match event:
        case ModeChanged(mode=mode, by=by, agent=agent):
            return by or agent or "agent", f"goes over to mode {mode}"
        case ToolGranted(tool=tool, by=by, agent=agent):
            return by or "client", f"agrees to all calls of {tool}{' by ' if agent else ''}{agent}"
        case GrantWithdrawn(tool=tool, by=by):
            return by or "client", f"is to be asked about {tool} again"
        case GoalSet() | GoalPaused() | GoalResumed() | GoalCleared():
            return event.by or "goal", _told_of_goal(event)
        case GoalJudging(run=run):
            return "goal", f"is it reached by run {run}?"
        case GoalJudged(verdict=verdict, reason=reason):
            return "judge", f"{verdict}{': ' if reason else ''}{reason}"
        case _:
            assert_never(event)


def _told_of_goal(event: GoalSet | GoalPaused | GoalResumed | GoalCleared) -> str:
    match event:
        case GoalSet(agent=agent, text=text, budget=budget):
            return f"{agent} is to reach, in {budget} runs at most: {text}"
        case GoalPaused(reason=reason):
            return f"pauses the goal{': ' if reason else ''}{reason}"
        case GoalResumed(budget=budget):
            return f"goes on with the goal, in {budget} runs at most"
        case GoalCleared():
            return "clears the goal"
