"""nats-server with a synced JetStream, on loopback, in a data directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sysconfig
from pathlib import Path

import msgspec

from infra.errors import BinaryMissing
from infra.services.data_directory import DataDirectory
from infra.services.process import Program, ServerProcess, is_free, stop_stale, until
from infra.services.unprivileged import Placement, make_folder, reachable_program

READY_S = 10.0
MAX_PAYLOAD = 8 * 2**20
MAX_MEMORY = 256 * 2**20
LEAST_STORE = 3 * 2**30
"""JetStream refuses streams whose reserved sizes exceed its limit, and TRACE alone reserves 2 GiB."""

_WRITE_ERROR = b"critical write error"
"""How the server's log tells of a stream that could not be written to."""

# `sync_interval: always` makes an acknowledged message survive a power cut; the default loses up to two minutes
_CONFIG = """\
listen: "127.0.0.1:{port}"
server_name: ostinato
max_payload: {payload}
pid_file: "{folder}/nats.pid"
ports_file_dir: "{folder}"
jetstream {{
  store_dir: "{folder}"
  sync_interval: always
  max_memory_store: {memory}
  max_file_store: {file}
}}
"""


def find_nats_server(setting: Path | None = None) -> Path:
    """Return the program the setting names; without a setting the one beside this Python, else on the PATH.

    Raises:
        BinaryMissing: it is not there.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    candidates = [setting] if setting is not None else [beside, Path(shutil.which("nats-server") or beside)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise BinaryMissing("nats-server")


class NatsServer:
    """One nats-server, which can be restarted on the same port."""

    def __init__(self, directory: DataDirectory, placement: Placement, binary: Path | None = None) -> None:
        self._directory = directory
        self._placement = placement
        self._folder = placement.data / "nats"
        self._binary = binary
        self._program = Program(
            name="nats-server",
            account=placement.account,
            log=directory.logs / "nats.log",
            stop_signals=(signal.SIGTERM,),
        )
        self._process: ServerProcess | None = None
        self._port: int | None = None
        self._read = 0
        """How much of the log was looked at for write errors."""

    @property
    def folder(self) -> Path:
        """Where its data lies."""
        return self._folder

    @property
    def log(self) -> Path:
        """What it prints."""
        return self._program.log

    @property
    def port(self) -> int:
        """The port it listens on, or did last."""
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while the server runs."""
        return self._process.poll() if self._process is not None else 0

    async def wait(self) -> int:
        """Wait until the server has ended, for whatever reason."""
        assert self._process is not None, "the server was never started"
        return await self._process.wait()

    async def start(self, port: int | None = None) -> None:
        """Start the server and return when clients can connect.

        Args:
            port: Where to listen; by default the port it had before, if that is free, and otherwise any.

        Raises:
            BinaryMissing: there is no nats-server here.
            ServerFailed: it ended, or was not ready within 10 seconds.
        """
        await self._stop_stale()
        binary = await asyncio.to_thread(self._prepare, port)
        process = await ServerProcess.start(self._program, [str(binary), "-c", self._config])
        self._process = process
        async for _ in until(READY_S):
            if process.poll() is not None:
                raise await process.failed(f"ended with status {process.poll()}")
            bound = await asyncio.to_thread(_bound_port, self._folder, process.pid)
            if bound is not None:
                self._port = bound
                await asyncio.to_thread(self._directory.remember_port, "nats", bound)
                return
        await process.stop()
        raise await process.failed(f"was not ready within {READY_S:g} s")

    def write_error(self) -> str:
        """Say in the server's words what it could not write since it was last asked; empty if nothing. Blocks.

        A stream that could not be written to answers no publish any more, whatever the others do, and is read as if
        nothing were wrong: the log alone tells, and only another start helps.
        """
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(self._read if self._read <= size else 0)  # a log that grew long was moved aside
            lines = log.read().splitlines()
        self._read = size
        mine = b"[%d] " % self.pid
        found = next((line for line in lines if line.startswith(mine) and _WRITE_ERROR in line), b"")
        return found.partition(b"[ERR] ")[2].decode(errors="replace")

    async def stop(self) -> None:
        """End the server; what was acknowledged is on disk."""
        if self._process is not None:
            await self._process.stop()

    async def kill(self) -> None:
        """End the server the way a crash does."""
        if self._process is not None:
            await self._process.kill()

    async def restart(self) -> None:
        """Stop the server if it runs, and start it on the same port."""
        await self.stop()
        await self.start(self.port)

    @property
    def _config(self) -> str:
        return str(self._folder / "nats.conf")

    def _prepare(self, port: int | None) -> Path:
        """Write the configuration and return the program."""
        found = find_nats_server(self._binary)
        binary = reachable_program(found, self._placement, [(found, "nats-server")])
        folder = make_folder(self._folder, self._placement.account)
        for stale in folder.glob("*.ports"):
            stale.unlink()
        if port is None:
            before = self._directory.port("nats")
            port = before if before is not None and is_free(before) else -1
        used = sum(file.stat().st_size for file in (folder / "jetstream").rglob("*.blk"))
        config = _CONFIG.format(
            port=port,
            payload=MAX_PAYLOAD,
            folder=folder,
            memory=MAX_MEMORY,
            file=max(used + self._directory.free() * 4 // 5, LEAST_STORE),
        )
        Path(self._config).write_text(config, encoding="utf-8")
        Path(self._config).chmod(0o644)
        return binary

    async def _stop_stale(self) -> None:
        pid = await asyncio.to_thread(_recorded_pid, self._folder / "nats.pid")
        if pid is not None:
            await stop_stale(self._program, pid, self._config)


def _recorded_pid(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _bound_port(folder: Path, pid: int) -> int | None:
    """Read the port that the server says it bound; None until it has said so in full."""
    for file in folder.glob(f"*_{pid}.ports"):
        try:
            ports = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]])
        except msgspec.DecodeError:
            return None
        return int(ports["nats"][0].rpartition(":")[2])
    return None
