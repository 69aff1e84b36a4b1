"""One run: a stack, a load, faults one after the other, and the verdict. `python -m tests.chaos.fire --seconds 600`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from actors.runtime.supervisor import CRASHES, WINDOW_S
from bus.errors import BusError
from infra.access import catch_up, resting_log_servers
from tests.chaos.calm import forgive_the_model
from tests.chaos.disks import no_volume
from tests.chaos.errands import Errander
from tests.chaos.fault import Fault, Ground
from tests.chaos.faults import CLUSTER_FAULTS, FAULTS
from tests.chaos.links import links_to
from tests.chaos.load import Client, Ledger, Line, Saboteur, until_answered, until_at_rest, until_recorded, until_served
from tests.chaos.neighbours import Neighbours
from tests.chaos.oracle import Finding, Verdict, judge
from tests.chaos.report import Report, Trials
from tests.chaos.stack import Cluster, Stack
from tests.chaos.volume import CannotMount, mounted
from tests.system.foreign import nats_servers

CLIENTS = 4
ERRANDERS = 8
PROBES = 12
"""Threads that are asked after a fault: enough to meet every shard."""
CALM_S = 120.0
BEARABLE = CRASHES - 2
"""Ends of a process that who starts it again bears in its window."""


class Length(NamedTuple):
    """How long faults go on: so many seconds and until so many kills, but at most twice the seconds."""

    seconds: float
    kills: int = 0

    def over(self, took: float, kills: int) -> bool:
        """Say whether it was enough, after so many seconds and kills."""
        return took >= self.seconds and (kills >= self.kills or took >= 2 * self.seconds)


async def burn(
    ground: Ground, length: Length, seed: int, faults: Sequence[Fault], say: Callable[[str], None] = print
) -> Report:
    """Run a stack under load and faults for a while, and judge what is left.

    Args:
        ground: the stack, which is not started yet, and what lies around it.
        length: how long faults go on.
        seed: of the faults' order and the questions.
        faults: which.
        say: hears of each fault.
    """
    missing = {fault.name: why for fault in faults if (why := fault.missing(ground))}
    able = [fault for fault in faults if fault.name not in missing]
    stack, chance = ground.stack, random.Random(seed)
    try:
        await stack.start()
        async with ground.neighbours.running():
            asking = _askers(ground, seed)
            tasks = {asyncio.create_task(one.run()): one for one in asking}
            began = time.monotonic()
            trials, kills = await _faults(ground, chance, able, length, say)
            for one in asking:
                one.stopping.set()
            done, hanging = await asyncio.wait(tasks, timeout=CALM_S)
            for task in done:
                task.result()
            late = [_hanging(tasks[task], ground.ledger) for task in hanging]
            took = time.monotonic() - began
            own = await forgive_the_model(Line(stack.urls, "calm"), ground.ledger)
            await until_at_rest(Line(stack.urls, "rest"), CALM_S)
        await stack.stop()
    finally:
        stack.kill()
    poison = {name for one in asking if isinstance(one, Saboteur) for name in one.taken}
    verdict = await _judged(ground, poison)
    for task in hanging:
        task.cancel()
    verdict.lost += late
    return Report(seed, faults, trials, missing, verdict, kills, took, own)


def _hanging(client: Client | Saboteur, ledger: Ledger) -> Finding:
    """Tell of a client that has no answer, although all is well."""
    sentence = f"a client had no answer {CALM_S:.0f} s after the last fault: {client.at}"
    return Finding(sentence, min((asked.began for asked in ledger.open), default=0.0))


def _askers(ground: Ground, seed: int) -> list[Client | Saboteur]:
    """Make the clients: half of them send every command twice, half of those reach NATS through a link; two of three
    do errands."""
    stack, links = ground.stack, ground.links

    def far() -> dict[str, str]:
        return stack.urls() if links is None else links.client_urls(stack.urls())

    clients = [
        kind(Line(far if n % 4 >= 2 else stack.urls, f"{name}-{n}"), ground.ledger, n, seed, duplicates=n % 2 == 1)
        for kind, name, count in ((Client, "client", CLIENTS), (Errander, "errander", ERRANDERS))
        for n in range(count)
    ]
    return [*clients, Saboteur(Line(stack.urls, "saboteur"), seed, CLIENTS)]


async def _faults(
    ground: Ground, chance: random.Random, faults: Sequence[Fault], length: Length, say: Callable[[str], None]
) -> tuple[dict[str, Trials], int]:
    trials: dict[str, Trials] = defaultdict(Trials)
    kills, bearable = 0, Bearable()
    line = Line(ground.stack.urls, "probe")
    await until_served(line, PROBES)
    start, left = time.monotonic(), list[Fault]()
    while not length.over(time.monotonic() - start, kills):
        if not left:
            some = [fault for fault in faults if len(trials[fault.name].times) < fault.rounds]
            left = chance.sample(some, len(some))
        fault = min(left, key=bearable.wait_s)
        left.remove(fault)
        await asyncio.sleep(chance.uniform(0.2, 1.5) + bearable.wait_s(fault))
        ground.stack.check()
        began = time.time()
        try:
            took = await _trial(ground, chance, fault, line)
        except (TimeoutError, OSError, httpx.HTTPError, AssertionError, BusError) as error:
            trials[fault.name].failures.append(f"{type(error).__name__}: {error}")
            await line.close()
        else:
            kills += fault.kills
            trials[fault.name].recovery_s.append(took)
            say(f"{fault.name:<24} {took:6.2f} s")
        bearable.note(fault)
        await until_served(line, PROBES)
        trials[fault.name].times.append((began, time.time()))
    await line.close()
    return trials, kills


class Bearable:
    """How often processes may end: a supervisor takes one that ends again and again for one that cannot work."""

    def __init__(self) -> None:
        self._ended: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=BEARABLE))

    def note(self, fault: Fault) -> None:
        """Count what a fault has ended."""
        for name, times in _ends(fault).items():
            self._ended[name].extend([time.monotonic()] * times)

    def wait_s(self, fault: Fault) -> float:
        """Say how long a fault must wait."""
        return max(_too_soon(self._ended[name], times) for name, times in _ends(fault).items())


def _ends(fault: Fault) -> dict[str, int]:
    return {"agents": fault.agents_die, "nats": fault.nats_ends, "recorder": fault.recorder_ends}


async def _trial(ground: Ground, chance: random.Random, fault: Fault, line: Line) -> float:
    """Have a fault happen; return how long it took until all served again, seconds."""
    async with fault.happen(ground, chance) as moment:
        if fault.recovers in {"record", "start"}:
            await line.close()
        await _recovered(line, fault)
        return time.monotonic() - moment


def _too_soon(died: deque[float], more: int) -> float:
    first = len(died) - BEARABLE + more - 1
    return max(0.0, died[first] + WINDOW_S - time.monotonic()) if more and first >= 0 else 0.0


async def _recovered(line: Line, fault: Fault) -> None:
    if fault.recovers == "model":
        await until_answered(line, "ostinato-mini")
    elif fault.recovers == "record":
        await until_recorded(line)
    else:
        await until_served(line, PROBES)


async def _judged(ground: Ground, poison: set[str]) -> Verdict:
    async with resting_log_servers(str(ground.stack.data)) as (connection, store):
        await catch_up(connection, store)
        return await judge(connection, store, ground.ledger, ground.stack.witness, poison)


@contextmanager
def standing(folder: Path, faults: Sequence[Fault], servers: int = 1) -> Iterator[Ground]:
    """Make the ground for some faults: the links, the disk, or three nats-servers; the stack is not started yet.

    Args:
        folder: an empty folder that anybody may enter.
        faults: which.
        servers: how many nats-servers: one of our own, or so many of somebody else's.
    """
    with ExitStack() as exits:
        if servers > 1:
            nodes = exits.enter_context(nats_servers(folder, servers))
            stack = Stack(folder, "--nats", nodes.url, cluster=Cluster(nodes))
            yield Ground(stack, Ledger(), Neighbours(stack.data / "runtime.json", stack.witness))
            return
        volume, why = None, ""
        if any(fault.missing is no_volume for fault in faults):
            try:
                volume = exits.enter_context(mounted(folder))
            except CannotMount as error:
                why = str(error)
        stack = Stack(folder, data=None if volume is None else volume.folder / "data")
        links = exits.enter_context(links_to(stack.data / "runtime.json"))
        stack.links = links.of_processes()
        yield Ground(stack, Ledger(), Neighbours(stack.data / "runtime.json", stack.witness), links, volume, why)


def run(length: Length, seed: int, only: Sequence[str] = (), servers: int = 1) -> int:
    """Burn, print the table and the figures; return 1 when a promise was broken."""
    logging.basicConfig(level=logging.CRITICAL)  # clients of a dying stack have much to say
    known = FAULTS if servers == 1 else CLUSTER_FAULTS
    faults = [fault for fault in known if not only or any(word in fault.name for word in only)]
    folder = Path(tempfile.mkdtemp(prefix="ostinato-chaos-"))
    folder.chmod(0o755)
    with standing(folder, faults, servers) as ground:
        report = asyncio.run(burn(ground, length, seed, faults))
        print(report.table())  # noqa: T201
        print(json.dumps(report.figures()))  # noqa: T201
        if report.broken() and ground.volume is not None:
            shutil.copytree(ground.volume.folder, folder / "left", symlinks=True)
    if report.broken():
        sys.stderr.write(f"everything is left in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def main() -> None:
    """Burn as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults go on (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=0, help="and until so many kills, for at most twice that time")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="faults named with one of these")
    parser.add_argument("--cluster", action="store_true", help="with three nats-servers of somebody else's")
    chosen = parser.parse_args()
    raise SystemExit(run(Length(chosen.seconds, chosen.kills), chosen.seed, chosen.only, 3 if chosen.cluster else 1))


if __name__ == "__main__":
    main()
