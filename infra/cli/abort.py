"""`ostinato abort`: end a run of the running stack, whatever it is doing."""

from __future__ import annotations

import argparse
import sys

from bus import subjects
from infra.cli.asking import abort_command
from infra.cli.hints import on_data, program
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import style_for


def main(options: argparse.Namespace) -> int:
    """End the run; exit code 1 when there is none."""
    thread = subjects.checked(options.thread, "thread")
    command = abort_command(thread, options.run or "", options.reason or "", options.tenant)
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"aborted; `{program()} replay show {thread}{on_data(options.data)}` shows what it did")
    else:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 0 if outcome.result == "accepted" else 1


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
