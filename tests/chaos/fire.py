"""One run: a stack, a load, faults one after the other, and the verdict. `python -m tests.chaos.fire --seconds 600`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from actors.runtime.supervisor import CRASHES, WINDOW_S
from infra.access import catch_up, resting_log_servers
from tests.chaos.faults import CLUSTER_FAULTS, FAULTS, Fault
from tests.chaos.load import Client, Ledger, Line, Saboteur, until_answered, until_recorded, until_served
from tests.chaos.oracle import Verdict, judge
from tests.chaos.stack import Cluster, Stack
from tests.system.foreign import Nodes, nats_servers

CLIENTS = 8
PROBES = 12
"""Threads that are asked after a fault: enough to meet every shard."""
CALM_S = 60.0
BEARABLE = CRASHES - 2
"""Ends of agents processes that the supervisor bears in its window."""


@dataclass(slots=True)
class Trials:
    """What happened with one fault."""

    recovery_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """A whole run."""

    seed: int
    faults: Sequence[Fault]
    trials: dict[str, Trials]
    verdict: Verdict
    kills: int
    seconds: float

    def figures(self) -> dict[str, float]:
        """Give the figures of `benchmarks/chaos.py`."""
        serving = [
            s for f in self.faults if f.kills and f.recovers == "commands" for s in self.trials[f.name].recovery_s
        ]
        return {
            "kills": self.kills,
            "lost": len(self.verdict.lost),
            "duplicated": len(self.verdict.duplicated),
            "reordered": len(self.verdict.reordered),
            "recovery_p99_s": round(_p99(serving), 3) if serving else 0.0,
            "commands": self.verdict.commands,
            "events": self.verdict.events,
            "tool_calls": self.verdict.tool_calls,
        }

    def broken(self) -> list[str]:
        """List the promises that did not hold, and the faults after which nothing served again."""
        verdict = self.verdict
        failures = [f"{name}: {failure}" for name, trials in self.trials.items() for failure in trials.failures]
        return [*verdict.lost, *verdict.duplicated, *verdict.reordered, *verdict.wrong, *failures]

    def table(self) -> str:
        """Print one line a fault."""
        lines = [f"{'fault':<24} {'trials':>6} {'recovery p50':>13} {'p99':>8}"]
        for fault in self.faults:
            trials = self.trials[fault.name]
            if trials.recovery_s:
                median, worst = statistics.median(trials.recovery_s), _p99(trials.recovery_s)
                lines.append(f"{fault.name:<24} {len(trials.recovery_s):>6} {median:>11.2f} s {worst:>6.2f} s")
            lines += [f"{fault.name:<24} FAILED: {failure}" for failure in trials.failures]
        verdict = self.verdict
        lines.append(
            f"\nseed {self.seed}: {self.kills} kills in {self.seconds:.0f} s; {verdict.commands} commands, "
            f"{verdict.events} events, {verdict.tool_calls} tool calls, "
            f"{verdict.poison} poisonous commands; lost {len(verdict.lost)}, "
            f"duplicated {len(verdict.duplicated)}, reordered {len(verdict.reordered)}"
        )
        for what in ("lost", "duplicated", "reordered", "wrong"):
            lines += [f"  {what}: {sentence}" for sentence in getattr(verdict, what)[:10]]
        return "\n".join(lines)


async def burn(
    folder: Path,
    seconds: float,
    seed: int,
    faults: Sequence[Fault] = FAULTS,
    nodes: Nodes | None = None,
    say: Callable[[str], None] = print,
) -> Report:
    """Run a stack under load and faults for a while, and judge what is left.

    Args:
        folder: an empty folder that anybody may enter.
        seconds: how long faults go on.
        seed: of the faults' order and the questions.
        faults: which.
        nodes: three nats-servers for the stack to use; it runs one of its own unless given.
        say: hears of each fault.
    """
    stack, ledger, chance = Stack(folder), Ledger(), random.Random(seed)
    if nodes is not None:
        stack = Stack(folder, "--nats", nodes.url)
        stack.cluster = Cluster(nodes)
    try:
        await stack.start()
        clients = [Client(Line(stack.urls, f"client-{n}"), ledger, n, seed, duplicates=n % 2) for n in range(CLIENTS)]
        saboteur = Saboteur(Line(stack.urls, "saboteur"), seed, CLIENTS)
        asking = [asyncio.create_task(one.run()) for one in (*clients, saboteur)]
        began = time.monotonic()
        trials, kills = await _faults(stack, chance, faults, began + seconds, say)
        for one in (*clients, saboteur):
            one.stopping.set()
        done, hanging = await asyncio.wait(asking, timeout=CALM_S)
        for task in done:
            task.result()
        took = time.monotonic() - began
        await stack.stop()
    finally:
        stack.kill()
    verdict = await _judged(stack, ledger, saboteur.taken)
    for task in hanging:
        task.cancel()
    if hanging:
        verdict.lost.append(f"{len(hanging)} clients had no answer {CALM_S:.0f} s after the last fault")
    return Report(seed, faults, trials, verdict, kills, took)


async def _faults(
    stack: Stack, chance: random.Random, faults: Sequence[Fault], end: float, say: Callable[[str], None]
) -> tuple[dict[str, Trials], int]:
    trials: dict[str, Trials] = defaultdict(Trials)
    kills = 0
    agents_died: deque[float] = deque(maxlen=BEARABLE)
    line = Line(stack.urls, "probe")
    await until_served(line, PROBES)
    while time.monotonic() < end:
        for fault in chance.sample(faults, len(faults)):
            if time.monotonic() >= end:
                break
            await asyncio.sleep(chance.uniform(0.2, 1.5) + _too_soon(agents_died))
            stack.check()
            try:
                began = time.monotonic()
                await fault.happen(stack, chance)
                kills += fault.kills
                if "agents" in fault.name:
                    agents_died.append(time.monotonic())
                if fault.recovers in {"record", "start"}:
                    await line.close()
                paused = time.monotonic() - began if stack.cluster is not None or not fault.kills else 0.0
                await _recovered(stack, line, fault)
                took = time.monotonic() - began - paused
            except (TimeoutError, OSError, httpx.HTTPError) as error:
                trials[fault.name].failures.append(f"{type(error).__name__}: {error}")
                await line.close()
            else:
                trials[fault.name].recovery_s.append(took)
                say(f"{fault.name:<24} {took:6.2f} s")
            await until_served(line, PROBES)
    await line.close()
    return trials, kills


def _too_soon(died: deque[float]) -> float:
    """Say how long to wait: a supervisor takes a process that ends again and again for one that cannot work."""
    return max(0.0, died[0] + WINDOW_S - time.monotonic()) if len(died) == died.maxlen else 0.0


async def _recovered(stack: Stack, line: Line, fault: Fault) -> None:
    if fault.recovers == "model":
        await until_answered(line, "ostinato-mini")
    elif fault.recovers == "record":
        await until_recorded(line)
    else:
        await until_served(line, PROBES)


async def _judged(stack: Stack, ledger: Ledger, poison: set[str]) -> Verdict:
    async with resting_log_servers(str(stack.data)) as (connection, store):
        await catch_up(connection, store)
        return await judge(connection, store, ledger, stack.witness, poison)


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def run(seconds: float, seed: int, only: Sequence[str] = (), servers: int = 1) -> int:
    """Burn, print the table and the figures; return 1 when a promise was broken."""
    logging.basicConfig(level=logging.CRITICAL)  # clients of a dying stack have much to say
    known = FAULTS if servers == 1 else CLUSTER_FAULTS
    faults = [fault for fault in known if not only or any(word in fault.name for word in only)]
    folder = Path(tempfile.mkdtemp(prefix="ostinato-chaos-"))
    folder.chmod(0o755)
    if servers == 1:
        report = asyncio.run(burn(folder, seconds, seed, faults))
    else:
        with nats_servers(folder, servers) as nodes:
            report = asyncio.run(burn(folder, seconds, seed, faults, nodes))
    print(report.table())  # noqa: T201
    print(json.dumps(report.figures()))  # noqa: T201
    if report.broken():
        sys.stderr.write(f"everything is left in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def main() -> None:
    """Burn as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults go on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="faults named with one of these")
    parser.add_argument("--cluster", action="store_true", help="with three nats-servers of somebody else's")
    chosen = parser.parse_args()
    raise SystemExit(run(chosen.seconds, chosen.seed, chosen.only, 3 if chosen.cluster else 1))


if __name__ == "__main__":
    main()
