"""The verbs of `ostinato schedule` and `ostinato waits`, as the command line takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Told = Callable[..., argparse.ArgumentParser]
"""Adds a verb that says what it does."""
Data = Callable[[argparse.ArgumentParser], None]


def add_schedule_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them: `told` adds a verb, `data` its data directory, `positive` reads a number."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    add = told(verbs, "add", "have an agent asked by the clock; one of the same id is put in its place")
    every = told(verbs, "list", "list schedules, those that are due next first")
    pause = told(verbs, "pause", "have one fire no more")
    resume = told(verbs, "resume", "have one go on from now")
    run = told(verbs, "run", "have one fire now, beside what is due")
    remove = told(verbs, "remove", "end one")
    for verb in (add, pause, resume, run, remove):
        verb.add_argument("schedule", metavar="ID", help="which one; at most 40 lower-case letters, digits, - and _")
        verb.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
    add.add_argument("cron", metavar="CRON", help="when: minute hour day month weekday, such as '0 8 * * MON-FRI'")
    add.add_argument("agent", metavar="AGENT", help="who is asked")
    add.add_argument("text", metavar="TEXT", help="what it is asked")
    add.add_argument("--timezone", default=None, metavar="NAME", help="such as Europe/Vienna (default: UTC)")
    add.add_argument("--thread", default=None, help="where every fire asks (default: a new thread for each)")
    add.add_argument(
        "--missed",
        choices=("skip", "once", "all"),
        default=None,
        help="what becomes of fires that nobody was there for (default: once, for the last)",
    )
    add.add_argument("--most", type=positive, default=None, metavar="COUNT", help="of all, the last so many (10)")
    add.add_argument("--resource", default=None, help="the person or project whose threads they are")
    every.add_argument("--tenant", default=None, help="whose (default: everybody's)")
    for verb in (add, every, pause, resume, run, remove):
        verb.set_defaults(module="infra.cli.schedules", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)


def add_wait_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them, as above."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    every = told(verbs, "list", "list what waits, over all threads")
    approve = told(verbs, "approve", "let a call run, with the arguments that it waits with")
    decline = told(verbs, "decline", "refuse a call")
    every.add_argument("--clear", action="store_true", help="show arguments as they are, not redacted")
    every.add_argument(
        "--limit", type=positive, default=100, metavar="COUNT", help="of at most so many runs (default: %(default)s)"
    )
    for verb in (approve, decline):
        verb.add_argument("thread", metavar="THREAD", help="where it waits")
        verb.add_argument("effect", metavar="EFFECT", nargs="?", help="which one, where several wait there")
    decline.add_argument("--reason", default="", help="why; the model is told")
    for verb in (every, approve, decline):
        verb.set_defaults(module="infra.cli.waits", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default=None, help="whose (default: everybody's)")
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)
