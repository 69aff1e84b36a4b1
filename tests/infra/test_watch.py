"""Watching the disk and the server: with a disk whose free space the test decides, on a real nats-server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus.commands import send_command
from bus.connection import Connection, accepted
from bus.errors import Refused
from bus.streams import CMD, HEALTH, ensure_streams
from infra import watch
from infra.services.nats_server import NatsServer
from infra.services.unprivileged import server_account
from infra.watch import FULL_BYTES, LOW_BYTES, Watch
from schemas.commands import Command, RunAgent

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


class Disk:
    """How much is free, as the test says."""

    def __init__(self) -> None:
        self.free = 4 * LOW_BYTES
        self.looks = 0

    def __call__(self, place: Path) -> int:
        self.looks += 1
        return self.free


def command(identity: str) -> Command:
    return Command(
        id=identity, tenant="acme", kind="agent", thread="t1", verb="run", data=RunAgent(agent="demo", text="hi")
    )


@asynccontextmanager
async def watching(connection: Connection, server: NatsServer, disk: Disk, heard: Heard) -> AsyncIterator[Watch]:
    watched = Watch(connection, server, (Path(),), heard, disk)
    task = asyncio.create_task(watched.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    monkeypatch.setattr(watch, "_WRITE_S", 0.5)


class Heard:
    """What a person was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self._news.set()

    async def until(self, word: str) -> None:
        while not any(word in text for text in self.texts):
            self._news.clear()
            await self._news.wait()


async def test_commands_are_refused_while_the_disk_is_nearly_full_with_the_reason(
    connection: Connection, nats_server: NatsServer
) -> None:
    await ensure_streams(connection, 1)
    disk, heard = Disk(), Heard()
    async with watching(connection, nats_server, disk, heard) as watched:
        await send_command(connection, command("c1"))
        disk.free = LOW_BYTES - 1
        await heard.until("nearly full")
        assert "free some space" in watched.trouble
        while (await connection.api(f"STREAM.INFO.{CMD}"))["config"]["max_bytes"] == -1:
            pass
        with pytest.raises(Refused, match="the disk is nearly full, 255 MB are free: free some space"):
            await send_command(connection, command("c2"))
        disk.free = 2 * LOW_BYTES - 1
        with pytest.raises(Refused):
            await send_command(connection, command("c2"))
        disk.free = 2 * LOW_BYTES
        await heard.until("512 MB are free again")
        assert watched.trouble == ""
        await send_command(connection, command("c2"))
    assert (await connection.api(f"STREAM.INFO.{CMD}"))["state"]["messages"] == 2
    assert nats_server.poll() is None


async def test_a_start_opens_what_a_crash_left_closed(connection: Connection, nats_server: NatsServer) -> None:
    await ensure_streams(connection, 1)
    disk, heard = Disk(), Heard()
    disk.free = FULL_BYTES
    async with watching(connection, nats_server, disk, heard):
        while (await connection.api(f"STREAM.INFO.{CMD}"))["config"]["max_bytes"] == -1:
            pass
    await ensure_streams(connection, 1)
    await send_command(connection, command("c1"))


async def test_no_stream_is_changed_when_there_may_be_no_room_for_its_settings(
    connection: Connection, nats_server: NatsServer
) -> None:
    await ensure_streams(connection, 1)
    disk, heard = Disk(), Heard()
    disk.free = FULL_BYTES - 1
    async with watching(connection, nats_server, disk, heard) as watched:
        await heard.until("nearly full")
        looks = disk.looks
        while disk.looks < looks + 5:
            await connection.flush()
        assert watched.trouble
        assert (await connection.api(f"STREAM.INFO.{CMD}"))["config"]["max_bytes"] == -1
        disk.free = FULL_BYTES
        while (await connection.api(f"STREAM.INFO.{CMD}"))["config"]["max_bytes"] == -1:
            pass


async def test_a_full_command_stream_says_how_many_wait(connection: Connection) -> None:
    await ensure_streams(connection, 1)
    config = (await connection.api(f"STREAM.INFO.{CMD}"))["config"]
    await connection.api(f"STREAM.UPDATE.{CMD}", {**config, "max_msgs": 1})
    await send_command(connection, command("c1"))
    with pytest.raises(Refused, match="1 commands wait already"):
        await send_command(connection, command("c2"))


async def test_a_disk_that_cannot_be_asked_takes_nothing_and_the_watch_goes_on(
    connection: Connection, nats_server: NatsServer
) -> None:
    await ensure_streams(connection, 1)
    heard = Heard()
    watched = Watch(connection, nats_server, (Path("/no/such/folder"),), heard)
    task = asyncio.create_task(watched.run())
    await heard.until("nearly full, 0 MB are free")
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.deadline(20)
async def test_a_server_that_takes_no_writes_is_ended(connection: Connection, nats_server: NatsServer) -> None:
    await ensure_streams(connection, 1)
    disk, heard = Disk(), Heard()
    async with watching(connection, nats_server, disk, heard):
        await connection.api(f"STREAM.DELETE.{HEALTH}")
        await heard.until("it takes no writes")
        await nats_server.wait()
    await nats_server.start(nats_server.port)


@pytest.mark.deadline(20)
async def test_a_server_whose_disk_was_full_is_ended_when_there_is_space_again(
    connection: Connection, nats_server: NatsServer
) -> None:
    await ensure_streams(connection, 1)
    disk, heard = Disk(), Heard()
    async with watching(connection, nats_server, disk, heard):
        disk.free = 0
        await heard.until("nearly full")
        disk.free = 4 * LOW_BYTES
        await heard.until("the disk was full")
        await nats_server.wait()
    await nats_server.start(nats_server.port)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
@pytest.mark.deadline(20)
async def test_a_server_one_of_whose_streams_could_not_be_written_to_is_ended_though_others_take_writes(
    connection: Connection, nats_server: NatsServer
) -> None:
    await ensure_streams(connection, 1)
    account = server_account()
    as_whom = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    heard = Heard()
    async with watching(connection, nats_server, Disk(), heard):
        # its log is a file too
        argv = ["prlimit", f"--pid={nats_server.pid}", f"--fsize={(1 << 16) + nats_server.log.stat().st_size}:"]
        await asyncio.to_thread(lambda: subprocess.run(argv, check=True, timeout=10, **as_whom))
        with pytest.raises(TimeoutError):
            await connection.request("ev.0", b"x" * (1 << 20), 0.5)
        await heard.until("nats is started anew: JetStream stream '$G > EV' critical write error")
        await nats_server.wait()
    await nats_server.start(nats_server.port)
    assert await asyncio.to_thread(nats_server.write_error) == ""
    await connection.flush()
    assert accepted(await connection.request("ev.0", b"x")) == 1
