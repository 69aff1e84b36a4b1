"""The processes beside a stack under fire: each is started again when it has ended, as whoever runs it would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

NAMES = ("model", "tools")
LOOK_S = 0.1
END_S = 10.0


class Neighbours:
    """A scripted model and tool services."""

    def __init__(self, runtime: Path, witness: Path) -> None:
        """Make them.

        Args:
            runtime: says where the stack's NATS is.
            witness: where tools say that they took effect.
        """
        self._runtime = runtime
        self._environment = {**os.environ, "OSTINATO_CHAOS_WITNESS": str(witness)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep them running until the block ends."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            for process in self._processes.values():
                process.kill()
                await asyncio.to_thread(process.wait, END_S)

    def kill(self, name: str) -> None:
        """End one, whatever it does."""
        self._processes[name].kill()

    async def _keep(self) -> None:
        while True:
            for name in NAMES:
                process = self._processes.get(name)
                if process is None or process.poll() is not None:
                    self._processes[name] = await asyncio.to_thread(self._start, name)
            await asyncio.sleep(LOOK_S)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.chaos.neighbour", name, str(self._runtime)]
        return subprocess.Popen(argv, env=self._environment)
