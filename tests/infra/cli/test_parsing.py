"""Command lines that argparse alone would misread."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from infra.cli.main import parser
from infra.cli.run import message_of


def ostinato(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("order", [("Hi", "--thread", "t-1"), ("--thread", "t-1", "Hi")])
def test_a_text_may_stand_behind_options(order: tuple[str, ...], tmp_path: Path) -> None:
    done = ostinato("run", "demo", *order, "--data", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "no stack runs on" in done.stderr


@pytest.mark.parametrize("argv", [("run", "demo", "Hi", "more"), ("run", "demo", "--no", "Hi"), ("replay", "ls", "x")])
def test_what_nothing_takes_is_a_usage_error(argv: tuple[str, ...]) -> None:
    done = ostinato(*argv)
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr
    assert done.stderr.startswith(f"usage: ostinato {argv[0]} ")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("up", "--port", "abc"), "'abc' is no whole number"),
        (("replay", "ls", "--limit", "0"), "0 is less than 1"),
        (("completion",), "the following arguments are required: SHELL\n"),
    ],
)
def test_a_usage_error_speaks_of_what_was_typed(argv: tuple[str, ...], told: str) -> None:
    done = ostinato(*argv)
    assert done.returncode == 2
    assert told in done.stderr


def test_the_version_is_told() -> None:
    done = ostinato("--version")
    assert done.returncode == 0
    assert done.stdout == f"ostinato {version('ostinato')}\n"


def test_an_empty_message_is_not_sent(tmp_path: Path) -> None:
    done = ostinato("run", "demo", " ", "--data", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "the message is empty" in done.stderr


@pytest.mark.parametrize(
    ("text", "pipe", "said"),
    [
        (None, "What is 2 times 3?\n", "What is 2 times 3?"),
        ("-", "one\ntwo\n\n", "one\ntwo"),
        ("Hi\n", "unread", "Hi\n"),
        (None, " \n", ""),
        ("", "unread", ""),
    ],
)
def test_a_message_is_what_is_typed_or_piped(text: str | None, pipe: str, said: str) -> None:
    assert message_of(text, io.StringIO(pipe)) == said


def parsers(whole: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield whole
    for action in whole._actions:
        for inner in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from parsers(inner)


@pytest.mark.parametrize("command", list(parsers(parser())), ids=lambda command: command.prog)
def test_every_help_says_what_the_command_does_and_what_each_argument_is(command: argparse.ArgumentParser) -> None:
    assert command.description
    nameless = [action for action in command._actions if not isinstance(action, argparse._SubParsersAction)]
    assert all(action.help for action in nameless)
