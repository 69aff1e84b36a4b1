"""`ostinato up` in a process of its own, as the faults and the load see it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from bus.connection import Connection
from bus.streams import EV
from tests.chaos.processes import end_all
from tests.system.foreign import Node, Nodes

HERE = Path(__file__).parent
START_S = 300.0
"""A damaged log is written anew from Postgres at a start: 0.7 ms an envelope."""
STOP_S = 30.0
CLI = (sys.executable, "-m", "infra.cli.main")


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


class Stack:
    """`ostinato up` in a process of its own, with two agents processes."""

    def __init__(self, folder: Path, *flags: str, data: Path | None = None, cluster: Cluster | None = None) -> None:
        """Make it.

        Args:
            folder: where its output, its witness and the orders for `inject` go.
            flags: more arguments for `up`.
            data: its data directory; one in `folder` unless said.
            cluster: the nats-servers, where they are somebody else's.
        """
        self._flags = flags
        self.data = data or folder / "data"
        self.witness = folder / "witness"
        self.cluster = cluster
        self.links: Mapping[str, Mapping[str, int]] = {}
        """Through which ports its processes reach the servers: slot to server to port."""
        self._failpoint = folder / "failpoint"
        self._skew = folder / "skew"
        self._free = folder / "free"
        self._output = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def urls(self) -> dict[str, str]:
        """Say where everything is."""
        found = msgspec.json.decode((self.data / "runtime.json").read_bytes())
        file = self.data / "master.key"
        master = {"master": file.read_text(encoding="utf-8")} if file.exists() else {}
        return {**{name: str(url) for name, url in found["urls"].items()}, **master}

    async def start(self) -> None:
        """Start, and wait until it serves."""
        path = os.pathsep.join([str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_WAIT_POLICY": "PASSIVE",
            "OSTINATO_CHAOS_WITNESS": str(self.witness),
            "OSTINATO_CHAOS_FAILPOINT": str(self._failpoint),
            "OSTINATO_CHAOS_SKEW": str(self._skew),
            "OSTINATO_CHAOS_FREE": str(self._free),
            "OSTINATO_CHAOS_LINKS": msgspec.json.encode(self.links).decode(),
        }
        argv = [*CLI, "up", "--port", "0", "--data", str(self.data)]
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
        await self.gone()
        await self.start()

    async def start_damaged(self, damage: Callable[[Sequence[Path]], None]) -> None:
        """Damage the log's block files, once their server is gone, and start: it must be noticed, and mended.

        nats-server reads blocks again at its start only from where its index ends: what is damaged before shows when
        somebody reads it, or to who looks, as a careful operator does.
        """
        await self.gone()
        server = int(await asyncio.to_thread((self.data / "nats" / "nats.pid").read_text, encoding="utf-8"))
        await asyncio.to_thread(end_all, [server])
        blocks = sorted((await asyncio.to_thread(self._messages)).glob("*.blk"), key=lambda block: int(block.stem))
        await asyncio.to_thread(damage, blocks)
        said = len(await asyncio.to_thread(self.output))
        await self.start()
        code, found = await asyncio.to_thread(self._log, "verify")
        if code == 1:
            await self.stop()
            code, mended = await asyncio.to_thread(self._log, "repair")
            assert code == 0, f"the log was not mended: {mended}"
            await self.start()
        elif "the log was damaged" not in (await asyncio.to_thread(self.output))[said:]:
            raise AssertionError(f"the damage was not noticed: {found} {self.output()[-2000:]}")

    def _log(self, verb: str) -> tuple[int, str]:
        """Look at the log, or mend it, as an operator would; return the exit code and what was said. Blocks."""
        argv = [*CLI, "log", verb, "--data", str(self.data)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
        return done.returncode, done.stdout + done.stderr

    def _messages(self) -> Path:
        return next(self.data.glob("**/streams/EV/msgs"))

    async def gone(self) -> None:
        """Wait until the host, which was killed, is gone."""
        await asyncio.to_thread(self._wait)

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
        await asyncio.to_thread(_order, self._failpoint, f"{point} {count}")
        while await asyncio.to_thread(self._failpoint.exists):  # noqa: ASYNC110  the file is all that is left of it
            await asyncio.sleep(0.01)

    def skew(self, slot: str, seconds: int) -> None:
        """Have a process's clock go wrong by so much. Blocks."""
        _order(self._skew, f"{slot} {seconds}")

    def say_free(self, size: int | None) -> None:
        """Have the host believe that so much of the disk is free; the truth for None. Blocks."""
        if size is None:
            self._free.unlink(missing_ok=True)
        else:
            _order(self._free, str(size))


def _order(file: Path, text: str) -> None:
    """Tell `inject`, which finds either all of it or nothing."""
    written = file.with_suffix(".new")
    written.write_text(text, encoding="utf-8")
    written.rename(file)
