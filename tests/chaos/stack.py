"""`ostinato up` in a process of its own, as the faults and the load see it."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec

from bus.connection import Connection
from bus.streams import EV
from tests.system.foreign import Node, Nodes

HERE = Path(__file__).parent
START_S = 60.0
STOP_S = 30.0


class Cluster:
    """Three nats-servers of somebody else's, which nobody starts again but we."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    @property
    def url(self) -> str:
        """Where they are, with their login."""
        return self._nodes.url

    async def leader(self) -> Node:
        """Find the server that leads the log."""
        async with await Connection.open(self.url, "chaos") as connection:
            info = await connection.api(f"STREAM.INFO.{EV}")
        return self._nodes.named(info["cluster"]["leader"])

    def any(self, chance: random.Random) -> Node:
        """Choose a server by chance."""
        return chance.choice(self._nodes.nodes)


def _end_server(pid: int) -> None:
    """See that a server whose host is gone is gone too before its files are touched."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    os.kill(pid, signal.SIGKILL)
    select.select([watched], [], [], STOP_S)
    os.close(watched)


class Stack:
    """`ostinato up` in a process of its own, with two agents processes."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._flags = flags
        self.data = folder / "data"
        self.witness = folder / "witness"
        self.cluster: Cluster | None = None
        self._failpoint = folder / "failpoint"
        self._output = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def urls(self) -> dict[str, str]:
        """Say where everything is."""
        found = msgspec.json.decode((self.data / "runtime.json").read_bytes())
        return {name: str(url) for name, url in found["urls"].items()}

    async def start(self) -> None:
        """Start, and wait until it serves."""
        path = os.pathsep.join([str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_WAIT_POLICY": "PASSIVE",
            "OSTINATO_CHAOS_WITNESS": str(self.witness),
            "OSTINATO_CHAOS_FAILPOINT": str(self._failpoint),
        }
        argv = [sys.executable, "-m", "infra.cli.main", "up", "--port", "0", "--data", str(self.data)]
        argv += ["--agents", str(HERE / "agents.py"), "--agent-processes", "2", "--json", *self._flags]
        self._process = await asyncio.to_thread(self._spawn, argv, environment)
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise AssertionError(f"the stack did not start: {self.output()[-2000:]}")

    def _spawn(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=output, env=environment)

    async def start_again(self) -> None:
        """Start the whole stack again after its host is gone."""
        await asyncio.to_thread(self._wait)
        await self.start()

    async def start_damaged(self, chance: random.Random) -> None:
        """Alter one bit of what the log's first half holds on the disk, and start."""
        await asyncio.to_thread(self._wait)
        await asyncio.to_thread(self._flip, chance)
        said = len(await asyncio.to_thread(self.output))
        await self.start()
        if "the log was damaged" not in (await asyncio.to_thread(self.output))[said:]:
            raise AssertionError(f"the damage was not noticed: {self.output()[-2000:]}")

    def _flip(self, chance: random.Random) -> None:
        folder = next(self.data.glob("**/streams/EV/msgs"))
        _end_server(int((self.data / "nats" / "nats.pid").read_text(encoding="utf-8")))
        blocks = sorted(folder.glob("*.blk"), key=lambda block: int(block.stem))
        data = bytearray(blocks[0].read_bytes())
        data[chance.randrange(len(data) // 2)] ^= 1
        blocks[0].write_bytes(bytes(data))

    def check(self) -> None:
        """See that it still runs.

        Raises:
            AssertionError: it has ended.
        """
        assert self._process is not None
        ended = self._process.poll()
        if ended is not None:
            raise AssertionError(f"the stack ended with code {ended}: {self.output()[-2000:]}")

    async def stop(self) -> None:
        """Stop in order.

        Raises:
            AssertionError: it had ended before.
        """
        self.check()
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        await asyncio.to_thread(self._wait)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        self._process.communicate(timeout=STOP_S)

    def output(self) -> str:
        """Read what it said."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def pid(self, name: str) -> int:
        """Find a process: a slot, `nats`, `postgres` or `host`."""
        assert self._process is not None
        if name == "host":
            return self._process.pid
        if name in {"nats", "postgres"}:
            return int(msgspec.json.decode((self.data / "runtime.json").read_bytes())["pids"][name])
        health = httpx.get(f"{self.urls()['http']}/health", timeout=10).json()
        pid = health["processes"][name]["pid"]
        if pid is None:
            raise ProcessLookupError(f"{name} does not run")
        return int(pid)

    async def die_at(self, point: str, count: int) -> None:
        """Have an agents process die at the `count`th time that it passes a point, and wait for it."""
        await asyncio.to_thread(self._write_failpoint, f"{point} {count}")
        while await asyncio.to_thread(self._failpoint.exists):  # noqa: ASYNC110  the file is all that is left of it
            await asyncio.sleep(0.01)

    def _write_failpoint(self, text: str) -> None:
        written = self._failpoint.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.rename(self._failpoint)
