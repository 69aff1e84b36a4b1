"""The links through which the stack's processes and some clients reach the servers, as the faults see them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from tests.chaos.link import Weather

HERE = Path(__file__).parent
ANSWER_S = 10.0
SLOTS = ("agents-0", "agents-1", "scheduler-0", "worker-0", "recorder-0")
"""Who reaches NATS through a link; the host is not among them: it runs our own nats-server, and is beside it."""
CLIENTS = "clients"
POSTGRES = "postgres"
"""The one link to Postgres, which every process uses."""
EVERYONE = (*SLOTS, CLIENTS)
CLEAR = Weather()


class Links:
    """A process of `link.py`."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Mapping[str, int]) -> None:
        self._process = process
        self._ports = ports
        self._telling = asyncio.Lock()

    def of_processes(self) -> dict[str, dict[str, int]]:
        """Say which ports a process finds in place of the servers': slot to server to port."""
        return {slot: {"nats": self._ports[slot], "postgres": self._ports[POSTGRES]} for slot in SLOTS}

    def client_urls(self, urls: Mapping[str, str]) -> dict[str, str]:
        """Say where a client that uses the links finds the servers."""
        return {**urls, "nats": f"nats://127.0.0.1:{self._ports[CLIENTS]}"}

    async def set(self, weather: Weather, names: Iterable[str]) -> None:
        """Change the weather of some links; it is so when this returns."""
        async with self._telling:
            for name in names:
                order = {"link": name, **{key: getattr(weather, key) for key in Weather.__slots__}}
                answer = await asyncio.wait_for(asyncio.to_thread(self._tell, msgspec.json.encode(order)), ANSWER_S)
                assert answer, "the links are gone"

    def _tell(self, order: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    @contextlib.asynccontextmanager
    async def weather(self, weather: Weather, *names: str) -> AsyncIterator[None]:
        """Have a weather on some links until the block ends."""
        await self.set(weather, names)
        try:
            yield
        finally:
            await self.set(CLEAR, names)


@contextlib.contextmanager
def links_to(runtime: Path) -> Iterator[Links]:
    """Run links to the servers that `runtime.json` will name, until the block ends."""
    wanted = [*(f"{name}=nats" for name in EVERYONE), f"{POSTGRES}=postgres"]
    argv = [sys.executable, str(HERE / "link.py"), str(runtime), *wanted]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield Links(process, msgspec.json.decode(process.stdout.readline(), type=dict[str, int]))
    finally:
        process.kill()
        process.communicate(timeout=ANSWER_S)
