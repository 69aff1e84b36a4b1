"""Starting as it is seen: in a real pseudo-terminal, and by a program that reads what `up` prints."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.system.conftest import OSTINATO, STOP_S
from tests.system.pseudo_terminal import CTRL_C, PseudoTerminal

pytestmark = pytest.mark.servers


def test_a_terminal_shows_one_line_that_names_what_is_under_way(system_folder: Path) -> None:
    data = system_folder / "seen"
    with PseudoTerminal([*OSTINATO, "up", "--port", "0", "--data", str(data)], {"COLUMNS": "200"}) as screen:
        screen.until("starting: model")
        screen.until("worker-0 … ")
        line = screen.until("\n")
        assert "started: model" in line
        assert "ready" in line
        screen.until("Ctrl-C stops it")
        assert "starting" in screen.raw
        screen.type(CTRL_C)
        assert screen.end() == 0


def test_a_start_that_fails_ends_the_line_before_it_says_why(system_folder: Path) -> None:
    argv = [*OSTINATO, "up", "--port", "0", "--data", str(system_folder / "failing"), "--model", "/no/such/model"]
    with PseudoTerminal(argv, {}) as screen:
        assert screen.end() == 1
    assert "/no/such/model" in screen.raw.splitlines()[-1]


def test_a_program_reads_one_line_that_says_where_everything_is(system_folder: Path) -> None:
    data = system_folder / "told"
    with subprocess.Popen(
        [*OSTINATO, "up", "--json", "--port", "0", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            assert httpx.get(f"{ready['url']}/health", timeout=10).status_code == 200
            assert ready["openai"] == ready["url"] + "/v1"
            assert ready["nats"].startswith("nats://")
            assert ready["postgres"].startswith("postgres")
            assert ready["pid"] == process.pid
        finally:
            process.send_signal(signal.SIGINT)
            rest, problems = process.communicate(timeout=STOP_S)
    assert rest == ""
    assert "\x1b" not in problems
    assert "started: model" in problems
