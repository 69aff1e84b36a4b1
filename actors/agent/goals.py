"""Goals of threads, decided: the judge is asked after a run, and what it says leads to the next run or to none.

What the judge says and the run that follows are one commit: there is one such run, whoever dies. A run that fails, a
judge that cannot tell, and a budget that is used up pause the goal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding
from actors.agent.orders import nowhere, refused
from actors.agent.standing import Goal
from actors.agent.threads import misowned, owned
from actors.agent.turns import start
from actors.request_context import too_large
from actors.runtime.machine import Asked, Decision, Effect
from schemas.commands import Command, CommandData, RunAgent
from schemas.context import Context
from schemas.messages import Message
from schemas.profiles import Profile
from schemas.runs import CommandAccepted, Problem, RunFailed, RunQueued
from schemas.standing import (
    ClearGoal,
    GoalCleared,
    GoalJudged,
    GoalJudging,
    GoalPaused,
    GoalResumed,
    GoalSet,
    PauseGoal,
    ResumeGoal,
    SetGoal,
)

Steering = SetGoal | PauseGoal | ResumeGoal | ClearGoal


class JudgeGoal(Effect, frozen=True, kw_only=True):
    """Ask whether a goal is reached."""

    goal: Goal
    asked: RunAgent
    """What the next run is asked for with, but for what it is told."""
    profile: Profile
    """Of the run that ended."""
    messages: tuple[Message, ...]
    notes: dict[str, str]


def asked_with(state: Conversation, goal: Goal, text: str) -> RunAgent:
    """Give what a run of a goal is asked for with."""
    data = state.commands[goal.id].data
    assert isinstance(data, SetGoal)
    return first_run(data, goal.id, text)


def first_run(data: SetGoal, goal: str = "", text: str | None = None) -> RunAgent:
    """Give what the first run of a goal is asked for with."""
    said = data.text if text is None else text
    run = RunAgent(agent=data.agent, text=said, approvals=data.approvals, goal=goal)
    return replace(run, context=data.context, resource=data.resource)


def run_asked_for(data: CommandData, state: Conversation | None) -> RunAgent | None:
    """Give what a command asks a run for with, where it begins one."""
    if isinstance(data, SetGoal):
        return first_run(data)
    goal = None if state is None else state.standing.goal
    if isinstance(data, ResumeGoal) and state is not None and goal is not None:
        return asked_with(state, goal, goal.text)
    return data if isinstance(data, RunAgent) else None


def steer_goal(state: Conversation, asked: Asked, data: Steering, context: Context) -> Decision:
    """Set a thread a goal, pause it, go on with it or clear it; or refuse to."""
    command = asked.command
    problem = _unfit(state, data) or asked.missing
    if problem is not None:
        return refused(state, command, problem)
    folding = Folding(state)
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    match data:
        case SetGoal(agent=agent, text=text, budget=budget):
            owned(folding, first_run(data))
            goal = GoalSet(goal=command.id, agent=agent, text=text, budget=budget, by=command.source)
            folding.emit("thread", state.thread, goal)
            _begin(folding, _drawn(asked.profile, context), text)
        case PauseGoal(reason=reason):
            folding.emit("thread", state.thread, GoalPaused(reason=reason, by=command.source))
        case ResumeGoal(budget=more):
            assert state.standing.goal is not None
            budget = more or state.standing.goal.budget
            folding.emit("thread", state.thread, GoalResumed(budget=budget, by=command.source))
            if state.active is None and folding.state.standing.goal is not None:
                _begin(folding, _drawn(asked.profile, context), f"Go on.\nThe goal: {state.standing.goal.text}")
        case ClearGoal():
            folding.emit("thread", state.thread, GoalCleared(by=command.source))
    return folding.decision()


def _unfit_goal(state: Conversation, data: SetGoal) -> Problem | None:
    goal = state.standing.goal
    if goal is not None and goal.status != "done":
        message = f"thread {state.thread!r} has a goal, which is {goal.status}: `goal_clear` it first"
        return Problem(kind="invalid", message=message, field="goal")
    if too_large(data.context):
        return Problem(kind="invalid", message=too_large(data.context), field="context")
    return misowned(state, first_run(data))


def _unfit(state: Conversation, data: Steering) -> Problem | None:
    goal = state.standing.goal
    if isinstance(data, SetGoal):
        return _unfit_goal(state, data)
    if goal is None:
        message = f"thread {state.thread!r} has no goal: set one first"
        return nowhere(state) or Problem(kind="invalid", message=message, field="goal")
    wanted = {PauseGoal: ("active", "waiting"), ResumeGoal: ("paused", "waiting")}.get(type(data), (goal.status,))
    if goal.status not in wanted:
        message = f"the goal of thread {state.thread!r} is {goal.status}, not {' or '.join(wanted)}"
        return Problem(kind="invalid", message=message, field="goal")
    if isinstance(data, ResumeGoal) and goal.runs >= (data.budget or goal.budget):
        message = f"budget: {goal.runs} runs were begun for the goal: give more"
        return Problem(kind="invalid", message=message, field="budget")
    return None


def _drawn(profile: Profile | None, context: Context) -> Profile:
    assert profile is not None, "whoever looked it up found the agent"
    return replace(profile, sampling=replace(profile.sampling, seed=context.seed))


def _begin(folding: Folding, profile: Profile, text: str) -> None:
    """Begin the goal's next run, or have it wait for its turn."""
    state, goal = folding.state, folding.state.standing.goal
    assert goal is not None
    cause = state.commands[goal.id]
    command = Command(
        id=f"{goal.id}-g{goal.runs + 1}",
        tenant=state.tenant,
        kind="agent",
        thread=state.thread,
        verb="run",
        data=replace(asked_with(state, goal, text), agent=profile.agent),
        source="goal",
        traceparent=cause.traceparent,
    )
    folding.emit("thread", state.thread, CommandAccepted(command=command))
    if state.active is None:
        start(folding, command, profile)
    else:
        folding.emit("run", command.id, RunQueued(behind=state.active, profile=profile))


def go_on_with_goal(folding: Folding) -> None:
    """Have the judge asked about a run that has ended, once nothing else is under way, tasks included."""
    state, goal = folding.state, folding.state.standing.goal
    if goal is None:
        return
    failed = _why_it_failed(folding, goal)
    if failed:
        folding.emit("thread", state.thread, GoalPaused(reason=failed))
        return
    if not goal.due or state.active is not None or goal.judging is not None:
        return
    if goal.failure:
        folding.emit("thread", state.thread, GoalPaused(reason=f"run {goal.due!r} failed: {goal.failure}"))
        return
    if state.runs[goal.due].profile.edition > 1 and not all(task.ended for task in state.tasks.values()):
        return  # the run that is told of it is judged
    effect = f"{goal.due}-{state.runs[goal.due].step}-g"
    folding.emit("thread", state.thread, GoalJudging(effect=effect, run=goal.due))
    folding.effects += judge_goal(folding.state)


def _why_it_failed(folding: Folding, goal: Goal) -> str:
    """Say how a run of the goal has just failed, whatever runs or waits beside it."""
    if goal.status not in {"active", "waiting"}:
        return ""
    for _, name, event in folding.events:
        if not isinstance(event, RunFailed) or folding.state.runs[name].profile.edition <= 1:
            continue
        data = folding.state.commands[name].data
        if isinstance(data, RunAgent) and data.goal == goal.id:
            return f"run {name!r} failed: {event.problem.message}"
    return ""


def judge_goal(state: Conversation) -> list[JudgeGoal]:
    """Make the effect of a `goal.judging`, if the judge is asked."""
    goal = state.standing.goal
    if goal is None or goal.judging is None:
        return []
    run = goal.judging.run
    about: Mapping[str, Any] = {"messages": state.messages, "notes": dict(state.notes)}
    asked, trace = asked_with(state, goal, goal.text), state.commands[run].traceparent
    asked = replace(asked, agent=state.holder(asked.agent))
    place = (goal.judging.effect, "thread", state.thread, trace)
    return [JudgeGoal(*place, goal=goal, asked=asked, profile=state.runs[run].effective, **about)]


def after_judge(folding: Folding, judged: GoalJudged) -> None:
    """Begin the next run, where the goal is not reached and nothing else is under way."""
    state, goal = folding.state, folding.state.standing.goal
    if goal is None or goal.status != "active" or goal.due or state.active is not None:
        return  # of what has ended meanwhile the judge is asked anew
    if judged.verdict == "failed" or (judged.verdict == "go_on" and judged.profile is None):
        folding.emit("thread", state.thread, GoalPaused(reason=judged.reason))
    elif goal.runs >= goal.budget:
        reason = f"its budget of {goal.budget} runs is used up: {judged.reason}"
        folding.emit("thread", state.thread, GoalPaused(reason=reason))
    elif judged.profile is not None:
        because = f": {judged.reason}" if judged.reason else "."
        _begin(folding, judged.profile, f"The goal is not reached yet{because}\nGo on.\nThe goal: {goal.text}")
