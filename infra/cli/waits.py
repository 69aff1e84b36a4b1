"""`ostinato waits`: what runs wait for a person to say, over all threads, and the answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from actors.runtime.context import SystemChance, SystemClock
from bus.projector import bring_up
from bus.waits import Wait, waits
from infra.access import current_record
from infra.cli.asking import approval_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import printable, style_for
from infra.redaction import Redactor
from schemas import codec
from schemas.commands import Approve, Deny, Resume
from schemas.times import rfc3339

_MANY = 10_000
_DONE = {"approve": "is approved", "decline": "is declined", "resume": "has its data"}
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def main(options: argparse.Namespace) -> int:
    """List what waits, or answer one; exit code 1 when there is no such wait, or it is refused."""
    if options.verb == "list":
        return _list(options)
    if options.verb == "resume":
        try:
            options.given = json.loads(options.answer)
        except ValueError as error:
            sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: --answer: no JSON: {error}") + "\n")
            return 1
    found = asyncio.run(_found(options, _MANY))
    kind = "data" if options.verb == "resume" else "approval"
    fitting = [wait for wait in found if wait.kind == kind and _is_meant(wait, options)]
    if len(fitting) != 1:
        names = ", ".join(wait.effect for wait in fitting)
        why = f"more than one call waits there: name one of {names}" if fitting else f"no call waits for {kind} there"
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: thread {options.thread!r}: {why}") + "\n")
        return 1
    return _answer(options, fitting[0])


def _is_meant(wait: Wait, options: argparse.Namespace) -> bool:
    return wait.thread == options.thread and options.effect in {None, wait.effect}


def _answer(options: argparse.Namespace, wait: Wait) -> int:
    answer: Approve | Deny | Resume
    if options.verb == "approve":
        answer = Approve(effect=wait.effect, arguments=wait.call.arguments, always=options.always)
    elif options.verb == "decline":
        answer = Deny(effect=wait.effect, reason=options.reason)
    else:
        answer = Resume(effect=wait.effect, answer=options.given)
    with session(options.data, _notice) as line:
        outcome = line.send(approval_command(wait.thread, answer, wait.tenant))
    if options.json:
        say_json(outcome)
    elif outcome.problem is None:
        say(f"{wait.call.name} in thread {wait.thread} {_DONE[options.verb]}")
    else:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 0 if outcome.result == "accepted" else 1


def _list(options: argparse.Namespace) -> int:
    found = asyncio.run(_found(options, options.limit))
    shown = Shown(None if options.clear else Redactor(SystemChance().bits(128).to_bytes(16, "big")))
    if options.json:
        for wait in found:
            say_json(shown.as_json(wait))
    elif not found:
        say("nothing waits")
    else:
        now = SystemClock().now()
        for wait in found:
            say(shown.line(wait, now))
        if not options.clear:  # whoever agrees to them must know that these are not what is called
            sys.stderr.write("names and numbers stand for others: --clear shows the arguments as they are\n")
    return 0


async def _found(options: argparse.Namespace, limit: int) -> list[Wait]:
    async with current_record(options.data) as (store, _):
        await bring_up(store)
        return await waits(store, options.tenant, limit)


class Shown:
    """How waits are shown: with placeholders for what was said, unless there is no redactor."""

    def __init__(self, redactor: Redactor | None) -> None:
        self._redactor = redactor

    def as_json(self, wait: Wait) -> dict[str, Any]:
        """Give all of a wait."""
        told = {name: value for name, value in wait._asdict().items() if name not in {"call", "payload", "since"}}
        told |= {"tool": wait.call.name, "since": rfc3339(wait.since), "arguments": self._text(wait.call.arguments)}
        return told if wait.payload is None else {**told, "payload": self._text(_json(wait.payload))}

    def line(self, wait: Wait, now: int) -> str:
        """Tell of a wait in one line."""
        asks = "" if wait.payload is None else f"  asks {self._text(_json(wait.payload))}"
        where = f"{wait.tenant}/{wait.thread}  {wait.effect}"
        call = f"{wait.agent} {wait.call.name} {self._text(wait.call.arguments)}"
        return printable(f"{_age(now - wait.since):>6}  {wait.kind:<8}  {where}  {call}{asks}")

    def _text(self, text: str) -> str:
        return text if self._redactor is None else self._redactor.text(text)


def _json(value: object) -> str:
    return codec.encode(value).decode()


def _age(microseconds: int) -> str:
    seconds = max(0, microseconds // 1_000_000)
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds >= size), ("s", 1))
    return f"{seconds // size} {unit}"


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")
