"""The verbs of `ostinato replay`, as the command line takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Told = Callable[..., argparse.ArgumentParser]
"""Adds a verb that says what it does."""
Data = Callable[[argparse.ArgumentParser], None]


def add_replay_verbs(parser: argparse.ArgumentParser, told: Told, data: Data, positive: Callable[[str], int]) -> None:
    """Add them, with what every command has: `told` adds a verb, `data` its data directory, `positive` reads a number.

    It comes as arguments, as the module that has it imports this one.
    """
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    ls = told(verbs, "ls", "list threads, latest first")
    ls.set_defaults(module="infra.cli.replay.show", verb="ls")
    ls.add_argument(
        "--limit", type=positive, default=20, metavar="COUNT", help="at most so many (default: %(default)s)"
    )
    ls.add_argument("--imported", action="store_true", help="those of imported bundles, instead of the log's")
    show = told(verbs, "show", "show what happened in a thread, run or generation")
    show.set_defaults(module="infra.cli.replay.show", verb="show")
    show.add_argument("id", metavar="ID", help="a thread, run or generation")
    show.add_argument("--steps", action="store_true", help="with the scheduler steps behind each model call")
    verify = told(verbs, "verify", "decide again what was decided, and compare")
    verify.set_defaults(module="infra.cli.replay.verify")
    verify.add_argument("ids", metavar="ID", nargs="*", help="a thread or generation")
    verify.add_argument("--all", action="store_true", help="every thread and generation of every tenant")
    verify.add_argument(
        "--jobs", type=positive, default=None, metavar="COUNT", help="processes for --all (default: one per CPU)"
    )
    diff = told(verbs, "diff", "compare two threads: where they part, and how each went on")
    diff.set_defaults(module="infra.cli.replay.diff")
    for name in ("a", "b"):
        diff.add_argument(name, metavar=name.upper(), help="a thread or generation")
    for verb in (show, verify, diff):
        verb.add_argument("--tenant", default="default", help="whose threads (default: %(default)s)")
    for verb in (ls, show, verify, diff):
        verb.add_argument("--bundle", default=None, metavar="FILE", help="read this bundle instead of the log")
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        data(verb)
    _bundles(verbs, told, data)
    _live_replays(verbs, told, data, positive)
    _engine(verbs, told, data, positive)
    _tokens(verbs, told, data, positive)


def _live_replays(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], told: Told, data: Data, positive: Callable[[str], int]
) -> None:
    fork = told(verbs, "fork", "begin a thread as another did up to one of its events, and go on from there")
    fork.set_defaults(module="infra.cli.replay.fork")
    fork.add_argument("id", metavar="ID", help="a thread")
    fork.add_argument(
        "--at", type=positive, required=True, metavar="NUMBER", help="its last event to take over, as show numbers it"
    )
    fork.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="model, prompt or seed from there on; message or tool_result of that event; may be given again",
    )
    fork.add_argument("--thread", default=None, help="what to call the new thread (default: a fresh id)")
    fork.add_argument("--bundle", default=None, metavar="FILE", help="take it from this bundle instead of the log")
    fork.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
    fork.add_argument("--json", action="store_true", help="print every frame as a JSON line")
    data(fork)
    tail = told(verbs, "tail", "follow what is committed, one line an event, until Ctrl-C")
    tail.set_defaults(module="infra.cli.replay.tail")
    tail.add_argument(
        "id", metavar="ID", nargs="?", default=None, help="a thread, run or command, or a type of event (default: all)"
    )
    tail.add_argument("--tenant", default="default", help="whose threads (default: %(default)s)")
    tail.add_argument("--json", action="store_true", help="one JSON object a line")
    data(tail)


def _bundles(verbs: argparse._SubParsersAction[argparse.ArgumentParser], told: Told, data: Data) -> None:
    export = told(verbs, "export", "write threads to a file, without what was said in them")
    export.add_argument("ids", metavar="ID", nargs="*", help="a thread or generation")
    export.add_argument("--all", action="store_true", help="every thread and generation of every tenant")
    export.add_argument("-o", "--output", required=True, metavar="FILE", help="where to; .gz is packed")
    export.add_argument(
        "--no-redact", dest="redact", action="store_false", help="with all messages, prompts, arguments and results"
    )
    export.add_argument(
        "--otel", action="store_true", help="spans, as OTLP JSON; -o otlp sends them where OTEL_* variables say"
    )
    export.add_argument("--tenant", default="default", help="whose threads (default: %(default)s)")
    bring = told(verbs, "import", "keep the threads of a bundle beside the log, as NAME:ID")
    bring.add_argument("file", metavar="FILE", help="a bundle")
    bring.add_argument("--as", dest="name", default=None, metavar="NAME", help="what to call it (default: as the file)")
    bring.add_argument("--replace", action="store_true", help="in place of one that has the name")
    for name, verb in (("export", export), ("import", bring)):
        verb.set_defaults(module="infra.cli.replay.bundle", verb=name)
        verb.add_argument("--json", action="store_true", help="print one JSON object")
        data(verb)


def _engine(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], told: Told, data: Data, positive: Callable[[str], int]
) -> None:
    engine = told(verbs, "engine", "show the last steps of an engine, or those behind a thread; plan them again")
    engine.set_defaults(module="infra.cli.replay.engine", bundle=None)
    engine.add_argument("id", metavar="ID", nargs="?", default=None, help="a thread, run or generation")
    engine.add_argument(
        "--last", type=positive, nargs="?", const=20, default=None, metavar="COUNT", help="the last steps (20)"
    )
    engine.add_argument(
        "--verify", action="store_true", help="have the scheduler plan again from the recorded inputs, and compare"
    )
    engine.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
    engine.add_argument("--json", action="store_true", help="one JSON object a line")
    data(engine)


def _tokens(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], told: Told, data: Data, positive: Callable[[str], int]
) -> None:
    tokens = told(verbs, "tokens", "generate recorded answers again, each alone, and compare bits")
    tokens.set_defaults(module="infra.cli.replay.tokens", bundle=None)
    tokens.add_argument("ids", metavar="ID", nargs="*", help="a thread, run or generation")
    tokens.add_argument(
        "--last", type=positive, nargs="?", const=20, default=None, metavar="COUNT", help="the last requests (20)"
    )
    tokens.add_argument("--all", action="store_true", help="every request of every tenant whose steps are kept")
    tokens.add_argument("--model", default=None, metavar="MODEL", help="folder or hub id (default: as recorded)")
    tokens.add_argument(
        "--strict", action="store_true", help="exit code 1 for a difference also where kernels or weights are others"
    )
    tokens.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
    tokens.add_argument("--json", action="store_true", help="one JSON object a line")
    data(tokens)
