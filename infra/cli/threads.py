"""`ostinato thread`: begin a thread, rename it, or end it for good."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from infra.cli.asking import schedule_command, thread_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import style_for
from infra.errors import ThreadUnfit
from schemas.live import Outcome
from schemas.memory import CreateThread, DeleteThread, RenameThread
from schemas.schedules import RemoveSchedule

T = TypeVar("T")

_DONE = {"create": "begun", "rename": "renamed", "delete": "deleted"}


def main(options: argparse.Namespace) -> int:
    """Send the command; exit code 1 when it is refused."""
    if options.verb == "delete" and bool(options.thread) == bool(options.resource):
        sys.stderr.write("ostinato thread delete: name a thread, or --resource\n")
        return 2
    if options.verb == "delete" and options.resource:
        return _delete_all(options)
    command = thread_command(options.thread, _wanted(options), options.tenant)
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"thread {command.thread} is {_DONE[options.verb]}")
    else:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 0 if outcome.result == "accepted" else 1


def _delete_all(options: argparse.Namespace) -> int:
    """Remove every schedule of a resource, and delete every thread, those that begin meanwhile too."""
    seen: set[str] = set()
    count = 0
    with session(options.data, _notice) as line:
        schedules = line.schedules_of(options.tenant, options.resource)
        removed = [line.send(schedule_command(name, RemoveSchedule(), options.tenant)) for name in schedules]
        _tell_problems(removed)
        # what lists them hears of a deletion a moment later
        while names := [name for name in line.threads_of(options.tenant, options.resource) if name not in seen]:
            seen.update(names)
            for name in names:
                outcome = line.send(thread_command(name, _wanted(options), options.tenant))
                count += outcome.problem is None
                _tell_problems([outcome])
    gone = sum(outcome.problem is None for outcome in removed)
    if options.json:
        say_json({"resource": options.resource, "deleted": count, "schedules": gone})
    else:
        say(f"{count} threads of {options.resource} are deleted")
        if schedules:
            say(f"{gone} schedules of {options.resource} are removed")
    return 0 if (count, gone) == (len(seen), len(schedules)) else 1


def _tell_problems(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.problem is not None:
            sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")


def _wanted(options: argparse.Namespace) -> CreateThread | RenameThread | DeleteThread:
    if options.verb == "delete":
        return DeleteThread(reason=options.reason)
    notes = _notes(options.metadata)
    if options.verb == "rename":
        fields = {"title": options.title, "metadata": {name: value or None for name, value in notes.items()}}
        return _checked(fields, RenameThread)
    return _checked(
        {"resource": options.resource, "title": options.title or "", "metadata": notes},
        CreateThread,
    )


def _checked(fields: dict[str, object], shape: type[T]) -> T:
    try:
        return msgspec.convert({"type": shape.__struct_config__.tag, **fields}, shape)  # type: ignore[attr-defined]
    except msgspec.ValidationError as error:
        raise ThreadUnfit(str(error)) from error


def _notes(pairs: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` pairs.

    Raises:
        ThreadUnfit: one is not of that form.
    """
    notes: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ThreadUnfit(f"--metadata {pair!r}: write NAME=VALUE (rename with NAME= takes it away)")
        notes[name] = value
    return notes


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
