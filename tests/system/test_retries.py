"""An engine that is away for a while: the agent asks again, its user is told, the record shows it and verifies."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from tests.system.conftest import OSTINATO, UpProcess, records

pytestmark = pytest.mark.servers

ANSWER_S = 90.0


def test_an_engine_that_comes_back_is_asked_again_by_itself(own_stack: UpProcess) -> None:
    scheduler = own_stack.pid("scheduler-0")
    os.kill(scheduler, signal.SIGSTOP)
    command = [*OSTINATO, "run", "demo", "What is 12 times 34?", "--data", str(own_stack.data)]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(ANSWER_S, asking.kill)
    timer.start()
    try:
        assert asking.stdout is not None
        first = asking.stdout.readline()
        os.kill(scheduler, signal.SIGCONT)
        rest, complaint = asking.communicate()
    finally:
        timer.cancel()
        os.kill(scheduler, signal.SIGCONT)
    assert first.startswith("[engine: the model is asked again in 1.")
    assert first.endswith("s, attempt 2]\n")
    assert asking.returncode == 0, complaint
    assert "408" in rest
    (thread,) = [line["thread"] for line in records(own_stack.cli("replay", "ls", "--json"))]
    shown = own_stack.cli("replay", "show", thread).stdout
    assert "engine: attempt 2 in 1." in shown
    assert "the model is asked again" in shown
    assert "model.failed" in shown
    verified = own_stack.cli("replay", "verify", thread)
    assert verified.returncode == 0, verified.stdout + verified.stderr
