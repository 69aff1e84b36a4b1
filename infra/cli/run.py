"""`ostinato run AGENT "text"`: one message to an agent or model of the running stack, its answer as it comes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TextIO

from bus.connection import Connection
from infra.access import runtime_of
from infra.cli.asking import agent_command, model_command, partner_of, served_by, unicode_text
from infra.cli.speech import Speech
from infra.cli.terminal import style_for
from infra.follow import follow
from infra.readback import LateStore
from schemas import codec
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
    return asyncio.run(_run(options, text))


def message_of(text: str | None, pipe: TextIO) -> str:
    """Give what is to be said; the line ends that close a pipe are not part of it, as in a shell's `$(...)`."""
    given = pipe.read().rstrip("\n") if text in {None, "-"} else text or ""
    return unicode_text(given) if given.strip() else ""


async def _run(options: argparse.Namespace, text: str) -> int:
    runtime = runtime_of(options.data)
    partner = partner_of(options.agent, await asyncio.to_thread(served_by, runtime))
    if partner.kind == "model" and options.thread is not None:
        sys.stderr.write(f"ostinato run: {partner.name!r} is a bare model and keeps no thread: leave --thread out\n")
        return 2
    if partner.kind == "model":
        command = model_command(partner.name, [Message(role="user", content=text)])
    else:
        command = agent_command(partner.name, text, options.thread)
    speech = Speech(sys.stdout)
    async with (
        await Connection.open(runtime.urls["nats"], "run") as connection,
        LateStore(runtime.urls["postgres"]) as store,
    ):
        async for frame in follow(connection, store.read_back, command):
            if options.json:
                sys.stdout.write(codec.encode(frame).decode() + "\n")
            else:
                speech.say(frame)
            sys.stdout.flush()
            speech.note(frame)
    if not options.json:
        speech.end()
    style = style_for(sys.stderr)
    if speech.problem is not None:
        sys.stderr.write(style.problem(f"ostinato: {speech.problem.message}") + "\n")
        return 1
    if not options.json and partner.kind == "agent":
        hint = f"thread {command.thread}  (continue it with --thread {command.thread})"
        sys.stderr.write(style.aside(hint) + "\n")
    return 0
