"""The `ostinato` command: parses, then imports what the one command needs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

_CONFIGURES = {"infra.cli.up", "infra.cli.demo", "infra.cli.config"}
"""Modules of commands that settle every setting themselves."""


class _NotGiven(str):
    """A default that shows as itself, in help and completion, and gives way to the configuration."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; errors that we know become one line on standard error and exit code 1 (2 for usage)."""
    options = _parsed(argv)
    if "module" not in options:
        parser().print_help()
        raise SystemExit(2)
    command = importlib.import_module(options.module)
    try:
        if "data" in options and isinstance(options.data, _NotGiven):
            options.data = None
        if options.module not in _CONFIGURES and "data" in options:
            options.data = importlib.import_module("infra.configuration").data_directory(options.data)
        code: int = command.main(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # the reader went away: what is left to write is for nobody, and must not be a complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except TimeoutError as error:
        code = _problem(f"nothing came in time: {error}")
    except Exception as error:
        if type(error).__module__.split(".")[0] not in {"infra", "bus", "actors", "engine", "schemas"}:
            raise
        code = _problem(str(error))
    raise SystemExit(code)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; a text that stands behind options is still the text, where argparse takes it for one too many."""
    whole = parser()
    options, left = whole.parse_known_args(argv)
    if len(left) == 1 and not left[0].startswith("-") and getattr(options, "text", "") is None:
        options.text = left.pop()
    if left:
        whole.error(f"unrecognized arguments: {' '.join(left)}")
    return options


def _problem(text: str) -> int:
    """Say what went wrong, and give the exit code for it."""
    terminal = importlib.import_module("infra.cli.terminal")
    sys.stderr.write(terminal.style_for(sys.stderr).problem(f"ostinato: {text}") + "\n")
    return 1


def parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    whole = argparse.ArgumentParser(prog="ostinato", description="Agents and models on one replayable event log.")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    _stack(commands.add_parser("up", help="start the stack and keep it running"), "infra.cli.up")
    _stack(
        commands.add_parser("demo", help="hold a short conversation with the demo agent, then stop"), "infra.cli.demo"
    )
    _config(commands.add_parser("config", help="show the settings, and where each comes from"))
    _chat(commands.add_parser("chat", help="talk with an agent or model of the running stack"))
    _run(commands.add_parser("run", help="send one message to an agent or model of the running stack"))
    _replay(commands.add_parser("replay", help="read, show and verify what happened"))
    _doctor(commands.add_parser("doctor", help="say what would break on this machine, and how to mend it"))
    _completion(commands.add_parser("completion", help="print a script that lets a shell complete this command"))
    return whole


def _stack(parser: argparse.ArgumentParser, module: str) -> None:
    parser.set_defaults(module=module)
    _settings(parser)
    parser.add_argument(
        "--json", action="store_true", help="for programs: up prints where everything is, demo every frame, as JSON"
    )


def _config(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="print every setting as it would be used")
    show.set_defaults(module="infra.cli.config")
    _settings(show)
    show.add_argument("--origin", action="store_true", help="say where each value comes from")
    show.add_argument("--json", action="store_true", help="print one JSON object")


def _settings(parser: argparse.ArgumentParser) -> None:
    _data(parser)
    parser.add_argument(
        "--config", default=None, metavar="FILE", help="TOML file (default: ostinato.toml, if it is here)"
    )
    parser.add_argument("--host", default=None, help="address of the HTTP bridge (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=None, help="port of the HTTP bridge (up: 8000, demo: a free one)")
    parser.add_argument("--model", default=None, help="folder in Hugging Face layout, or hub id (default: embedded)")
    parser.add_argument("--model-name", default=None, help="the name clients ask for (default: after the model)")
    parser.add_argument(
        "--agents", action="append", default=None, metavar="FILE", help="Python file with Agent objects"
    )
    parser.add_argument("--context-length", type=_positive, default=None, help="tokens (default: the model's own)")
    parser.add_argument("--kv-memory-mb", type=_positive, default=None, help="memory for KV blocks (default: 256)")
    parser.add_argument("--agent-processes", type=_positive, default=None, help="how many processes run agents")


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.chat")
    _data(parser)
    parser.add_argument(
        "partner",
        metavar="AGENT|MODEL",
        nargs="?",
        default="agent/demo",
        help="agent/NAME or NAME an agent, a served model's name that model alone (default: %(default)s)",
    )
    parser.add_argument("--thread", default=None, help="continue this thread (default: a new one)")
    parser.add_argument("--json", action="store_true", help="print every frame as a JSON line; each line in a message")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.run")
    _data(parser)
    parser.add_argument("agent", metavar="AGENT|MODEL", help="an agent's name, such as demo, or a served model's")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to say to it; - or nothing reads a pipe")
    parser.add_argument("--thread", default=None, help="continue this thread (default: a new one)")
    parser.add_argument("--json", action="store_true", help="print every frame as a JSON line")


def _replay(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    ls = verbs.add_parser("ls", help="list threads, latest first")
    ls.set_defaults(module="infra.cli.replay", verb="ls")
    ls.add_argument("--limit", type=_positive, default=20)
    ls.add_argument("--json", action="store_true", help="one JSON object a line")
    show = verbs.add_parser("show", help="show what happened in a thread, run or generation")
    show.set_defaults(module="infra.cli.replay", verb="show")
    show.add_argument("id", metavar="ID")
    show.add_argument("--steps", action="store_true", help="with the scheduler steps behind each model call")
    show.add_argument("--json", action="store_true", help="one JSON object a line")
    verify = verbs.add_parser("verify", help="decide again what was decided, and compare")
    verify.set_defaults(module="infra.cli.replay", verb="verify")
    verify.add_argument("ids", metavar="ID", nargs="*")
    verify.add_argument("--all", action="store_true", help="every thread and generation")
    verify.add_argument("--json", action="store_true", help="one JSON object a line")
    for verb in (show, verify):
        verb.add_argument("--tenant", default="default", help="whose threads (default: %(default)s)")
    for verb in (ls, show, verify):
        _data(verb)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(module="infra.cli.doctor")
    _data(parser)
    parser.add_argument("--host", default=None, help="address of the HTTP bridge (default: as configured)")
    parser.add_argument("--port", type=_port, default=None, help="port of the HTTP bridge (default: as configured)")
    parser.add_argument("--nats", default=None, metavar="URL", help="look at this NATS server instead of our own")
    parser.add_argument("--postgres", default=None, metavar="URL", help="look at this Postgres instead of our own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _completion(commands: argparse.ArgumentParser) -> None:
    commands.set_defaults(module="infra.cli.completion", parser=parser)
    commands.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish", "words"), help="bash, zsh or fish")
    commands.add_argument("words", nargs="*", help=argparse.SUPPRESS)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default=_NotGiven(".ostinato"), metavar="DIR", help="data directory (default: %(default)s)"
    )


if __name__ == "__main__":
    main()
