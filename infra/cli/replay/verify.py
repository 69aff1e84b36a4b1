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

from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.replay.checking import Checked, check, unchecked
from infra.cli.replay.source import BundledThreads, RecordedThreads, source
from infra.cli.replay.sweeping import Progress, sweep
from infra.cli.terminal import printable, style_for


class Totals(msgspec.Struct):
    """What a verification counted over all its threads."""

    threads: int = 0
    events: int = 0
    decisions: int = 0
    differing: int = 0
    unreadable: int = 0
    redacted: int = 0
    erased: int = 0
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
            self.redacted += checked.state == "redacted"
            self.erased += checked.state == "erased"

    def took(self, seconds: float) -> None:
        """Note how long it has taken so far."""
        self.seconds = round(seconds, 3)
        self.decisions_per_s = round(self.decisions / seconds) if seconds else 0

    def text(self) -> str:
        """Write it for a terminal."""
        unreadable = f", {self.unreadable} cannot be read" if self.unreadable else ""
        redacted = f", {self.redacted} cannot be verified" if self.redacted else ""
        erased = f" ({self.erased} of them erased)" if self.erased else ""
        counts = f"{self.events} events, {self.decisions} decisions in {self.seconds:.2f} s"
        verified = f"{self.threads - self.redacted} verified{erased}"
        return f"{verified}, {self.differing} differ{unreadable}{redacted} ({counts})"


def main(options: argparse.Namespace) -> int:
    """Verify the threads named, or all; exit code 1 unless all of them can be read and are decided the same today."""
    if bool(options.ids) == options.all:
        sys.stderr.write("ostinato replay verify: name threads, or use --all\n")
        return 2
    return asyncio.run(_verify(options))


async def _verify(options: argparse.Namespace) -> int:
    totals = Totals()
    async with source(options) as threads:
        began = time.monotonic()  # starting servers is not verifying
        with Bar(sys.stderr, "verifying") as bar:

            def progress(done: int, parts: int) -> None:
                totals.took(time.monotonic() - began)
                bar(done, parts, f"{totals.threads} threads, {totals.decisions_per_s} decisions/s")

            async with aclosing(_outcomes(threads, options, progress)) as found:
                async for outcomes in found:
                    told = [checked for checked in outcomes if options.json or not options.all or not checked.ok]
                    _tell_all(bar, told, options.json)
                    totals.add(outcomes)
        totals.took(time.monotonic() - began)
    if options.json:
        say_json({"summary": totals})
    else:
        say(totals.text())
    return 1 if totals.differing or totals.unreadable or totals.redacted else 0


async def _outcomes(
    threads: RecordedThreads | BundledThreads, options: argparse.Namespace, progress: Progress
) -> AsyncGenerator[list[Checked], None]:
    """Check what the command line names, some threads at a time."""
    if not options.all:
        for identity in options.ids:
            found = await threads.thread(options.tenant, identity)
            yield [unchecked(found.events) if found.redacted else check(found.events)]
    elif isinstance(threads, BundledThreads):
        for whole in threads.all():
            yield [unchecked(whole.events) if whole.redacted else check(whole.events)]
            await asyncio.sleep(0)
    else:
        async with aclosing(sweep(threads.store, options.jobs or os.cpu_count() or 1, progress)) as swept:
            async for outcomes in swept:
                yield outcomes


def _tell_all(bar: Bar, outcomes: Sequence[Checked], as_json: bool) -> None:
    if outcomes:
        bar.clear()
    for checked in outcomes:
        if as_json:
            say_json(checked)
        else:
            _tell(checked)


def _tell(checked: Checked) -> None:
    if checked.state == "erased" and checked.ok:
        say(f"{checked.thread}: erased ({checked.events} events, in order; what they held cannot be read any more)")
        return
    if checked.ok:
        waits = f", still open: {', '.join(checked.open)}" if checked.open else ""
        say(f"{checked.thread}: same ({checked.events} events, {checked.decisions} decisions{waits})")
        return
    style = style_for(sys.stdout)
    if checked.state == "redacted":
        verdict = style.problem("CANNOT BE VERIFIED")
        say(f"{checked.thread}: {verdict}: decisions depend on its texts, which were redacted (export --no-redact)")
        return
    verdict = "DIFFERS" if checked.state == "differs" else "CANNOT BE READ"
    say(f"{checked.thread}: {style.problem(verdict)} at {checked.place}, event {checked.event}")
    if checked.state == "differs":
        say(f"    the code decides  {printable(checked.expected)}")
        say(f"    the record says   {printable(checked.actual)}")
    else:
        say(f"    the record holds  {printable(checked.actual)}")
