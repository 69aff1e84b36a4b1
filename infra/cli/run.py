"""`ostinato run AGENT "text"`: one message to an agent or model of the running stack, its answer as it comes."""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from infra.access import runtime_of
from infra.cli.asking import (
    agent_command,
    for_agents,
    model_command,
    partner_of,
    served_by,
    unicode_text,
    wanted_of,
)
from infra.cli.hints import chat_on
from infra.cli.session import session
from infra.cli.speech import Speech
from infra.cli.terminal import style_for
from schemas import codec
from schemas.commands import Command
from schemas.messages import Message


def main(options: argparse.Namespace) -> int:
    """Send the message, print the answer; exit code 1 if there is none, 2 if there is no message."""
    if options.text is None and sys.stdin.isatty():
        sys.stderr.write("ostinato run: give TEXT, or pipe it in\n")
        return 2
    text = message_of(options.text, sys.stdin)
    if not text:
        sys.stderr.write("ostinato run: the message is empty\n")
        return 2
    return _run(options, text)


def message_of(text: str | None, pipe: TextIO) -> str:
    """Give what is to be said; the line ends that close a pipe are not part of it, as in a shell's `$(...)`."""
    given = pipe.read().rstrip("\n") if text in {None, "-"} else text or ""
    return unicode_text(given) if given.strip() else ""


def _run(options: argparse.Namespace, text: str) -> int:
    partner = partner_of(options.agent, served_by(runtime_of(options.data)))
    if partner.kind == "model" and (flag := next(for_agents(options), None)):
        sys.stderr.write(f"ostinato run: {partner.name!r} is a bare model and keeps no thread: leave {flag} out\n")
        return 2
    if partner.kind == "model":
        command = model_command(partner.name, [Message(role="user", content=text)])
    else:
        about = wanted_of(options)
        command = agent_command(partner.name, text, options.thread, timeout_s=options.timeout, wanted=about)
    speech = Speech(sys.stdout)
    style = style_for(sys.stderr)
    try:
        _hear(options, command, speech)
    except KeyboardInterrupt:
        speech.end()
        sys.stdout.flush()
        if partner.kind == "agent":
            later = chat_on(partner.name, command.thread, options.data)
            sys.stderr.write(style.aside(f"(what was begun goes on; {later} comes back to it)") + "\n")
        raise
    if speech.problem is not None:
        sys.stderr.write(style.problem(f"ostinato: {speech.problem.message}") + "\n")
        return 1
    if speech.needs_person:
        asks = chat_on(partner.name, command.thread, options.data)
        sys.stderr.write(style.aside(f"(a tool needs a person's approval: {asks} can ask you)") + "\n")
    if not options.json and partner.kind == "agent":
        hint = f"thread {command.thread}  (continue it with --thread {command.thread})"
        sys.stderr.write(style.aside(hint) + "\n")
    return 0


def _hear(options: argparse.Namespace, command: Command, speech: Speech) -> None:
    """Send the command and print what follows."""

    def notice(trouble: str) -> None:
        speech.end()
        sys.stdout.flush()
        sys.stderr.write(style_for(sys.stderr).aside(f"({trouble})") + "\n")

    with session(options.data, notice) as line:
        for frame in line.follow(command):
            if options.json:
                sys.stdout.write(codec.encode(frame).decode() + "\n")
            else:
                speech.say(frame)
            sys.stdout.flush()
            speech.note(frame)
    if not options.json:
        speech.end()
