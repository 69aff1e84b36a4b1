"""Another master key takes the place of the one that there was, on a whole stack, whoever is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import OSTINATO, UpProcess, records, start
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

CANARY = "Quetzalcoatlus"
KILLED = """
import os, signal, sys
import infra.rotating
from infra.cli.main import main

rewrap = infra.rotating.rewrap

async def killed(*given):
    if sys.argv[1] == "after":
        await rewrap(*given)
    os.kill(os.getpid(), signal.SIGKILL)

infra.rotating.rewrap = killed
main(["keys", "rotate-master", "--data", sys.argv[2]])
"""


def says(up: UpProcess, word: str) -> bool:
    return any(word in str(line["data"]) for line in records(up.cli("replay", "show", "talk", "--json")))


def rotate(data: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [*OSTINATO, "keys", "rotate-master", *argv, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def killed(data: Path, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, when, str(data)], timeout=90, check=False)
    assert done.returncode == -signal.SIGKILL


def sealed_thread(data: Path) -> None:
    up = start(data)
    try:
        assert up.cli("thread", "create", "talk").returncode == 0
        assert up.cli("run", "agent/plain", f"Hello, {CANARY}!", "--thread", "talk").returncode == 0
        wait_until_recorded(up)
        refused = up.cli("keys", "rotate-master")
        assert refused.returncode == 1
        assert "already runs" in refused.stderr
    finally:
        assert up.stop() == 0


def goes_on(data: Path) -> None:
    up = start(data)
    try:
        assert says(up, CANARY)
        assert up.cli("run", "agent/plain", "And again!", "--thread", "talk").returncode == 0
        assert up.cli("replay", "verify", "talk").returncode == 0
    finally:
        assert up.stop() == 0


def test_a_master_key_is_rotated_and_the_one_before_opens_nothing(system_folder: Path, tmp_path: Path) -> None:
    data = system_folder / tmp_path.name
    file = data / "master.key"
    sealed_thread(data)
    first = file.read_bytes()
    for when in ("before", "after"):
        killed(data, when)
        assert file.read_bytes() == first
    goes_on(data)  # and finishes what was broken off
    second = file.read_bytes()
    done = rotate(data)
    assert "keys are wrapped with a new `master.key`" in done.stdout, done.stderr
    third = file.read_bytes()
    assert len({first, second, third}) == 3
    file.write_bytes(second)
    up = [*OSTINATO, "up", "--port", "0", "--data", str(data)]
    old = subprocess.run(up, capture_output=True, text=True, timeout=90, check=False)
    assert old.returncode == 1
    assert "privacy.master_key" in old.stderr
    file.write_bytes(third)
    given = tmp_path / "given"
    given.write_text("a master key of one's own\n", encoding="utf-8")
    assert rotate(data, "--to", str(given)).returncode == 0
    environment = {**os.environ, "OSTINATO_PRIVACY_MASTER_KEY": "a master key of one's own"}
    shown = [*OSTINATO, "replay", "show", "talk", "--json", "--data", str(data)]
    told = subprocess.run(shown, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert CANARY in told.stdout, told.stderr
