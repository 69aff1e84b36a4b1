"""What is done to the running stack: the faults of its processes, and the list of all faults."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from infra.services.process import command_line
from tests.chaos import disks, network, strain
from tests.chaos.fault import Fault, Ground, Happen, from_its_beginning, from_its_end
from tests.chaos.processes import descendants, signal_all

POINTS = ("K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8", "K9", "K10", "K12", "K13")
"""Failpoints of `inject/sitecustomize.py` that owners pass all the time; K10 is before and after a checkpoint, K13
between the end of a run and that of another agent's run that it had asked for."""
STALE_S = 3.0
"""Longer than a lease lives."""
POINT_S = 20.0
LOOK_S = 0.05
DOWN_S = 3.0
PAUSED_S = 12.0
"""Longer than a cluster takes to choose another leader."""


def kill(*names: str) -> Happen:
    """Kill one of these, chosen by chance."""

    async def happen(ground: Ground, chance: random.Random) -> None:
        os.kill(ground.stack.pid(chance.choice(names)), signal.SIGKILL)

    return from_its_beginning(happen)


def pause(name: str, seconds: float) -> Happen:
    """Stop a process, with all that it started, and let it go on: it does not know that time has passed."""

    async def happen(ground: Ground, chance: random.Random) -> None:
        pids = await asyncio.to_thread(descendants, ground.stack.pid(name))
        signal_all(pids, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            signal_all(pids, signal.SIGCONT)

    return from_its_end(happen)


@from_its_beginning
async def kill_everything(ground: Ground, chance: random.Random) -> None:
    """Kill the host, with which everything goes, and start again."""
    os.kill(ground.stack.pid("host"), signal.SIGKILL)
    await ground.stack.start_again()


@from_its_beginning
async def kill_both_servers(ground: Ground, chance: random.Random) -> None:
    """Kill NATS and Postgres together."""
    for name in ("nats", "postgres"):
        os.kill(ground.stack.pid(name), signal.SIGKILL)


@from_its_beginning
async def stop_postgres_hard(ground: Ground, chance: random.Random) -> None:
    """Have Postgres stop at once (`immediate`): it drops its clients, writes nothing, and recovers at its start."""
    os.kill(ground.stack.pid("postgres"), signal.SIGQUIT)


def kill_neighbour(name: str) -> Happen:
    """Kill a process that agents ask and that is none of the stack's."""

    async def happen(ground: Ground, chance: random.Random) -> None:
        ground.neighbours.kill(name)

    return from_its_beginning(happen)


@from_its_end
async def kill_mcp_server(ground: Ground, chance: random.Random) -> None:
    """Kill an MCP server that an agents process has started."""
    async with asyncio.timeout(POINT_S):
        while not (found := await asyncio.to_thread(_mcp_servers, ground.stack.pid("host"))):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
    os.kill(chance.choice(found), signal.SIGKILL)


def _mcp_servers(host: int) -> list[int]:
    return [pid for pid in descendants(host) if "tests.chaos.stamps" in command_line(pid)]


def at(point: str) -> Happen:
    """Have an agents process die at a failpoint; until it gets there all is well."""

    async def happen(ground: Ground, chance: random.Random) -> None:
        async with asyncio.timeout(POINT_S):
            await ground.stack.die_at(point, chance.randint(1, 4))

    return from_its_end(happen)


@from_its_beginning
async def die_while_taking_over(ground: Ground, chance: random.Random) -> None:
    """Kill an agents process, and the one that takes its shards over before it has read them."""
    async with asyncio.timeout(POINT_S):
        dying = asyncio.create_task(ground.stack.die_at("K11", 1))
        await asyncio.sleep(0.1)
        os.kill(ground.stack.pid("agents-0"), signal.SIGKILL)
        await dying


@from_its_end
async def lose_the_leader(ground: Ground, chance: random.Random) -> None:
    """Kill the nats-server that leads the log; it comes back when another one leads."""
    assert ground.stack.cluster is not None
    node = await ground.stack.cluster.leader()
    await asyncio.to_thread(node.kill)
    await asyncio.sleep(DOWN_S)
    await asyncio.to_thread(node.start)


@from_its_end
async def lose_any(ground: Ground, chance: random.Random) -> None:
    """Kill one of the nats-servers; it comes back at once."""
    assert ground.stack.cluster is not None
    node = ground.stack.cluster.any(chance)
    await asyncio.to_thread(node.kill)
    await asyncio.to_thread(node.start)


@from_its_end
async def pause_the_leader(ground: Ground, chance: random.Random) -> None:
    """Stop the nats-server that leads the log for a while: it wakes, and is not the leader any more."""
    assert ground.stack.cluster is not None
    node = await ground.stack.cluster.leader()
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSED_S)
    finally:
        node.process.send_signal(signal.SIGCONT)


_AGENTS = Fault("kill agents", True, "commands", kill("agents-0", "agents-1"), agents_die=1)
_RECORDER = Fault("kill recorder", True, "record", kill("recorder-0"), recorder_ends=1)
_SCHEDULER = Fault("kill scheduler", True, "model", kill("scheduler-0"))
_STALE = Fault("stale owner", False, "commands", pause("agents-0", STALE_S))
_TWICE = Fault("every command twice", False, "commands", strain.everything_twice)
_CLOCK = Fault("clock an hour off", True, "commands", strain.clock_an_hour_off, agents_die=1)

NEIGHBOUR_FAULTS = (
    Fault("kill tool service", True, "commands", kill_neighbour("tools")),
    Fault("kill scripted model", True, "commands", kill_neighbour("model")),
    Fault("kill MCP server", True, "commands", kill_mcp_server),
)

CLUSTER_FAULTS = (
    Fault("lose the leader", True, "commands", lose_the_leader),
    Fault("lose a server", True, "commands", lose_any),
    Fault("leader paused", False, "commands", pause_the_leader),
    _AGENTS,
    _RECORDER,
    _SCHEDULER,
    _STALE,
    _TWICE,
    _CLOCK,
    Fault("agents die at K3", True, "commands", at("K3"), agents_die=1),
    Fault("agents die at K7", True, "commands", at("K7"), agents_die=1),
    *NEIGHBOUR_FAULTS,
)
"""With three nats-servers."""

PROCESS_FAULTS = (
    _AGENTS,
    Fault("kill nats-server", True, "commands", kill("nats"), nats_ends=1),
    _RECORDER,
    Fault("kill Postgres", True, "record", kill("postgres")),
    Fault("Postgres stopped hard", True, "record", stop_postgres_hard),
    _SCHEDULER,
    Fault("kill worker", True, "model", kill("worker-0")),
    Fault("kill both servers", True, "record", kill_both_servers, nats_ends=1),
    Fault("kill everything", True, "start", kill_everything),
    _STALE,
    Fault("nats-server paused", False, "commands", pause("nats", 4.0)),
    Fault("recorder paused", False, "record", pause("recorder-0", 2.0)),
    Fault("Postgres paused", False, "record", pause("postgres", 4.0)),
    Fault("agents die at K11", True, "commands", die_while_taking_over, agents_die=2),
    *(Fault(f"agents die at {point}", True, "commands", at(point), agents_die=1) for point in POINTS),
)

NETWORK_FAULTS = (
    Fault("link delayed", False, "model", network.delayed),
    Fault("link loses", False, "model", network.losing),
    Fault("link cut", False, "model", network.cut),
    Fault("link half-open", False, "model", network.half_open),
    Fault("link one-way, up", False, "model", network.one_way(up=True, down=False)),
    Fault("link one-way, down", False, "model", network.one_way(up=False, down=True)),
    Fault("agents-1 half-open", False, "commands", network.apart("agents-1", up=False, down=False)),
    Fault("agents-1 hears nothing", False, "commands", network.apart("agents-1", up=True, down=False)),
    Fault("agents-1 is not heard", False, "commands", network.apart("agents-1", up=False, down=True)),
    Fault("recorder half-open", False, "record", network.recorder_half_open, recorder_ends=1),
)

STRAINS = (
    _TWICE,
    _CLOCK,
    Fault("two recorders", False, "record", strain.two_recorders, recorder_ends=2),
    Fault("slow Postgres", False, "record", strain.slow_postgres),
    Fault("Postgres locked", False, "record", strain.postgres_locked),
    Fault("slow consumer", False, "commands", strain.slow_consumer),
)

DISK_FAULTS = (
    Fault("bit flipped at rest", True, "start", disks.damaged(disks.flip), rounds=4),
    Fault("block cut at rest", True, "start", disks.damaged(disks.truncate), rounds=4),
    Fault("page of zeros at rest", True, "start", disks.damaged(disks.blank), rounds=4),
    Fault("writes refused", False, "commands", disks.writes_refused, nats_ends=1, missing=disks.cannot_limit),
    Fault("disk said to be full", False, "commands", disks.said_to_be_full, nats_ends=1),
    Fault("disk full", False, "commands", disks.full, nats_ends=1, missing=disks.no_volume),
    Fault("power cut", True, "start", disks.power_cut, missing=disks.no_volume),
)

FAULTS = (*PROCESS_FAULTS, *NEIGHBOUR_FAULTS, *NETWORK_FAULTS, *STRAINS, *DISK_FAULTS)
"""With one nats-server, ours."""

QUICK = tuple(
    fault
    for fault in FAULTS
    if fault.name
    in {
        "kill agents", "kill nats-server", "kill recorder", "kill Postgres", "stale owner", "agents die at K3",
        "agents die at K6", "block cut at rest", "link cut", "agents-1 half-open", "agents-1 hears nothing",
        "every command twice", "clock an hour off", "Postgres stopped hard", "agents die at K13", "kill tool service",
        "kill MCP server", "kill scripted model",
    }
)  # fmt: skip
"""Those that take little time, for every test run."""
