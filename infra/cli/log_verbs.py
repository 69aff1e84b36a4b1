"""The verbs of `ostinato log`, `thread`, `keys`, `schedule`, `batch`, `waits`, `tasks` and `goal`, for the command
line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

_MOST_DAYS = 36_500

_SCOPES = ("inference", "agents", "metrics", "admin")

Told = Callable[..., argparse.ArgumentParser]
"""Adds a verb that says what it does."""
Data = Callable[[argparse.ArgumentParser], None]


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
    rebuild.add_argument(
        "projection", choices=("threads", "runs", "usage", "schedules", "batches", "vectors", "all"), help="which"
    )
    unindexed = told(verbs, "unindexed", "list what semantic recall cannot find, as its embedder refuses it")
    unindexed.add_argument("--again", action="store_true", help="have all of that tried again")
    unindexed.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
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
    for verb in (threads, runs, unindexed):
        verb.add_argument(
            "--limit", type=positive, default=20, metavar="COUNT", help="at most so many (default: %(default)s)"
        )
    for verb in (threads, runs, usage):
        verb.add_argument("--tenant", default=None, help="whose (default: everybody's)")
    modules = {verify: "log", repair: "log", retain: "retain", trim: "trim", unindexed: "unindexed"}
    for verb in (verify, repair, threads, runs, usage, rebuild, retain, trim, unindexed):
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
    delete = told(verbs, "delete", "end a thread for good, and erase what it held")
    create.add_argument("thread", metavar="THREAD", nargs="?", help="its id (default: a new one)")
    create.add_argument("--resource", default="", help="the person or project that it belongs to")
    delete.add_argument("--reason", default="", help="why, for the record")
    delete.add_argument("--resource", default="", help="every thread of this person or project, in place of one")
    rename.add_argument("thread", metavar="THREAD", help="which one")
    delete.add_argument("thread", metavar="THREAD", nargs="?", help="which one")
    for verb in (create, rename):
        verb.add_argument("--title", default=None, help="what it is called")
        verb.add_argument(
            "--metadata", action="append", default=[], metavar="NAME=VALUE", help="a note; may be given again"
        )
    mode = told(verbs, "mode", "have a thread's agent be in one of its modes, from its next step on")
    grant = told(verbs, "grant", "agree beforehand to calls of tools that permission rules ask about")
    withdraw = told(verbs, "withdraw", "be asked again")
    for verb in (mode, grant, withdraw):
        verb.add_argument("thread", metavar="THREAD", help="which one")
    mode.add_argument("mode", metavar="MODE", help="one of its agent's")
    for verb in (grant, withdraw):
        verb.add_argument("tool", metavar="TOOL", help="a tool's name, in which * stands for anything")
    for verb in (create, rename, delete, mode, grant, withdraw):
        module = "goals" if verb in {mode, grant, withdraw} else "threads"
        verb.set_defaults(module=f"infra.cli.{module}", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="print what became of it as a JSON line")
        data(verb)


def add_key_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them: `told` adds a verb, `data` its data directory, `positive` reads a number."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    create = told(verbs, "create", "make a key and print its secret, once")
    listed = told(verbs, "list", "show what there is of every key; secrets are kept nowhere")
    revoke = told(verbs, "revoke", "let a key in no more, from now on and for good")
    create.add_argument("--name", default="", help="whose it is or what for")
    create.add_argument(
        "--scope",
        action="append",
        choices=_SCOPES,
        default=None,
        help="what it opens; may be given again (default: inference and agents)",
    )
    create.add_argument("--days", type=positive, default=None, help="it expires after so many (default: never)")
    create.add_argument(
        "--requests-per-minute", type=positive, default=None, metavar="COUNT", help="(default: as the server is set)"
    )
    create.add_argument(
        "--concurrent", type=positive, default=None, metavar="COUNT", help="at the same time (default: as it is set)"
    )
    create.add_argument(
        "--tokens-per-minute", type=positive, default=None, metavar="COUNT", help="(default: as the server is set)"
    )
    create.add_argument(
        "--resource", default="", metavar="NAME", help="bind it to one person or project (default: to none)"
    )
    revoke.add_argument("key", metavar="KEY", help="its id, as listed")
    revoke.add_argument("--reason", default="", help="why, for the record")
    for verb in (create, revoke):
        verb.add_argument("--tenant", default="default", help="whose key (default: %(default)s)")
    listed.add_argument("--tenant", default=None, help="those of one tenant (default: all)")
    for name, verb in (("create", create), ("list", listed), ("revoke", revoke)):
        verb.set_defaults(module="infra.cli.keys", verb=name)
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)
    rotate = told(verbs, "rotate-master", "have another master key wrap the keys of threads; the stack must be stopped")
    rotate.add_argument("--to", metavar="FILE", help="it is this file's text, where the settings give the one there is")
    rotate.set_defaults(module="infra.cli.masters")
    data(rotate)


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


def add_batch_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them, as above."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    run = told(verbs, "run", "have all requests of a file answered, and write the answers in their order")
    every = told(verbs, "list", "list batches, the latest first")
    cancel = told(verbs, "cancel", "end one; what is answered by then stays")
    run.add_argument("input", metavar="INPUT", help="JSON lines, as OpenAI's batches have them")
    run.add_argument("-o", "--output", metavar="FILE", required=True, help="where answers and errors go")
    run.add_argument("--window", default="24h", metavar="TIME", help="what is not answered by then never is (24h)")
    every.add_argument(
        "--limit", type=positive, default=20, metavar="COUNT", help="at most so many (default: %(default)s)"
    )
    cancel.add_argument("batch", metavar="ID", help="which one")
    for verb in (run, every, cancel):
        verb.set_defaults(module="infra.cli.batch", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default="default", help="whose (default: %(default)s)")
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
    approve.add_argument("--always", action="store_true", help="and all further calls of the tool in that thread")
    resume = told(verbs, "resume", "give a suspended tool the data that it waits for")
    for verb in (approve, decline, resume):
        verb.add_argument("thread", metavar="THREAD", help="where it waits")
        verb.add_argument("effect", metavar="EFFECT", nargs="?", help="which one, where several wait there")
    decline.add_argument("--reason", default="", help="why; the model is told")
    resume.add_argument("--answer", required=True, metavar="JSON", help="the data, such as true or '{\"seats\": 2}'")
    for verb in (every, approve, decline, resume):
        verb.set_defaults(module="infra.cli.waits", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default=None, help="whose (default: everybody's)")
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)


def add_task_verbs(parser: argparse.ArgumentParser, told: Told, data: Data) -> None:
    """Add them, as above."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    every = told(verbs, "list", "list a thread's tool calls that go on in the background")
    cancel = told(verbs, "cancel", "end one: nothing comes of it")
    for verb in (every, cancel):
        verb.set_defaults(module="infra.cli.tasks", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("thread", metavar="THREAD", help="whose")
        verb.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)
    every.add_argument("--clear", action="store_true", help="show arguments as they are, not redacted")
    cancel.add_argument("task", metavar="TASK", nargs="?", help="which one, where several go on there")
    cancel.add_argument("--reason", default="", help="why, for the record")


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


def add_goal_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them, as above."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    begin = told(verbs, "set", "have an agent go on by itself, run after run, until a goal is reached")
    show = told(verbs, "show", "say how a thread's goal stands")
    pause = told(verbs, "pause", "have no further run begin; one that is under way goes on")
    resume = told(verbs, "resume", "go on with the goal")
    clear = told(verbs, "clear", "have no goal any more; a run that is under way goes on")
    begin.add_argument("agent", metavar="AGENT", help="who is to reach it")
    begin.add_argument("text", metavar="TEXT", help="what is to be reached")
    begin.add_argument("--thread", default=None, help="where (default: a new one)")
    begin.add_argument("--budget", type=positive, default=50, metavar="COUNT", help="runs at most (50)")
    for verb in (show, pause, resume, clear):
        verb.add_argument("thread", metavar="THREAD", help="whose")
    pause.add_argument("--reason", default="", help="why, for the record")
    resume.add_argument("--budget", type=positive, default=None, metavar="COUNT", help="runs in all from here on")
    for verb in (begin, show, pause, resume, clear):
        verb.set_defaults(module="infra.cli.goals", verb=verb.prog.rpartition(" ")[2])
        verb.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)
