"""The verbs of `ostinato log` and `ostinato thread`, as the command line takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

_MOST_DAYS = 36_500

Told = Callable[..., argparse.ArgumentParser]
"""Adds a verb that says what it does."""


def add_log_verbs(
    parser: argparse.ArgumentParser,
    told: Told,
    data: Callable[[argparse.ArgumentParser], None],
    positive: Callable[[str], int],
) -> None:
    """Add them, with what every command has: `told` adds a verb, `data` its data directory, `positive` reads a number.

    It comes as arguments, as the module that has it imports this one.
    """
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verify = told(verbs, "verify", "see that both copies, in JetStream and in Postgres, are whole and the same")
    repair = told(verbs, "repair", "mend each copy from the other (stop the stack first)")
    threads = told(verbs, "threads", "list threads and how they stand, latest first")
    runs = told(verbs, "runs", "list runs, how each ended and what it used, latest first")
    threads.add_argument("--resource", default=None, help="those of one person or project (default: everybody's)")
    threads.add_argument("--search", default="", metavar="TEXT", help="those whose title has this text")
    runs.add_argument("--thread", default=None, help="those of one thread (default: all)")
    usage = told(verbs, "usage", "say what each agent used of each model, by day")
    usage.add_argument(
        "--days", type=_days_of(positive), default=30, metavar="COUNT", help="so many, today too (default: %(default)s)"
    )
    rebuild = told(verbs, "rebuild", "make projections of the log again; who reads them sees the old ones meanwhile")
    rebuild.add_argument("projection", choices=("threads", "runs", "usage", "schedules", "all"), help="which")
    retain = told(verbs, "retain", "drop step records of days long ago; threads stay")
    retain.add_argument(
        "--steps", type=_span_of(positive), required=True, metavar="DAYS", help="how long to keep them, such as 7d"
    )
    trim = told(verbs, "trim", "have JetStream forget what is old and recorded; Postgres keeps all")
    trim.add_argument(
        "--keep",
        type=_kept_of(positive),
        required=True,
        metavar="DAYS",
        help="how long JetStream keeps it, such as 30d",
    )
    for verb in (retain, trim):
        verb.add_argument("--dry-run", action="store_true", help="only say what would go")
    for verb in (threads, runs):
        verb.add_argument(
            "--limit", type=positive, default=20, metavar="COUNT", help="at most so many (default: %(default)s)"
        )
    for verb in (threads, runs, usage):
        verb.add_argument("--tenant", default=None, help="whose (default: everybody's)")
    modules = {verify: "log", repair: "log", retain: "retain", trim: "trim"}
    for verb in (verify, repair, threads, runs, usage, rebuild, retain, trim):
        verb.set_defaults(module=f"infra.cli.{modules.get(verb, 'books')}", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)


def add_thread_verbs(
    parser: argparse.ArgumentParser,
    told: Callable[..., argparse.ArgumentParser],
    data: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add them: `told` adds a verb, `data` its data directory."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    create = told(verbs, "create", "begin a thread before anything is said in it")
    rename = told(verbs, "rename", "give a thread another title, or other metadata")
    delete = told(verbs, "delete", "end a thread for good: nothing of it is shown any more")
    create.add_argument("thread", metavar="THREAD", nargs="?", help="its id (default: a new one)")
    create.add_argument("--resource", default="", help="the person or project that it belongs to")
    delete.add_argument("--reason", default="", help="why, for the record")
    for verb in (rename, delete):
        verb.add_argument("thread", metavar="THREAD", help="which one")
    for verb in (create, rename):
        verb.add_argument("--title", default=None, help="what it is called")
        verb.add_argument(
            "--metadata", action="append", default=[], metavar="NAME=VALUE", help="a note; may be given again"
        )
    for verb in (create, rename, delete):
        verb.set_defaults(module="infra.cli.threads", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="print what became of it as a JSON line")
        data(verb)


def _days_of(positive: Callable[[str], int]) -> Callable[[str], int]:
    def days(text: str) -> int:
        number = positive(text)
        if number > _MOST_DAYS:
            raise argparse.ArgumentTypeError(f"{text} days are more than {_MOST_DAYS}")
        return number

    return days


def _span_of(positive: Callable[[str], int]) -> Callable[[str], int]:
    days = _days_of(positive)

    def span(text: str) -> int:
        if not text.endswith("d"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number of days, such as 7d: whole days are dropped")
        return days(text.removesuffix("d"))

    return span


def _kept_of(positive: Callable[[str], int]) -> Callable[[str], int]:
    span = _span_of(positive)
    # nothing needs to be kept of what is recorded and behind every checkpoint
    return lambda text: 0 if text == "0d" else span(text)
