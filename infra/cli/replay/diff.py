"""`ostinato replay diff`: where two threads part, in what, and how each went on. Exit code 0 same, 1 not, 2 trouble."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from bus.store import StoredEvent
from infra.cli.printing import say, say_json
from infra.cli.replay.difference import Event, Row, beside, comparable
from infra.cli.replay.source import source
from infra.cli.terminal import Style, printable, style_for
from infra.cli.timeline import Line, lines
from infra.errors import NothingRecorded
from schemas.errors import SchemaError

_NARROWEST = 60


def main(options: argparse.Namespace) -> int:
    """Compare two threads."""
    try:
        a, b = asyncio.run(_read(options))
        told = (lines(a), lines(b))
    except (NothingRecorded, SchemaError) as error:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {error}") + "\n")
        return 2
    rows = beside(comparable(a), comparable(b))
    if options.json:
        _print_json(options, rows, told)
    else:
        _print(options, rows, told)
    return 1 if rows else 0


async def _read(options: argparse.Namespace) -> list[list[StoredEvent]]:
    async with source(options) as threads:
        return [(await threads.thread(options.tenant, identity)).events for identity in (options.a, options.b)]


Told = tuple[Sequence[Line], Sequence[Line]]


def _print_json(options: argparse.Namespace, rows: Sequence[Row], told: Told) -> None:
    first = rows[0] if rows else None
    say_json(
        {
            "same": not rows,
            "a": {"thread": options.a, "events": len(told[0])},
            "b": {"thread": options.b, "events": len(told[1])},
            "first": None if first is None else _row(first, told),
        }
    )
    for row in rows:
        say_json(_row(row, told))


def _row(row: Row, told: Told) -> dict[str, Any]:
    return {
        "same": row.same,
        **{side: _side(event, line) for side, event, line in zip("ab", (row.a, row.b), told, strict=True)},
        "fields": row.fields(),
    }


def _side(event: Event | None, told: Sequence[Line]) -> dict[str, Any] | None:
    if event is None:
        return None
    return {"number": event.number, "type": event.type, "summary": told[event.number - 1].summary}


def _print(options: argparse.Namespace, rows: Sequence[Row], told: Told) -> None:
    if not rows:
        say(f"same: {options.a} and {options.b} ({len(told[0])} events)")
        return
    style, first = style_for(sys.stdout), rows[0]
    say(f"first difference: {_named(first.a, options.a)}, {_named(first.b, options.b)}")
    for field in first.fields():
        for name, value in (("a", field.a), ("b", field.b)):
            say(f"    {field.field:<24} {name}  {_value(value)}")
    say("")
    width = (max(shutil.get_terminal_size((120, 24)).columns, _NARROWEST) - 3) // 2
    say(style.name(f"{fitted(options.a, width)}   {fitted(options.b, width).rstrip()}"))
    for row in rows:
        say(_beside(row, told, width, style))


def _named(event: Event | None, identity: str) -> str:
    return f"{identity} ends" if event is None else f"event {event.number} ({event.type}) of {identity}"


def _value(value: object) -> str:
    return "not there" if value is None else printable(msgspec.json.encode(value).decode())


def _beside(row: Row, told: Told, width: int, style: Style) -> str:
    left, right = (
        fitted("" if event is None else _told(told[side][event.number - 1]), width)
        for side, event in enumerate((row.a, row.b))
    )
    mark = " " if row.same else "<" if row.b is None else ">" if row.a is None else "|"
    line = f"{left} {mark} {right}".rstrip()
    return style.aside(line) if row.same else style.problem(line)


def _told(line: Line) -> str:
    return f"{line.number:>4} {line.kind:<17} {line.summary}"


def fitted(text: str, width: int) -> str:
    """Make a text exactly so wide on a terminal, where some characters are two columns wide and some none."""
    clean, used = "", 0
    for character in printable(text).replace("\n", " "):
        wide = 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in {"W", "F"})
        if used + wide > width - 1:
            return clean + "…" + " " * (width - used - 1)
        clean, used = clean + character, used + wide
    return clean + " " * (width - used)
