"""`ostinato demo`: the whole stack, one short conversation with the demo agent, and how to replay it."""

from __future__ import annotations

import argparse
import asyncio
import sys

from infra.cli.asking import agent_command
from infra.cli.hints import on_data, program
from infra.cli.speech import Speech
from infra.cli.stack import progress_line, settings_from
from infra.cli.terminal import style_for
from infra.follow import follow
from infra.launcher import Stack, running
from infra.readback import read_back_from
from infra.settings import Settings
from schemas import codec
from schemas.live import Frame

CONVERSATION = (
    "Hello! Who are you?",
    "What is 127 times 49?",
    "Please remember that my cat is called Biscuit.",
    "What day is it today?",
    "What is my cat called?",
)


def main(options: argparse.Namespace) -> int:
    """Run the demonstration; exit code 1 when an answer failed."""
    return asyncio.run(_demo(settings_from(options, default_port=0), _PrintFrames if options.json else _PrintSpeech))


class _PrintSpeech:
    """Shows a turn to a person."""

    def __init__(self, text: str) -> None:
        style = style_for(sys.stdout)
        sys.stdout.write(f"\n{style.name('you')}    {text}\n{style.name('demo')}   ")
        self._speech = Speech(sys.stdout)

    def say(self, frame: Frame) -> None:
        self._speech.say(frame)

    def end(self) -> None:
        self._speech.end()

    @staticmethod
    def what_next(thread: str, data: str) -> None:
        _print_what_next(thread, data)


class _PrintFrames:
    """Shows a turn to a program: every frame a JSON line."""

    def __init__(self, text: str) -> None:
        pass

    def say(self, frame: Frame) -> None:
        sys.stdout.write(codec.encode(frame).decode() + "\n")

    def end(self) -> None:
        pass

    @staticmethod
    def what_next(thread: str, data: str) -> None:
        pass


async def _demo(settings: Settings, printer: type[_PrintSpeech | _PrintFrames]) -> int:
    thread: str | None = None
    with progress_line(settings) as progress:
        async with running(settings, progress, progress.note) as stack:
            for text in CONVERSATION:
                thread = await _say(stack, text, thread, printer(text))
                if thread is None:
                    return 1
    printer.what_next(thread or "", settings.data)
    return 0


async def _say(stack: Stack, text: str, thread: str | None, printer: _PrintSpeech | _PrintFrames) -> str | None:
    """Hold one turn; return its thread, or None if there was no answer."""
    command = agent_command("demo", text, thread, stack.settings.tenant)
    speech = Speech(sys.stdout)
    sys.stdout.flush()
    async for frame in follow(stack.connection, read_back_from(stack.store), command):
        printer.say(frame)
        speech.note(frame)
        sys.stdout.flush()
    printer.end()
    if speech.problem is not None:
        sys.stderr.write(f"ostinato: {speech.problem.message}\n")
        return None
    return command.thread


def _print_what_next(thread: str, data: str) -> None:
    where = on_data(data)
    command = program()
    sys.stdout.write(
        "\nEverything that just happened is in the log. Look at it again:\n"
        f"  {command} replay ls{where}\n"
        f"  {command} replay show {thread} --steps{where}\n"
        f"  {command} replay verify {thread}{where}\n"
        f"Keep the stack running:\n  {command} up{where}\n"
    )
