"""`ostinato goal`: have an agent go on by itself until a goal is reached."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from actors.agent.standing import Goal
from infra.access import current_record
from infra.cli.asking import standing_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import printable, style_for
from infra.fitting import checked
from infra.goals import standing_of
from schemas.standing import (
    ClearGoal,
    GrantTool,
    PauseGoal,
    ResumeGoal,
    SetGoal,
    SetMode,
    StandingCommand,
    WithdrawGrant,
)

_DONE = {
    "set": "has a goal",
    "pause": "begins no further run for its goal",
    "resume": "goes on with its goal",
    "clear": "has no goal",
    "mode": "goes over to that mode",
    "grant": "does not ask about that any more",
    "withdraw": "asks about that again",
}


def main(options: argparse.Namespace) -> int:
    """Run one verb; exit code 1 when it is refused, or there is no goal to show."""
    if options.verb == "show":
        return asyncio.run(_show(options))
    command = standing_command(options.thread, _wanted(options), options.tenant)
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"thread {command.thread} {_DONE[options.verb]}")
    else:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 0 if outcome.result == "accepted" else 1


def _wanted(options: argparse.Namespace) -> StandingCommand:
    match options.verb:
        case "set":
            return checked(SetGoal(options.agent, options.text, options.budget))
        case "pause":
            return PauseGoal(options.reason)
        case "resume":
            return checked(ResumeGoal(options.budget))
        case "clear":
            return ClearGoal()
        case _:
            return _order(options)


def _order(options: argparse.Namespace) -> StandingCommand:
    if options.verb == "mode":
        return checked(SetMode(options.mode))
    return checked(GrantTool(options.tool) if options.verb == "grant" else WithdrawGrant(options.tool))


async def _show(options: argparse.Namespace) -> int:
    async with current_record(options.data) as (store, _):
        goal = (await standing_of(store, options.tenant, options.thread)).goal
    if goal is None:
        sys.stderr.write(f"ostinato: thread {options.thread!r} has no goal\n")
        return 1
    if options.json:
        say_json(msgspec.to_builtins(goal))
    else:
        say(told(goal))
    return 0


def told(goal: Goal) -> str:
    """Say how a goal stands, in a line."""
    judging = ", being judged" if goal.judging is not None else ""
    why = f": {goal.reason}" if goal.reason else ""
    return printable(f"{goal.status}{judging}, {goal.runs} of {goal.budget} runs{why}\n{goal.text}")


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
