"""Faults of the disk: damage at rest, no space, writes that fail, and a power cut."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bus.commands import send_command
from bus.connection import Connection
from bus.errors import BusError, Refused
from infra.cli.asking import agent_command
from infra.launcher import status_of
from infra.services.unprivileged import server_account
from infra.watch import LOW_BYTES
from tests.chaos.fault import Ground, Happen, from_its_beginning, from_its_end
from tests.chaos.load import Line, until_recorded
from tests.chaos.processes import descendants, end_all, signal_all

SAID_S = 20.0
FULL_S = 3.0
_LOOK_S = 0.05
_LIMITS = "prlimit"
_PAGE = 4096
_WRITABLE = 16 << 10
"""So much may still be written to the server's log when writes are refused; the log's blocks are larger."""

Alter = Callable[[Sequence[Path], random.Random], None]
"""Damages one of the log's block files."""


def damaged(alter: Alter) -> Happen:
    """Kill everything, damage what is recorded of the log, and start again: it mends itself from Postgres.

    Appends are stopped first until all is recorded: JetStream drops the rest of a damaged block, and what a single
    server has not recorded yet exists once.
    """

    @asynccontextmanager
    async def happen(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
        stack = ground.stack
        for name in ("agents-0", "agents-1"):
            os.kill(stack.pid(name), signal.SIGSTOP)
        line = Line(stack.urls, "fault")
        await until_recorded(line)
        await line.close()
        os.kill(stack.pid("host"), signal.SIGKILL)
        began = time.monotonic()
        await stack.start_damaged(lambda blocks: alter(blocks, chance))
        yield began

    return happen


def flip(blocks: Sequence[Path], chance: random.Random) -> None:
    """Alter one bit of the log's first half."""
    data = bytearray(blocks[0].read_bytes())
    data[chance.randrange(len(data) // 2)] ^= 1
    blocks[0].write_bytes(bytes(data))


def truncate(blocks: Sequence[Path], chance: random.Random) -> None:
    """Cut a block off somewhere in its second half."""
    block = chance.choice(blocks)
    size = block.stat().st_size
    os.truncate(block, chance.randrange(size // 2, size - 1))


def blank(blocks: Sequence[Path], chance: random.Random) -> None:
    """Leave zeros where a page was."""
    data = bytearray(blocks[0].read_bytes())
    first = chance.randrange(max(1, len(data) - _PAGE))
    data[first : first + _PAGE] = bytes(len(data[first : first + _PAGE]))
    blocks[0].write_bytes(bytes(data))


@from_its_end
async def full(ground: Ground, chance: random.Random) -> None:
    """Fill the disk to its last byte, at once or after it was nearly full for a while, and free it again."""
    assert ground.volume is not None
    try:
        if chance.random() < 0.5:
            await asyncio.to_thread(ground.volume.fill, LOW_BYTES // 2)
            await _refused(ground)
        await asyncio.to_thread(ground.volume.fill)
        await _said(ground)
        await asyncio.sleep(FULL_S)
    finally:
        await asyncio.to_thread(ground.volume.empty)


@from_its_end
async def said_to_be_full(ground: Ground, chance: random.Random) -> None:
    """Have the host believe that the disk is full: the same without a disk of our own, but for the writes."""
    try:
        if chance.random() < 0.5:
            await asyncio.to_thread(ground.stack.say_free, LOW_BYTES // 2)
            await _refused(ground)
        await asyncio.to_thread(ground.stack.say_free, 0)
        await _said(ground)
    finally:
        await asyncio.to_thread(ground.stack.say_free, None)


async def _refused(ground: Ground) -> None:
    """See that a command is refused with the reason and the mend."""

    async def refusal(connection: Connection) -> str:
        try:
            await send_command(connection, agent_command("nobody", "?", "probe-full"))
        except Refused as refused:
            return refused.description
        except (BusError, TimeoutError):
            pass
        return ""

    said = await _heard(ground, refusal)
    assert "free some space" in said, said


async def _said(ground: Ground) -> None:
    """See that the host tells whoever asks why nothing is taken."""

    async def trouble(connection: Connection) -> str:
        return str((await status_of(connection, "host") or {}).get("trouble", ""))

    await _heard(ground, trouble)


async def _heard(ground: Ground, ask: Callable[[Connection], Awaitable[str]]) -> str:
    """Ask until the answer is that the disk is nearly full; return it whole."""
    line, said = Line(ground.stack.urls, "fault"), ""
    try:
        async with asyncio.timeout(SAID_S):
            connection, _ = await line.open()
            while "the disk is nearly full" not in said:
                await asyncio.sleep(_LOOK_S)
                said = await ask(connection)
    finally:
        await line.close()
    return said


@from_its_beginning
async def writes_refused(ground: Ground, chance: random.Random) -> None:
    """Let the kernel refuse what nats-server writes: it stays so until the host notices and starts another one."""
    # as the server's user: root may be kept from changing the limits of others
    account = server_account()
    as_whom = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    # its log is a file too, and the only one that tells
    limit = (await asyncio.to_thread((ground.stack.data / "logs" / "nats.log").stat)).st_size + _WRITABLE
    argv = [_LIMITS, f"--pid={ground.stack.pid('nats')}", f"--fsize={limit}:"]
    await asyncio.to_thread(lambda: subprocess.run(argv, check=True, timeout=SAID_S, **as_whom))


@asynccontextmanager
async def power_cut(ground: Ground, chance: random.Random) -> AsyncIterator[float]:
    """Stop everything at one moment, keep what the disk holds then, and start on that: what was in memory is gone."""
    stack, volume = ground.stack, ground.volume
    assert volume is not None
    running: list[int] = []
    try:
        while (found := await asyncio.to_thread(descendants, stack.pid("host"))) != running:
            running = found
            signal_all(running, signal.SIGSTOP)
        await asyncio.to_thread(volume.photograph)
    finally:
        await asyncio.to_thread(end_all, running)
    await stack.gone()
    await asyncio.to_thread(volume.come_back)
    began = time.monotonic()
    await stack.start_again()
    yield began


def cannot_limit(ground: Ground) -> str:
    """Say what `writes_refused` lacks."""
    return "" if shutil.which(_LIMITS) else f"needs {_LIMITS} of util-linux"


def no_volume(ground: Ground) -> str:
    """Say why the stack's data is on everybody's disk, if it is."""
    return ground.no_volume if ground.volume is None else ""
