"""`ostinato tasks`: the tool calls of a thread that go on in the background, and their end."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from actors.agent.task import Task
from actors.runtime.context import SystemChance
from bus import subjects
from infra.access import current_record
from infra.cli.asking import approval_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import printable, style_for
from infra.redaction import Redactor
from infra.running import folded, tasks_of
from schemas.commands import CancelTask


def main(options: argparse.Namespace) -> int:
    """List what goes on, or end one; exit code 1 when that is refused."""
    thread = subjects.checked(options.thread, "thread")
    if options.verb == "list":
        return asyncio.run(_list(options, thread))
    task = options.task or _only(asyncio.run(_found(options, thread)))
    if not task:
        return _problem(f"thread {thread!r}: name the task to end, as `ostinato tasks list {thread}` names it")
    with session(options.data, _notice) as line:
        outcome = line.send(approval_command(thread, CancelTask(task=task, reason=options.reason), options.tenant))
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"task {task} of thread {thread} is ended")
    else:
        return _problem(outcome.problem.message)
    return 0 if outcome.result == "accepted" else 1


def _only(tasks: tuple[Task, ...]) -> str:
    return tasks[0].effect if len(tasks) == 1 else ""


async def _list(options: argparse.Namespace, thread: str) -> int:
    tasks = await _found(options, thread)
    redactor = None if options.clear else Redactor(SystemChance().bits(128).to_bytes(16, "big"))
    for task in tasks:
        arguments = task.call.arguments if redactor is None else redactor.text(task.call.arguments)
        if options.json:
            say_json(_as_json(task, arguments))
        else:
            say(printable(f"{task.effect}  {task.agent} {task.call.name} {arguments}"))
    if not tasks and not options.json:
        say("nothing goes on in the background")
    return 0


def _as_json(task: Task, arguments: str) -> dict[str, Any]:
    about = {"task": task.effect, "run": task.run, "agent": task.agent, "tool": task.call.name}
    return {**about, "arguments": arguments, "attempts": task.attempts}


async def _found(options: argparse.Namespace, thread: str) -> tuple[Task, ...]:
    async with current_record(options.data) as (store, _):
        return tasks_of(folded(options.tenant, thread, await store.events_of_thread(options.tenant, thread)))


def _problem(text: str) -> int:
    sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {text}") + "\n")
    return 1


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
