"""`ostinato replay tail`: what is committed, one line an event. A lost server is waited for, and nothing is missed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing

import msgspec

from bus.connection import Connection
from bus.log import Stored
from bus.tail import commits, last_sequence
from infra.access import runtime_of
from infra.cli.printing import say, say_json
from infra.cli.terminal import Style, printable, style_for
from infra.cli.timeline import PROBLEMS, WIDTH, tokens_of, told_of
from infra.privacy import known_master, opened_store
from schemas import codec
from schemas.envelope import Fact
from schemas.errors import SchemaError
from schemas.times import rfc3339


class TailLine(msgspec.Struct, frozen=True):
    """One event, as it was committed."""

    place: str
    """`<sequence>/<index>` in the log."""
    time: str
    thread: str
    actor: str
    kind: str
    """The event's type."""
    entity: str
    version: int
    summary: str
    tokens: str
    cause: str
    data: msgspec.Raw

    def text(self, style: Style) -> str:
        """Write it for a terminal."""
        summary = printable(self.summary).replace("\n", " ")
        summary = summary if len(summary) <= WIDTH else summary[: WIDTH - 1] + "…"
        end = f"{self.kind:<18} {self.tokens:>12}  {summary}".rstrip()
        if self.kind in PROBLEMS:
            end = style.problem(end)
        thread, actor = f"{printable(self.thread):<24}", f"{printable(self.actor):<10}"
        return f"{style.aside(self.time[11:23])} {style.name(thread)} {actor} {end}"


def main(options: argparse.Namespace) -> int:
    """Follow until Ctrl-C."""
    asyncio.run(_tail(options))
    return 0


async def _tail(options: argparse.Namespace) -> None:
    runtime = runtime_of(options.data)
    master = await asyncio.to_thread(known_master, options.data)
    async with (
        await Connection.open(runtime.urls["nats"], "tail") as connection,
        await opened_store(runtime.urls["postgres"], master) as store,
    ):
        connection.keys = store.keys
        at = await last_sequence(connection)
        _notice(f"following what is committed after {at}; Ctrl-C ends it")
        lost, found = _notices(options.data)
        async with aclosing(commits(connection, at, lost, found)) as following:
            async for stored in following:
                _print(lines_of(stored, options.tenant, options.id), options.json)


def _print(lines: Sequence[TailLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            say_json(line)
        else:
            say(line.text(style_for(sys.stdout)))
    sys.stdout.flush()


def lines_of(stored: Stored, tenant: str, wanted: str | None) -> list[TailLine]:
    """Tell the events of an envelope that are the tenant's and, where an id or a type is given, about that."""
    return [
        _line(stored, index, fact)
        for index, fact in enumerate(stored.envelope.facts)
        if fact.kind != "shard" and fact.tenant == tenant and (wanted is None or _about(fact, wanted))
    ]


def _about(fact: Fact, wanted: str) -> bool:
    named = {fact.thread, fact.entity, fact.cause, fact.type}
    return wanted in named or fact.cause.startswith(f"{wanted}-")


def _line(stored: Stored, index: int, fact: Fact) -> TailLine:
    try:
        event = codec.event_of(fact)
        (actor, summary), tokens = told_of(event), tokens_of(event)
    except SchemaError as error:
        actor, summary, tokens = "", f"cannot be read: {error}", ""
    return TailLine(
        place=f"{stored.sequence}/{index}",
        time=rfc3339(stored.envelope.time),
        thread=fact.thread,
        actor=actor,
        kind=fact.type,
        entity=fact.entity,
        version=fact.version,
        summary=summary,
        tokens=tokens,
        cause=fact.cause,
        data=fact.payload,
    )


def _notices(data: str) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Make what tells, once each time, that the bus is away and that it is back."""
    away = False

    def lost(_: str) -> None:
        nonlocal away
        runtime_of(data)  # where no stack runs any more there is nothing to wait for
        if not away:
            _notice("the event bus does not answer: waiting for it; Ctrl-C stops waiting")
        away = True

    def found() -> None:
        nonlocal away
        if away:
            _notice("the event bus is back; nothing was missed")
        away = False

    return lost, found


def _notice(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(style_for(sys.stderr).aside(f"({text})") + "\n")
    sys.stderr.flush()
