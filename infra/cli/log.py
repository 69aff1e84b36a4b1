"""`ostinato log`: see that both copies of the log are whole, and mend them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from actors.runtime.context import SystemClock, SystemIds
from bus.feed import Item
from bus.inspection import Damage, Inspection, inspect
from bus.repair import repair
from bus.snapshots import drop_snapshots
from infra.access import log_servers, resting_log_servers
from infra.cli.hints import on_data, program
from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.terminal import style_for
from infra.snapshots import check_snapshots
from infra.upkeep import set_aside, summary
from schemas.times import rfc3339


def main(options: argparse.Namespace) -> int:
    """Run one verb; exit code 1 where the log is damaged, or a repair had to cut or to give up something."""
    return asyncio.run(_VERBS[options.verb](options))


async def _verify(options: argparse.Namespace) -> int:
    async with log_servers(options.data) as (connection, store):
        with Bar(sys.stderr, "checking") as bar:
            found = await inspect(connection, store, bar)
        with Bar(sys.stderr, "folding snapshots") as bar:
            snapshots = await check_snapshots(store, bar)
    for damage in found.damages:
        say_json(damage) if options.json else say(_line(damage))
    style = style_for(sys.stdout)
    if options.json:
        wrong = [one.key.thread for one in snapshots.wrong]
        say_json({"whole": found.whole, **_counts(found), "snapshots": snapshots.checked, "wrong_snapshots": wrong})
        return 0 if found.whole and not wrong else 1
    say(f"JetStream   {found.envelopes:,} envelopes with {found.facts:,} events, up to {found.bounds.last:,}")
    say(f"Postgres    {found.recorded:,} envelopes, incarnation {found.cursor.incarnation}")
    say(f"snapshots   {snapshots.checked:,}, of which {len(snapshots.wrong):,} differ from a fold from zero")
    for one in snapshots.wrong:
        say(f"{style.problem('wrong')}       snapshot of thread {one.key.thread} at sequence {one.sequence}")
    if found.whole and not snapshots.wrong:
        say("the log is whole")
        return 0
    mend = f"stop the stack, then {program()} log repair{on_data(options.data)}"
    say(f"{style.problem('the log is damaged')}: {mend}")
    return 1


async def _repair(options: argparse.Namespace) -> int:
    name = rfc3339(SystemClock().now()).replace(":", "").replace(".", "-")
    file = Path(options.data) / f"cut-{name}.jsonl"

    async def cut(items: list[Item]) -> None:
        await set_aside(items, file)

    async with resting_log_servers(options.data) as (connection, store):
        with Bar(sys.stderr, "mending") as bar:
            done = await repair(connection, store, SystemIds().new("p"), cut, bar)
        with Bar(sys.stderr, "folding snapshots") as bar:
            snapshots = await check_snapshots(store, bar)
        await drop_snapshots(store, [one.key for one in snapshots.wrong])
    bad = bool(done.cut or done.lost)
    if options.json:
        told = {name: value for name, value in done._asdict().items() if name != "before"}
        cut_to, dropped = str(file) if done.cut else None, len(snapshots.wrong)
        say_json({"damaged": not done.before.whole, **told, "cut_to": cut_to, "dropped_snapshots": dropped})
        return 1 if bad else 0
    say(f"{'the log was whole' if done.before.whole else 'the log is whole again'}: {summary(done)}")
    if snapshots.wrong:
        say(f"{len(snapshots.wrong)} snapshots differed from a fold from zero: dropped, their threads are folded anew")
    if done.cut:
        say(f"what was cut out lies in {file}")
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
    copy = {"log": "JetStream", "record": "Postgres", "blob": "object store"}[damage.where]
    where = f"sequence {damage.first}" if damage.first == damage.last else f"sequences {damage.first} to {damage.last}"
    style = style_for(sys.stdout)
    return f"{style.problem('damaged')}     {copy}: {where}: {damage.problem}"


_VERBS = {"verify": _verify, "repair": _repair}
