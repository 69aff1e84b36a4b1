"""`ostinato replay fork`: a new thread that begins as another did, up to one of its events, and goes on from there."""

from __future__ import annotations

import argparse
import asyncio
import sys

from actors.agent.wishes import waiting
from bus.errors import BadSubject
from infra.access import runtime_of
from infra.cli.asking import fork_command, unicode_text
from infra.cli.hints import chat_on, on_data, program
from infra.cli.printing import say_json
from infra.cli.replay.source import source
from infra.cli.session import session
from infra.cli.speech import Speech
from infra.cli.terminal import style_for
from infra.errors import ForkUnfit, NothingRecorded
from infra.forking import Plan, parsed, plan
from schemas.commands import Command
from schemas.errors import SchemaError
from schemas.live import Committed, Outcome
from schemas.runs import Problem


def main(options: argparse.Namespace) -> int:
    """Fork; exit code 1 if there is no answer where one was to come, 2 if what is asked for makes no sense."""
    try:
        changes = parsed([unicode_text(pair) for pair in options.changes])
        runtime_of(options.data)  # it goes on live: say so before anything is read
        found = asyncio.run(_read(options, changes))
        command = fork_command(found.fork, options.thread, options.tenant)
    except (ForkUnfit, NothingRecorded, BadSubject, SchemaError) as error:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {error}") + "\n")
        return 2
    return _begin(options, command, found)


async def _read(options: argparse.Namespace, changes: dict[str, str]) -> Plan:
    async with source(options) as threads:
        thread = await threads.thread(options.tenant, options.id)
    if thread.redacted:
        raise ForkUnfit("ID", f"the texts of {options.id!r} were redacted: a model cannot go on from it")
    return plan(options.id, thread.events, options.at, changes)


def _begin(options: argparse.Namespace, command: Command, found: Plan) -> int:
    style = style_for(sys.stderr)
    speech = Speech(sys.stdout)
    try:
        problem = _hear(options, command, found, speech)
    except KeyboardInterrupt:
        speech.end()
        sys.stdout.flush()
        sys.stderr.write(
            style.aside(f"(what was begun goes on; {_going_on(options, command, found)} comes back to it)")
        )
        sys.stderr.write("\n")
        raise
    if problem is not None:
        sys.stderr.write(style.problem(f"ostinato: {problem.message}") + "\n")
        return 1
    if not options.json:
        compare = f"{program()} replay diff {options.id} {command.thread}{on_data(options.data)}"
        sys.stderr.write(style.aside(f"compare them: {compare}") + "\n")
    return 0


def _hear(options: argparse.Namespace, command: Command, found: Plan, speech: Speech) -> Problem | None:
    """Send the command and print what follows; stop where a person is asked."""

    def notice(text: str) -> None:
        speech.end()
        sys.stdout.flush()
        sys.stderr.write(style_for(sys.stderr).aside(f"({text})") + "\n")

    go_on = _going_on(options, command, found)
    with session(options.data, notice) as line:
        if not found.fork.run or waiting(found.state):
            outcome = line.send(command)
            if outcome.result == "accepted":
                _announce(options, command, found)
                why = "a call there waits for a person's approval" if found.fork.run else "nothing was under way there"
                notice(f"{why}: {go_on} goes on")
            return outcome.problem
        announced = False
        for frame in line.follow(command, found.version):
            # what is committed is heard before its outcome
            if not announced and not (isinstance(frame, Outcome) and frame.result != "accepted"):
                announced = True
                _announce(options, command, found)
            if options.json:
                say_json(frame)
            else:
                speech.say(frame)
            sys.stdout.flush()
            speech.note(frame)
            if isinstance(frame, Committed) and frame.type == "approval.requested":
                notice(f"it asks for a person's approval: {go_on} gives it")
                return None
    if not options.json:
        speech.end()
    return speech.problem


def _going_on(options: argparse.Namespace, command: Command, found: Plan) -> str:
    agents = [run.profile.agent for run in found.state.runs.values()]
    if found.fork.profile is not None:
        agents.append(str(found.fork.profile["agent"]))
    return chat_on(agents[-1] if agents else "AGENT", command.thread, options.data)


def _announce(options: argparse.Namespace, command: Command, found: Plan) -> None:
    if options.json:
        say_json({"thread": command.thread, "origin": options.id, "at": options.at, "run": found.fork.run})
        return
    told = f"thread {command.thread}, a fork of {options.id} after event {options.at}"
    sys.stderr.write(style_for(sys.stderr).aside(told) + "\n")
