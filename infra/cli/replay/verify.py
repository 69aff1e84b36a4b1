"""`ostinato replay verify`: decide again what was decided, and say where the record and today's code part."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from bus.store import Store
from infra.access import recorded
from infra.cli.progress import Bar
from infra.cli.replay.checking import Checked, check
from infra.cli.replay.printing import say, say_json
from infra.cli.replay.sweeping import sweep
from infra.cli.terminal import printable, style_for
from infra.errors import NothingRecorded


class Totals(msgspec.Struct):
    """What a verification counted over all its threads."""

    threads: int = 0
    events: int = 0
    decisions: int = 0
    differing: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    decisions_per_s: int = 0

    def add(self, outcomes: Sequence[Checked]) -> None:
        """Count some threads."""
        self.threads += len(outcomes)
        for checked in outcomes:
            self.events += checked.events
            self.decisions += checked.decisions
            self.differing += checked.state == "differs"
            self.unreadable += checked.state == "unreadable"

    def took(self, seconds: float) -> None:
        """Note how long it has taken so far."""
        self.seconds = round(seconds, 3)
        self.decisions_per_s = round(self.decisions / seconds) if seconds else 0

    def text(self) -> str:
        """Write it for a terminal."""
        unreadable = f", {self.unreadable} cannot be read" if self.unreadable else ""
        counts = f"{self.events} events, {self.decisions} decisions in {self.seconds:.2f} s"
        return f"{self.threads} verified, {self.differing} differ{unreadable} ({counts})"


def main(options: argparse.Namespace) -> int:
    """Verify the threads named, or all; exit code 1 unless all of them can be read and are decided the same today."""
    if bool(options.ids) == options.all:
        sys.stderr.write("ostinato replay verify: name threads, or use --all\n")
        return 2
    return asyncio.run(_verify(options))


async def _verify(options: argparse.Namespace) -> int:
    totals = Totals()
    async with recorded(options.data) as store:
        began = time.monotonic()  # starting servers is not verifying
        with Bar(sys.stderr, "verifying") as bar:

            def progress(done: int, parts: int) -> None:
                totals.took(time.monotonic() - began)
                bar(done, parts, f"{totals.threads} threads, {totals.decisions_per_s} decisions/s")

            jobs = options.jobs or os.cpu_count() or 1
            found = sweep(store, jobs, progress) if options.all else _named(store, options.tenant, options.ids)
            async with aclosing(found):
                async for outcomes in found:
                    told = [checked for checked in outcomes if options.json or not options.all or not checked.ok]
                    _tell_all(bar, told, options.json)
                    totals.add(outcomes)
        totals.took(time.monotonic() - began)
    if options.json:
        say_json({"summary": totals})
    else:
        say(totals.text())
    return 1 if totals.differing or totals.unreadable else 0


async def _named(store: Store, tenant: str, identities: list[str]) -> AsyncGenerator[list[Checked], None]:
    for identity in identities:
        events = await store.events_of_thread(tenant, identity)
        if not events:
            raise NothingRecorded(identity)
        yield [check(events)]


def _tell_all(bar: Bar, outcomes: Sequence[Checked], as_json: bool) -> None:
    if outcomes:
        bar.clear()
    for checked in outcomes:
        if as_json:
            say_json(checked)
        else:
            _tell(checked)


def _tell(checked: Checked) -> None:
    if checked.ok:
        waits = f", still open: {', '.join(checked.open)}" if checked.open else ""
        say(f"{checked.thread}: same ({checked.events} events, {checked.decisions} decisions{waits})")
        return
    style = style_for(sys.stdout)
    verdict = "DIFFERS" if checked.state == "differs" else "CANNOT BE READ"
    say(f"{checked.thread}: {style.problem(verdict)} at {checked.place}, event {checked.event}")
    if checked.state == "differs":
        say(f"    the code decides  {printable(checked.expected)}")
        say(f"    the record says   {printable(checked.actual)}")
    else:
        say(f"    the record holds  {printable(checked.actual)}")
