"""`ostinato dead`: the commands that nobody could handle: look at them, mend them, send them again, or drop them."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bus import subjects
from bus.connection import Connection
from bus.dead import Letter, command_id, drop, letter_at, letters, redrive
from bus.errors import BadSubject, NoSuchLetter
from bus.live import watching
from infra.access import runtime_of
from infra.cli.terminal import Style, printable, style_for
from infra.errors import InfraError
from schemas import codec
from schemas.errors import BadShape
from schemas.live import Outcome

_EVERY = 1_000_000
_OUTCOME_S = 10.0


class CannotMend(InfraError):
    """A letter's command cannot be sent as it stands."""


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return asyncio.run(_connected(options))


async def _connected(options: argparse.Namespace) -> int:
    async with await Connection.open(runtime_of(options.data).urls["nats"], "dead") as connection:
        return await _VERBS[options.verb](connection, options)


async def _ls(connection: Connection, options: argparse.Namespace) -> int:
    found = await letters(connection, options.limit)
    for letter in found:
        _print(_as_json(letter) if options.json else _line(letter, style_for(sys.stdout)))
    if not found and not options.json:
        _print("no dead letters")
    return 0


async def _show(connection: Connection, options: argparse.Namespace) -> int:
    letter = await letter_at(connection, options.number)
    if options.json:
        _print(_as_json(letter))
        return 0
    style, dead = style_for(sys.stdout), letter.dead
    cut = "" if dead.exact else "  (not to the last byte)"
    for name, text in (
        ("subject", dead.subject),
        ("time", letter.time),
        ("deliveries", str(dead.deliveries)),
        ("process", dead.process),
        ("error", dead.error.strip()),
        ("body", dead.body + cut),
    ):
        _print(f"{style.name(name.ljust(10))}  {printable(text)}")
    return 0


async def _edit(connection: Connection, options: argparse.Namespace) -> int:
    letter = await letter_at(connection, options.number)
    body = _given(options.body) if options.body is not None else await asyncio.to_thread(_edited, letter)
    if body == letter.dead.body.encode() and letter.dead.exact:
        _print("nothing was changed; `ostinato dead redrive` sends it as it is")
        return 0
    _refuse_unreadable(letter, body)
    return await _send(connection, letter, body, options)


async def _redrive(connection: Connection, options: argparse.Namespace) -> int:
    code = 0
    for letter in await _named(connection, options):
        if not letter.dead.exact:
            mend = f"mend it with `ostinato dead edit {letter.number}`"
            raise CannotMend(f"letter {letter.number} was not kept to the last byte: {mend}")
        code |= await _send(connection, letter, letter.dead.body.encode(), options)
    return code


async def _drop(connection: Connection, options: argparse.Namespace) -> int:
    for letter in await _named(connection, options):
        await drop(connection, letter.number)
        _print(_json({"number": letter.number, "result": "dropped"}) if options.json else f"{letter.number}  dropped")
    return 0


async def _named(connection: Connection, options: argparse.Namespace) -> list[Letter]:
    """Return the letters that are named, or all; none is touched where one of them is not there."""
    if options.all:
        return await letters(connection, _EVERY)
    if not options.numbers:
        raise CannotMend("name letters by their numbers, or use --all")
    return [await letter_at(connection, number) for number in dict.fromkeys(options.numbers)]


async def _send(connection: Connection, letter: Letter, body: bytes, options: argparse.Namespace) -> int:
    """Send a command again and tell what became of it."""
    tenant = letter.dead.subject.split(".")[2:3]
    identity = command_id(body)
    async with watching(connection, *_outcomes(tenant, identity)) as watcher:
        try:
            await redrive(connection, letter, body)
        except BadSubject as error:
            raise CannotMend(
                f"letter {letter.number} was sent where nothing can be handled ({error}): "
                "send it anew elsewhere, and drop this one"
            ) from error
        except NoSuchLetter:
            pass  # somebody dropped it meanwhile; it was sent all the same
        frame = await watcher.next(_OUTCOME_S) if identity is not None else None
    outcome = frame if isinstance(frame, Outcome) else None
    result = "sent" if outcome is None else outcome.result
    problem = outcome.problem.message if outcome is not None and outcome.problem is not None else ""
    if options.json:
        _print(_json({"number": letter.number, "command": identity, "result": result, "problem": problem}))
    else:
        _print(f"{letter.number}  {result}{': ' + printable(problem) if problem else ''}")
    return 0 if result in {"accepted", "sent"} else 1


def _outcomes(tenant: list[str], identity: str | None) -> list[str]:
    try:
        parts = [subjects.checked(part, "part") for part in (*tenant, identity or "")]
    except BadSubject:
        return []
    return [subjects.live(parts[0], "command", parts[1])]


def _refuse_unreadable(letter: Letter, body: bytes) -> None:
    """See that what was mended can be read now.

    Raises:
        CannotMend: it cannot; names the field.
    """
    try:
        where = subjects.parse_command(letter.dead.subject)
        codec.decode_command(where.tenant, where.kind, where.thread, where.verb, body)
    except (BadSubject, BadShape) as error:
        raise CannotMend(f"the command would be dead again: {error}") from error


def _given(place: str) -> bytes:
    return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()


def _edited(letter: Letter) -> bytes:
    """Let a person edit the body in `$VISUAL`, `$EDITOR` or vi. Blocks."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"letter-{letter.number}.json"
        file.write_text(letter.dead.body, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except FileNotFoundError as error:
            raise CannotMend(
                f"there is no editor {editor!r}: set EDITOR, or give the new body with --body FILE"
            ) from error
        if done.returncode != 0:
            raise CannotMend(f"{editor!r} ended with code {done.returncode}: nothing was changed")
        text = file.read_text(encoding="utf-8")
    # editors end a file with a line end, which the body need not have had
    return (text if letter.dead.body.endswith("\n") else text.removesuffix("\n")).encode()


def _line(letter: Letter, style: Style) -> str:
    parts = letter.dead.subject.split(".")
    what = f"{parts[3]}/{parts[5]}" if len(parts) == 6 else letter.dead.subject
    where = f"{parts[2]}/{parts[4]}" if len(parts) == 6 else ""
    why = letter.dead.error.strip().splitlines()[-1:]
    return "  ".join(
        (
            style.name(f"{letter.number:>4}"),
            style.aside(letter.time),
            printable(f"{what:<20}  {where:<32}"),
            style.problem(printable(why[0][:120] if why else "")),
        )
    )


def _as_json(letter: Letter) -> str:
    return _json({"number": letter.number, "time": letter.time, **msgspec.to_builtins(letter.dead)})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


_VERBS: dict[str, Callable[[Connection, argparse.Namespace], Awaitable[int]]] = {
    "ls": _ls,
    "show": _show,
    "edit": _edit,
    "redrive": _redrive,
    "drop": _drop,
}
