"""The whole stack as a user starts it: `ostinato up` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

AGENTS = Path(__file__).parent / "agents.py"
START_S = 90.0
STOP_S = 30.0
OSTINATO = [sys.executable, "-m", "infra.cli.main"]


@dataclass
class UpProcess:
    """A running `ostinato up`."""

    process: subprocess.Popen[str]
    data: Path
    lines: list[str] = field(default_factory=list)

    @property
    def runtime(self) -> dict[str, Any]:
        """What it wrote down about itself."""
        found: dict[str, Any] = msgspec.json.decode((self.data / "runtime.json").read_bytes())
        return found

    @property
    def url(self) -> str:
        return str(self.runtime["urls"]["http"])

    @property
    def nats_url(self) -> str:
        return str(self.runtime["urls"]["nats"])

    @property
    def postgres_url(self) -> str:
        return str(self.runtime["urls"]["postgres"])

    def pid(self, slot: str) -> int:
        """The process that has a place in the process table now."""
        health = httpx.get(f"{self.url}/health", timeout=10).json()
        return int(health["processes"][slot]["pid"])

    def children(self) -> list[int]:
        """Every process it started, servers included."""
        health = httpx.get(f"{self.url}/health", timeout=10).json()
        return [int(part["pid"]) for part in health["processes"].values()] + list(self.runtime["pids"].values())

    def cli(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `ostinato ...` on its data directory."""
        command = [*OSTINATO, *argv, "--data", str(self.data)]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )

    def stop(self) -> int:
        """Press Ctrl-C and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=STOP_S)
        return self.process.returncode


def start(data: Path, *argv: str, cwd: Path | None = None, verb: str = "up") -> UpProcess:
    """Start a stack and wait until it says that it is up."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    agents = ["--agents", str(AGENTS)] if verb == "up" else []
    process = subprocess.Popen(
        [*OSTINATO, verb, "--port", "0", "--data", str(data), *agents, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
    )
    up = UpProcess(process, data)
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            up.lines.append(line.rstrip("\n"))
            if "replay ls" in line:
                return up
    finally:
        timer.cancel()
    raise AssertionError(f"the stack did not come up: {process.communicate()[1]}")


@pytest.fixture(scope="session")
def system_folder() -> Iterator[Path]:
    """A folder for data directories that an unprivileged server can enter."""
    with tempfile.TemporaryDirectory(prefix="ostinato-system-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def stack(system_folder: Path) -> Iterator[UpProcess]:
    """The stack with the embedded model, for all tests that do not break it."""
    up = start(system_folder / "shared")
    yield up
    assert up.stop() == 0


@pytest.fixture
def own_stack(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    """A stack for one test, which may damage it, or have it stand still."""
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


def chat(up: UpProcess, body: dict[str, Any] | bytes, thread: str | None = None) -> httpx.Response:
    """POST a chat completion as raw as can be."""
    headers = {"content-type": "application/json"} | ({"X-Ostinato-Thread": thread} if thread else {})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{up.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


def ask(text: str, model: str = "agent/demo", **more: Any) -> dict[str, Any]:
    """A request body with one user message."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def records(done: subprocess.CompletedProcess[str]) -> Sequence[dict[str, Any]]:
    """The JSON lines that a command printed."""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
