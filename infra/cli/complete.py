"""`ostinato complete "text"`: what a model writes after a text, by the running stack or by a checkpoint loaded here."""

from __future__ import annotations

import argparse
import importlib
import sys

from actors.runtime.context import SystemClock
from infra.access import runtime_of
from infra.cli.asking import AGENT_PREFIX, completion_command, served_by
from infra.cli.printing import say_json
from infra.cli.run import message_of
from infra.cli.session import session
from infra.cli.speech import Speech
from infra.cli.terminal import style_for
from infra.errors import InfraError
from schemas import codec
from schemas.commands import Generate
from schemas.generation import Sampling


class NothingServed(InfraError):
    """The running stack says of no model that it serves it."""

    def __init__(self) -> None:
        super().__init__("the running stack names no model: see its /health, or load one with --model")


def main(options: argparse.Namespace) -> int:
    """Print what follows the text; exit code 1 if nothing does, 2 if there is no text."""
    if options.text is None and sys.stdin.isatty():
        sys.stderr.write("ostinato complete: give TEXT, or pipe it in\n")
        return 2
    text = message_of(options.text, sys.stdin)
    if not text:
        sys.stderr.write("ostinato complete: the text is empty\n")
        return 2
    return _by_stack(options, text) if options.model is None else _here(options, text)


def _by_stack(options: argparse.Namespace, text: str) -> int:
    served = [name for name in served_by(runtime_of(options.data)) if not name.startswith(AGENT_PREFIX)]
    if not served:
        raise NothingServed
    wanted = Generate(
        model=served[0],
        prompt=text,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        stop=tuple(options.stop or ()),
        deadline=0 if options.timeout is None else SystemClock().now() + int(options.timeout * 1e6),
    )
    speech = Speech(sys.stdout)

    def notice(trouble: str) -> None:
        speech.end()
        sys.stderr.write(style_for(sys.stderr).aside(f"({trouble})") + "\n")

    with session(options.data, notice) as line:
        for frame in line.follow(completion_command(wanted)):
            if options.json:
                sys.stdout.write(codec.encode(frame).decode() + "\n")
            else:
                speech.say(frame)
            sys.stdout.flush()
            speech.note(frame)
    if not options.json:
        speech.end()
    if speech.problem is not None:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {speech.problem.message}") + "\n")
        return 1
    return 0


def _here(options: argparse.Namespace, text: str) -> int:
    engine = importlib.import_module("engine.llm")  # torch is for those who load a model
    sampling = Sampling(max_tokens=options.max_tokens, temperature=options.temperature or 0.0, seed=options.seed or 0)
    llm = engine.LLM(options.model)
    (completion,) = llm.generate([text], sampling, tuple(options.stop or ()), use_tqdm=False)
    if options.json:
        say_json({"text": completion.text, "finish_reason": completion.finish, "usage": completion.usage})
    else:
        sys.stdout.write(completion.text + "\n")
    return 0
