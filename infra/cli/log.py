"""`ostinato log`: see that both copies of the log are whole, and mend them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from actors.runtime.context import SystemClock, SystemIds
from bus.feed import Item
from bus.inspection import Damage, Inspection, inspect
from bus.repair import repair
from infra.access import log_servers, resting_log_servers
from infra.cli.hints import on_data, program
from infra.cli.terminal import redraws, style_for
from infra.upkeep import set_aside, summary
from schemas.times import rfc3339


def main(options: argparse.Namespace) -> int:
    """Run one verb; exit code 1 where the log is damaged, or a repair had to cut or to give up something."""
    return asyncio.run(_VERBS[options.verb](options))


async def _verify(options: argparse.Namespace) -> int:
    async with log_servers(options.data) as (connection, store):
        with _Percent("checking") as percent:
            found = await inspect(connection, store, percent)
    for damage in found.damages:
        _print(_json(damage) if options.json else _line(damage))
    if options.json:
        _print(_json({"whole": found.whole, **_counts(found)}))
        return 0 if found.whole else 1
    _print(f"JetStream   {found.envelopes:,} envelopes with {found.facts:,} events, up to {found.bounds.last:,}")
    _print(f"Postgres    {found.recorded:,} envelopes, incarnation {found.cursor.incarnation}")
    style = style_for(sys.stdout)
    if found.whole:
        _print("the log is whole")
        return 0
    mend = f"stop the stack, then {program()} log repair{on_data(options.data)}"
    _print(f"{style.problem('the log is damaged')}: {mend}")
    return 1


async def _repair(options: argparse.Namespace) -> int:
    name = rfc3339(SystemClock().now()).replace(":", "").replace(".", "-")
    file = Path(options.data) / f"cut-{name}.jsonl"

    async def cut(items: list[Item]) -> None:
        await set_aside(items, file)

    async with resting_log_servers(options.data) as (connection, store):
        with _Percent("mending") as percent:
            done = await repair(connection, store, SystemIds().new("p"), cut, percent)
    bad = bool(done.cut or done.lost)
    if options.json:
        told = {name: value for name, value in done._asdict().items() if name != "before"}
        _print(_json({"damaged": not done.before.whole, **told, "cut_to": str(file) if done.cut else None}))
        return 1 if bad else 0
    _print(f"{'the log was whole' if done.before.whole else 'the log is whole again'}: {summary(done)}")
    if done.cut:
        _print(f"what was cut out lies in {file}")
    return 1 if bad else 0


def _counts(found: Inspection) -> dict[str, object]:
    return {
        "envelopes": found.envelopes,
        "events": found.facts,
        "last": found.bounds.last,
        "recorded": found.recorded,
        "incarnation": found.cursor.incarnation,
        "damages": len(found.damages),
    }


def _line(damage: Damage) -> str:
    copy = "JetStream" if damage.where == "log" else "Postgres"
    where = f"sequence {damage.first}" if damage.first == damage.last else f"sequences {damage.first} to {damage.last}"
    style = style_for(sys.stdout)
    return f"{style.problem('damaged')}     {copy}: {where}: {damage.problem}"


class _Percent:
    """Shows in a terminal how far something is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = -1
        self._redraws = redraws(sys.stderr)

    def __enter__(self) -> Callable[[int, int], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._shown >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, done: int, of_all: int) -> None:
        percent = 100 * done // max(1, of_all)
        if self._redraws and percent != self._shown:
            self._shown = percent
            sys.stderr.write(f"\r{self._what} … {percent} % of {of_all:,}")
            sys.stderr.flush()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


_VERBS = {"verify": _verify, "repair": _repair}
