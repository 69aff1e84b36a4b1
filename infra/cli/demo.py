"""`ostinato demo`: the whole stack, one short conversation with the demo agent, and how to replay it."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys

from infra.cli.asking import agent_command
from infra.cli.speech import Speech
from infra.cli.stack import program, progress_line, settings_from
from infra.follow import follow
from infra.launcher import Stack, running
from infra.readback import read_back_from
from infra.settings import Settings

CONVERSATION = (
    "Hello! Who are you?",
    "What is 127 times 49?",
    "Please remember that my cat is called Biscuit.",
    "What day is it today?",
    "What is my cat called?",
)


def main(options: argparse.Namespace) -> int:
    """Run the demonstration; exit code 1 when an answer failed."""
    return asyncio.run(_demo(settings_from(options, default_port=0)))


async def _demo(settings: Settings) -> int:
    thread: str | None = None
    async with running(settings, progress_line()) as stack:
        for text in CONVERSATION:
            sys.stdout.write(f"\nyou    {text}\ndemo   ")
            sys.stdout.flush()
            said = await _say(stack, text, thread)
            if said is None:
                return 1
            thread = said
    _print_what_next(thread or "", settings.data)
    return 0


async def _say(stack: Stack, text: str, thread: str | None) -> str | None:
    """Hold one turn; return its thread, or None if there was no answer."""
    command = agent_command("demo", text, thread, stack.settings.tenant)
    speech = Speech(sys.stdout)
    async for frame in follow(stack.connection, read_back_from(stack.store), command):
        speech.say(frame)
        speech.note(frame)
        sys.stdout.flush()
    sys.stdout.write("\n")
    if speech.problem is not None:
        sys.stderr.write(f"ostinato: {speech.problem.message}\n")
        return None
    return command.thread


def _print_what_next(thread: str, data: str) -> None:
    where = "" if data == ".ostinato" else f" --data {shlex.quote(data)}"
    command = program()
    sys.stdout.write(
        "\nEverything that just happened is in the log. Look at it again:\n"
        f"  {command} replay ls{where}\n"
        f"  {command} replay show {thread} --steps{where}\n"
        f"  {command} replay verify {thread}{where}\n"
        f"Keep the stack running:\n  {command} up{where}\n"
    )
