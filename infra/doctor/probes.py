"""Binds the checks to this machine: reads what they judge."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from actors.runtime.context import SystemClock
from infra.doctor import asked, disk, machine, ports, servers
from infra.doctor.examination import Check
from infra.doctor.finding import Finding
from infra.errors import InfraError
from infra.services.data_directory import DataDirectory, Runtime
from infra.settings import Settings

_DRIVER = Path("/proc/driver/nvidia/version")
_LOOK_S = 0.05
_TORCH_S = 8.0
"""How long loading torch and looking at the device may take."""
_TOLD = "ostinato: "
_DETECT = f"""
import logging, sys
logging.basicConfig(format={_TOLD + "%(message)s"!r})
from engine.platforms import detect
print(detect(sys.argv[1]).describe())
"""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at: where a stack runs, or would."""

    data: Path
    settings: Settings
    """What a start would run with."""


def checks(patient: Patient) -> list[Check]:
    """Return every check, bound to this machine and the patient."""
    runtime = running(patient.data)
    urls = runtime.urls if runtime else {}
    ours = frozenset({*runtime.ports.values(), _port_of(urls.get("http", ""))} if runtime else ())
    settings = patient.settings
    programs = [] if settings.nats else [Check("nats-program", servers.nats_program)]
    programs += [] if settings.postgres else [Check("postgres-program", servers.postgres_program)]
    clock = SystemClock()
    return [
        Check("python", lambda: machine.python(sys.version_info[:3], sys.executable)),
        *programs,
        Check("nats", lambda: servers.nats_running(settings.nats or urls.get("nats"))),
        Check("postgres", lambda: servers.postgres_running(settings.postgres or urls.get("postgres"), clock.now)),
        Check("model", lambda: asked.model(settings)),
        Check("agents", lambda: asked.agents(settings.agents)),
        Check("data", lambda: disk.data(patient.data)),
        Check("space", lambda: disk.space(disk.free(patient.data))),
        Check("sync", lambda: disk.sync(patient.data)),
        Check("cpu", _cpu),
        Check("memory", _memory),
        Check("gpu", _gpu),
        Check("platform", lambda: machine.platform(*_detected(settings.engine.device)), _TORCH_S),
        Check("compiler", _compiler),
        Check("extras", lambda: machine.extras(machine.has_distribution)),
        Check("http-port", lambda: ports.http_port(settings.host, settings.port, ours)),
        Check("server-ports", lambda: ports.server_ports(_kept_ports(patient.data), ours)),
        Check("clock", _clock),
        Check("text", lambda: machine.text(sys.getfilesystemencoding(), sys.stdout.encoding or "utf-8")),
        Check("files", lambda: machine.files(*resource.getrlimit(resource.RLIMIT_NOFILE))),
    ]


def running(data: Path) -> Runtime | None:
    """Return what runs on the data directory; None when nothing does."""
    directory = DataDirectory(data)
    try:
        directory.refuse_if_held()
    except InfraError:
        return directory.read_runtime()
    except OSError:
        return None  # the check of the directory says why
    return None


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2] or 0)


def _kept_ports(data: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((data / "ports.json").read_bytes(), type=dict[str, int])
    return {}


def _cpu() -> Finding:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [machine.cgroup_cores(file) for file in _cgroup("cpu.max")]
    quota = min((quota for quota in quotas if quota is not None), default=None)
    flags: frozenset[str] = frozenset()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = frozenset(next((line.split() for line in lines if line.startswith("flags")), ()))
    return machine.cpu(cores, quota, flags if platform.machine() in {"x86_64", "AMD64"} else frozenset())


def _memory() -> Finding:
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    total, available = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limits = [int(text) for text in _cgroup("memory.max") if text.strip() != "max"]
    used = [int(text) for text in _cgroup("memory.current")]
    limit = min(limits, default=None)
    if limit is not None and used:
        available = min(available, max(0, limit - max(used)))
    return machine.memory(total, available, limit)


def _cgroup(name: str) -> list[str]:
    """Read a file of our control group, from ours up to the root that we see."""
    root = Path("/sys/fs/cgroup")
    own = root
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                own = root / line[3:].lstrip("/")
    found = []
    for folder in (own, *own.parents):
        if folder.is_relative_to(root):
            with contextlib.suppress(OSError):
                found.append((folder / name).read_text(encoding="utf-8"))
    return found


def _gpu() -> Finding:
    torch = find_spec("torch")
    cuda = machine.torch_cuda(Path(torch.origin).parent) if torch and torch.origin else None
    return machine.gpu(_listed(), cuda)


def _detected(device: str) -> tuple[int, str, str]:
    """Have another process choose the device as a worker does: torch takes seconds to load, and drivers may crash."""
    argv = [sys.executable, "-c", _DETECT, device]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TORCH_S, check=False)
    lines = done.stderr.splitlines() if done.returncode else done.stderr.split(_TOLD)[1:]
    return done.returncode, done.stdout.strip(), "\n".join(lines).strip()


def _listed() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "" if _DRIVER.exists() else None
    argv = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else ""


def _compiler() -> Finding:
    named = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang", "cc"]
    return machine.compiler(next(filter(None, map(shutil.which, named)), None), _DRIVER.exists())


def _clock() -> Finding:
    clock = SystemClock()
    before, begun = clock.now(), time.monotonic()
    threading.Event().wait(_LOOK_S)
    passed = time.monotonic() - begun
    return servers.clock(before, passed, clock.now())
