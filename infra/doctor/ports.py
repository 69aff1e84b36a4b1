"""Checks of the ports: free, ours, or taken by whom."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from infra.doctor.finding import Finding, ok, problem, warning

_LISTENING = "0A"


def http_port(host: str, port: int, ours: frozenset[int]) -> Finding:
    """Look whether the HTTP bridge could listen; `ours` are the ports of the stack that runs."""
    if port == 0:
        return ok("http-port", f"any free one on {host} will be taken")
    if port in ours:
        return ok("http-port", f"{port} on {host} is the running stack's")
    error = _refusal(host, port)
    if error is None:
        return ok("http-port", f"{port} on {host} is free")
    if error.errno == errno.EADDRINUSE:
        who = holder(port) or "another process"
        return problem("http-port", f"{port} on {host} is taken by {who}", "stop it, or choose another with --port")
    return problem("http-port", f"{host} cannot be used ({error.strerror})", "give an address of this machine (--host)")


def server_ports(ports: dict[str, int], ours: frozenset[int]) -> Finding:
    """Look whether the servers would get the ports that they had before."""
    if not ports:
        return ok("server-ports", "any free ones will be taken")
    taken = {n: p for n, p in ports.items() if p not in ours and _refusal("127.0.0.1", p) is not None}
    if taken:
        says = ", ".join(
            f"{name} {port} is taken by {holder(port) or 'another process'}" for name, port in taken.items()
        )
        return warning("server-ports", says, "another will be taken: programs that kept the old URL must learn the new")
    says = ", ".join(f"{name} {port}" for name, port in ports.items())
    return ok("server-ports", says)


def _refusal(host: str, port: int) -> OSError | None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return error
    return None


def holder(port: int) -> str | None:
    """Name the process that listens on a port, as far as the system lets us see it."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net") / table, port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(str(entry.readlink()) in inodes for entry in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text(encoding='utf-8').strip()})"
        except OSError:
            continue
    return None


def _listeners(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]
