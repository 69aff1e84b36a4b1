"""What is done to the running stack: one function per fault, each ends when the fault is over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from tests.chaos.load import Line, until_recorded
from tests.chaos.stack import Cluster

POINTS = ("K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8", "K9", "K12")
"""Failpoints of `inject/sitecustomize.py` that every command passes; K10 is during a snapshot: there are none yet."""
STALE_S = 3.0
"""Longer than a lease lives."""
POINT_S = 20.0
DOWN_S = 3.0
PAUSED_S = 12.0
"""Longer than a cluster takes to choose another leader."""


class Victim(Protocol):
    """The stack, as the faults see it."""

    def urls(self) -> dict[str, str]:
        """Say where everything is."""

    def pid(self, name: str) -> int:
        """Find a process: a slot, `nats`, `postgres` or `host`."""

    async def start_again(self) -> None:
        """Start the whole stack again after its host is gone."""

    @property
    def cluster(self) -> Cluster | None:
        """The nats-servers, where they are three of somebody else's."""

    async def start_damaged(self, chance: random.Random) -> None:
        """Start the whole stack again, with a bit of the log altered on the disk."""

    async def die_at(self, point: str, count: int) -> None:
        """Have an agents process die at the `count`th time that it passes a point, and wait for it."""


class Fault(NamedTuple):
    """One kind of fault."""

    name: str
    kills: bool
    """Whether it ends a process."""
    recovers: str
    """What serves again afterwards: `commands`, `model`, `record`, or everything after another `start`."""
    happen: Callable[[Victim, random.Random], Awaitable[None]]


def kill(*names: str) -> Callable[[Victim, random.Random], Awaitable[None]]:
    """Kill one of these, chosen by chance."""

    async def happen(victim: Victim, chance: random.Random) -> None:
        os.kill(victim.pid(chance.choice(names)), signal.SIGKILL)

    return happen


def pause(name: str, seconds: float) -> Callable[[Victim, random.Random], Awaitable[None]]:
    """Stop a process for a while, and let it go on: it does not know that time has passed."""

    async def happen(victim: Victim, chance: random.Random) -> None:
        pid = victim.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    return happen


async def kill_everything(victim: Victim, chance: random.Random) -> None:
    """Kill the host, with which everything goes, and start again."""
    os.kill(victim.pid("host"), signal.SIGKILL)
    await victim.start_again()


async def damage_at_rest(victim: Victim, chance: random.Random) -> None:
    """Kill everything, alter a bit of what is recorded of the log, and start again: it mends itself from Postgres.

    Appends are stopped first until all is recorded: JetStream drops the rest of a damaged block, and what a single
    server has not recorded yet exists once.
    """
    for name in ("agents-0", "agents-1"):
        os.kill(victim.pid(name), signal.SIGSTOP)
    line = Line(victim.urls, "fault")
    await until_recorded(line)
    await line.close()
    os.kill(victim.pid("host"), signal.SIGKILL)
    await victim.start_damaged(chance)


async def kill_both_servers(victim: Victim, chance: random.Random) -> None:
    """Kill NATS and Postgres together."""
    for name in ("nats", "postgres"):
        os.kill(victim.pid(name), signal.SIGKILL)


def at(point: str) -> Callable[[Victim, random.Random], Awaitable[None]]:
    """Have an agents process die at a failpoint."""

    async def happen(victim: Victim, chance: random.Random) -> None:
        async with asyncio.timeout(POINT_S):
            await victim.die_at(point, chance.randint(1, 4))

    return happen


async def die_while_taking_over(victim: Victim, chance: random.Random) -> None:
    """Kill an agents process, and the one that takes its shards over before it has read them."""
    async with asyncio.timeout(POINT_S):
        dying = asyncio.create_task(victim.die_at("K11", 1))
        await asyncio.sleep(0.1)
        os.kill(victim.pid("agents-0"), signal.SIGKILL)
        await dying


async def lose_the_leader(victim: Victim, chance: random.Random) -> None:
    """Kill the nats-server that leads the log; it comes back when another one leads."""
    assert victim.cluster is not None
    node = await victim.cluster.leader()
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(DOWN_S)
    await asyncio.to_thread(node.start)


async def lose_any(victim: Victim, chance: random.Random) -> None:
    """Kill one of the nats-servers; it comes back at once."""
    assert victim.cluster is not None
    node = victim.cluster.any(chance)
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(node.start)


async def pause_the_leader(victim: Victim, chance: random.Random) -> None:
    """Stop the nats-server that leads the log for a while: it wakes, and is not the leader any more."""
    assert victim.cluster is not None
    node = await victim.cluster.leader()
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSED_S)
    finally:
        node.process.send_signal(signal.SIGCONT)


CLUSTER_FAULTS = (
    Fault("lose the leader", True, "commands", lose_the_leader),
    Fault("lose a server", True, "commands", lose_any),
    Fault("leader paused", False, "commands", pause_the_leader),
    Fault("kill agents", True, "commands", kill("agents-0", "agents-1")),
    Fault("kill recorder", True, "record", kill("recorder-0")),
    Fault("kill scheduler", True, "model", kill("scheduler-0")),
    Fault("stale owner", False, "commands", pause("agents-0", STALE_S)),
    Fault("agents die at K3", True, "commands", at("K3")),
    Fault("agents die at K7", True, "commands", at("K7")),
)
"""With three nats-servers: recovery from a fault of theirs counts from its end."""

FAULTS = (
    Fault("kill agents", True, "commands", kill("agents-0", "agents-1")),
    Fault("kill nats-server", True, "commands", kill("nats")),
    Fault("kill recorder", True, "record", kill("recorder-0")),
    Fault("kill Postgres", True, "record", kill("postgres")),
    Fault("kill scheduler", True, "model", kill("scheduler-0")),
    Fault("kill worker", True, "model", kill("worker-0")),
    Fault("kill both servers", True, "record", kill_both_servers),
    Fault("kill everything", True, "start", kill_everything),
    Fault("bit flipped at rest", True, "start", damage_at_rest),
    Fault("stale owner", False, "commands", pause("agents-0", STALE_S)),
    Fault("nats-server paused", False, "commands", pause("nats", 4.0)),
    Fault("recorder paused", False, "record", pause("recorder-0", 2.0)),
    Fault("agents die at K11", True, "commands", die_while_taking_over),
    *(Fault(f"agents die at {point}", True, "commands", at(point)) for point in POINTS),
)
