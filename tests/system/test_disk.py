"""A disk that fills while the stack runs: said, refused, survived."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from infra.watch import LOW_BYTES, closes
from tests.system.conftest import OSTINATO, UpProcess, ask, chat, start
from tests.system.test_first_failures import mounted

pytestmark = pytest.mark.servers
WAIT_S = 60.0


def until(holds: Callable[[], bool], what: str) -> None:
    """Look again and again, each look a request of its own, until it holds."""
    over = threading.Event()
    timer = threading.Timer(WAIT_S, over.set)
    timer.start()
    try:
        while not holds():
            assert not over.wait(0.2), f"{what} did not come"
    finally:
        timer.cancel()


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes free."""
    with (folder / "filling").open("ab") as file:
        while (size := shutil.disk_usage(folder).free - left) > 0:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:  # the stack wrote meanwhile: that much less is free
                continue


def health(up: UpProcess) -> dict[str, object]:
    answer: dict[str, object] = httpx.get(f"{up.url}/health", timeout=10).json()
    return answer


def test_admission_closes_and_opens_at_limits_that_lie_apart() -> None:
    assert not closes(closed=False, free=LOW_BYTES)
    assert closes(closed=False, free=LOW_BYTES - 1)
    assert closes(closed=True, free=2 * LOW_BYTES - 1)
    assert not closes(closed=True, free=2 * LOW_BYTES)


@pytest.mark.deadline(200)
def test_a_disk_that_fills_is_said_and_refused_and_freed_space_is_noticed(system_folder: Path) -> None:
    folder = system_folder / "filling"
    with mounted(folder, "size=1500m,mode=755"):
        up = start(folder / "data")
        try:
            thread = chat(up, ask("Please remember that my cat is called Biscuit.")).headers["X-Ostinato-Thread"]
            fill(folder, LOW_BYTES // 2)
            until(lambda: health(up)["status"] == "degraded", "a degraded state")
            until(lambda: chat(up, ask("What is 12 times 34?")).status_code == 503, "a refusal")
            refused = chat(up, ask("What is 12 times 34?"))
            assert "the disk is nearly full" in refused.json()["error"]["message"]
            assert "free some space" in refused.json()["error"]["message"]
            assert int(refused.headers["retry-after"]) > 0
            told = up.cli("run", "demo", "Hello!")
            assert told.returncode == 1
            assert "the disk is nearly full" in told.stderr
            assert len(told.stderr.splitlines()) == 1
            (folder / "filling").unlink()
            until(lambda: health(up)["status"] == "ok", "a fine state")
            assert "Biscuit" in chat(up, ask("What is my cat called?"), thread).text
        finally:
            assert up.stop() == 0


@pytest.mark.deadline(200)
def test_a_disk_that_was_full_to_the_last_byte_takes_commands_again_when_space_is_freed(system_folder: Path) -> None:
    folder = system_folder / "full"
    with mounted(folder, "size=1500m,mode=755"):
        up = start(folder / "data")
        try:
            thread = chat(up, ask("Please remember that my cat is called Biscuit.")).headers["X-Ostinato-Thread"]
            fill(folder, 0)
            until(lambda: health(up)["status"] == "degraded", "a degraded state")
            assert chat(up, ask("What is 12 times 34?")).status_code == 503
            argv = [*OSTINATO, "run", "demo", "Hello!", "--data", str(up.data)]
            waiting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert waiting.stderr is not None
            assert "the disk is nearly full" in waiting.stderr.readline()
            waiting.send_signal(signal.SIGINT)
            waiting.communicate(timeout=WAIT_S)
            (folder / "filling").unlink()
            until(lambda: health(up)["status"] == "ok", "a fine state")
            until(lambda: chat(up, ask("What is 12 times 34?")).status_code == 200, "an answer")
            assert "Biscuit" in chat(up, ask("What is my cat called?"), thread).text
            assert up.cli("replay", "verify", "--all").returncode == 0
        finally:
            assert up.stop() == 0
