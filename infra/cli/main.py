"""The `ostinato` command: parses, then imports what the one command needs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from infra.cli.engine_verbs import add_bench_verbs, add_complete, add_serve
from infra.cli.log_verbs import (
    add_batch_verbs,
    add_goal_verbs,
    add_key_verbs,
    add_log_verbs,
    add_schedule_verbs,
    add_task_verbs,
    add_thread_verbs,
    add_wait_verbs,
)
from infra.cli.replay_verbs import add_replay_verbs

_CONFIGURES = {"infra.cli.up", "infra.cli.demo", "infra.cli.config", "infra.cli.serve"}
"""Modules of commands that settle every setting themselves."""


class _NotGiven(str):
    """A default that shows as itself, in help and completion, and gives way to the configuration."""


class _Version(argparse.Action):
    """Prints the version; only who asks waits for the import that knows it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"ostinato {importlib.import_module('importlib.metadata').version('ostinato')}\n")
        parser.exit()


_CENTURY_S = 100 * 365 * 86_400.0


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; errors that we know become one line on standard error and exit code 1 (2 for usage)."""
    _open_outputs()
    options = _parsed(argv)
    if "module" not in options:
        parser().print_help()
        raise SystemExit(2)
    try:
        code = _carry_out(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _abandon_output()
        code = 141
    except TimeoutError as error:
        code = _problem(f"nothing came in time: {error}")
    except OSError as error:
        # the system's, not ours: a full disk behind a redirection, a folder that may not be read
        _abandon_output()
        code = _problem(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        if type(error).__module__.split(".")[0] not in {"infra", "bus", "actors", "engine", "schemas"}:
            raise
        code = _problem(str(error))
    raise SystemExit(code)


def _carry_out(options: argparse.Namespace) -> int:
    # what a lost connection logs would be written into what a person reads; errors that end a command are told
    logging = importlib.import_module("logging")
    logging.getLogger().addHandler(logging.NullHandler())
    command = importlib.import_module(options.module)
    if "data" in options and isinstance(options.data, _NotGiven):
        options.data = None
    if options.module not in _CONFIGURES and "data" in options:
        options.data = importlib.import_module("infra.configuration").data_directory(options.data)
    code: int = command.main(options)
    return code


def _open_outputs() -> None:
    """Give whoever closed an output (`>&-`) one that takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _abandon_output() -> None:
    """Let what cannot be written be for nobody: its reader went away, and that must not be a complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; a text that stands behind options is still the text, where argparse takes it for one too many."""
    whole = parser()
    options, left = whole.parse_known_args(argv)
    if len(left) == 1 and not left[0].startswith("-") and getattr(options, "text", "") is None:
        options.text = left.pop()
    if left:
        getattr(options, "own", whole).error(f"unrecognized arguments: {' '.join(left)}")
    return options


def _problem(text: str) -> int:
    """Say what went wrong, and give the exit code for it."""
    terminal = importlib.import_module("infra.cli.terminal")
    sys.stderr.write(terminal.style_for(sys.stderr).problem(f"ostinato: {text}") + "\n")
    return 1


def parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    whole = argparse.ArgumentParser(prog="ostinato", description="Agents and models on one replayable event log.")
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    _stack(_told(commands, "up", "start the stack and keep it running"), "infra.cli.up")
    _stack(_told(commands, "demo", "hold a short conversation with the demo agent, then stop"), "infra.cli.demo")
    serve = _told(commands, "serve", "serve a model and no agents, with flags named as vLLM's")
    add_serve(serve, _data, _file, _port, _positive)
    _config(_told(commands, "config", "show the settings, and where each comes from"))
    _chat(_told(commands, "chat", "talk with an agent or model of the running stack"))
    _run(_told(commands, "run", "send one message to an agent or model of the running stack"))
    complete = _told(commands, "complete", "have a model go on with a text, without a chat template")
    add_complete(complete, _data, _positive, _seconds)
    _abort(_told(commands, "abort", "end a run, whatever it is doing"))
    _replay(_told(commands, "replay", "read, verify and compare what happened"))
    log = _told(commands, "log", "see that the log is whole, mend it, and what is kept of it")
    add_log_verbs(log, _told, _data, _positive)
    add_thread_verbs(_told(commands, "thread", "begin a thread, rename it, or end it for good"), _told, _data)
    add_key_verbs(_told(commands, "keys", "make, list and revoke API keys of the HTTP bridge"), _told, _data, _positive)
    schedule = _told(commands, "schedule", "have agents asked by the clock")
    add_schedule_verbs(schedule, _told, _data, _positive)
    batch = _told(commands, "batch", "have files of requests answered when there is room")
    add_batch_verbs(batch, _told, _data, _positive)
    waits = _told(commands, "waits", "list what runs wait for a person to say, and answer")
    add_wait_verbs(waits, _told, _data, _positive)
    tasks = _told(commands, "tasks", "list what goes on in the background of a thread, and end it")
    add_task_verbs(tasks, _told, _data)
    add_goal_verbs(_told(commands, "goal", "have agents reach goals by themselves"), _told, _data, _positive)
    _dead(_told(commands, "dead", "look at commands that nobody could handle, mend, send again or drop them"))
    add_bench_verbs(_told(commands, "bench", "measure how fast a model answers"), _told, _port, _positive)
    _mcp(_told(commands, "mcp", "offer the running stack's agents to an MCP client, on standard input and output"))
    _top(_told(commands, "top", "watch engines, runs, queues and lag of the running stack"))
    _doctor(_told(commands, "doctor", "say what would break on this machine, and how to mend it"))
    _completion(
        _told(
            commands, "completion", "print what lets a shell complete this command; its first line says where to put it"
        )
    )
    return whole


def _told(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
) -> argparse.ArgumentParser:
    """Add a command that says what it does, in the list of commands and above its own help."""
    told = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    told.set_defaults(own=told)
    return told


def _stack(parser: argparse.ArgumentParser, module: str) -> None:
    parser.set_defaults(module=module)
    _settings(parser)
    parser.add_argument(
        "--json", action="store_true", help="for programs: up prints where everything is, demo every frame, as JSON"
    )


def _config(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    show = _told(verbs, "show", "print every setting as it would be used")
    show.set_defaults(module="infra.cli.config")
    _settings(show)
    show.add_argument("--origin", action="store_true", help="say where each value comes from")
    show.add_argument("--json", action="store_true", help="print one JSON object")


def _settings(parser: argparse.ArgumentParser) -> None:
    _data(parser)
    _file(parser)
    parser.add_argument("--host", default=None, help="address of the HTTP bridge (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=None, help="port of the HTTP bridge (up: 8000, demo: a free one)")
    parser.add_argument("--model", default=None, help="folder in Hugging Face layout, or hub id (default: embedded)")
    parser.add_argument(
        "--model-name", default=None, metavar="NAME", help="the name clients ask for (default: after the model)"
    )
    parser.add_argument(
        "--agents",
        action="append",
        default=None,
        metavar="FILE",
        help="Python file with Agent objects; may be given again",
    )
    parser.add_argument("--context-length", type=_positive, default=None, help="tokens (default: the model's own)")
    parser.add_argument("--kv-memory-mb", type=_positive, default=None, help="for KV blocks (default: what fits)")
    parser.add_argument("--agent-processes", type=_positive, default=None, help="how many run agents (default: 1)")
    parser.add_argument("--nats", default=None, metavar="URL", help="use these NATS servers (default: run our own)")
    parser.add_argument("--postgres", default=None, metavar="URL", help="use this database (default: run our own)")
    parser.add_argument(
        "--replicas", type=int, choices=(0, 1, 3, 5), default=None, help="of each stream (default: 0, by the cluster)"
    )


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.chat")
    _data(parser)
    parser.add_argument(
        "partner",
        metavar="AGENT|MODEL",
        nargs="?",
        default=None,
        help="an agent's name, with or without agent/, or a served model's (default: agent/demo, else what is served)",
    )
    parser.add_argument("--thread", default=None, help="continue this thread (default: a new one)")
    _circumstances(parser)
    parser.add_argument(
        "--json", action="store_true", help="print every frame as a JSON line; every line of the input is one message"
    )


def _circumstances(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context",
        action="append",
        type=_noted,
        default=[],
        metavar="NAME=VALUE",
        help="what the agent's functions and tools may know, JSON or a text; may be given again",
    )
    parser.add_argument("--resource", default=None, help="the person or project whose thread it is")
    parser.add_argument("--model", default=None, help="in place of the agent's own")


def _noted(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{given!r}: write NAME=VALUE")
    return name, value


def _run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.run")
    _data(parser)
    parser.add_argument(
        "agent", metavar="AGENT|MODEL", help="an agent's name, with or without agent/, or a served model's"
    )
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to say to it; - or nothing reads a pipe")
    parser.add_argument("--thread", default=None, help="continue this thread (default: a new one)")
    _circumstances(parser)
    parser.add_argument(
        "--timeout", type=_seconds, default=None, metavar="SECONDS", help="end the run after so long (default: never)"
    )
    parser.add_argument("--json", action="store_true", help="print every frame as a JSON line")


def _abort(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.abort")
    parser.add_argument("thread", metavar="THREAD", help="whose run")
    parser.add_argument("--run", default=None, help="one that waits (default: the one that is under way)")
    parser.add_argument("--reason", default=None, help="why, for the record")
    parser.add_argument("--tenant", default="default", help="whose thread (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what became of it as a JSON line")
    _data(parser)


def _replay(parser: argparse.ArgumentParser) -> None:
    add_replay_verbs(parser, _told, _data, _positive)


def _dead(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    ls = _told(verbs, "ls", "list them, oldest first")
    ls.add_argument(
        "--limit", type=_positive, default=100, metavar="COUNT", help="at most so many (default: %(default)s)"
    )
    show = _told(verbs, "show", "show one whole")
    edit = _told(verbs, "edit", "mend one in an editor, and send it again")
    edit.add_argument("--body", default=None, metavar="FILE", help="the new body, instead of an editor; - is a pipe")
    for verb in (show, edit):
        verb.add_argument("number", metavar="NUMBER", type=_positive, help="which one, as listed")
    redrive = _told(verbs, "redrive", "send them again as they are")
    drop = _told(verbs, "drop", "forget them")
    for verb in (redrive, drop):
        verb.add_argument("numbers", metavar="NUMBER", type=_positive, nargs="*", help="which ones, as listed")
        verb.add_argument("--all", action="store_true", help="every one")
    for name, verb in (("ls", ls), ("show", show), ("edit", edit), ("redrive", redrive), ("drop", drop)):
        verb.set_defaults(module="infra.cli.dead", verb=name)
        verb.add_argument("--json", action="store_true", help="one JSON object a line")
        _data(verb)


def _mcp(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.mcp")
    _data(parser)
    parser.add_argument("--tenant", default="default", help="as whom to ask (default: %(default)s)")


def _top(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.top")
    parser.add_argument("--once", action="store_true", help="print one table, for scripts")
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each look")
    _data(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.doctor")
    _data(parser)
    _file(parser)
    parser.add_argument("--host", default=None, help="address of the HTTP bridge (default: as configured)")
    parser.add_argument("--port", type=_port, default=None, help="port of the HTTP bridge (default: as configured)")
    parser.add_argument("--nats", default=None, metavar="URL", help="look at this NATS server instead of our own")
    parser.add_argument("--postgres", default=None, metavar="URL", help="look at this Postgres instead of our own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _completion(commands: argparse.ArgumentParser) -> None:
    commands.set_defaults(module="infra.cli.completion", parser=parser)
    commands.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish", "words"), help="bash, zsh or fish")
    # all that is left, for what is being typed may well be `--`
    words = commands.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    words.required = False


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error


def _port(text: str) -> int:
    number = _number(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 < seconds < _CENTURY_S:
        raise argparse.ArgumentTypeError(f"{text} is no time that can be waited")
    return seconds


def _positive(text: str) -> int:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default=None, metavar="FILE", help="TOML file (default: ostinato.toml, if it is here)"
    )


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default=_NotGiven(".ostinato"), metavar="DIR", help="data directory (default: %(default)s)"
    )


if __name__ == "__main__":
    main()
