"""What an engine did is shown step by step, and its scheduler plans the same again, also after a crash."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from schemas import codec
from schemas.steps import StepPlan
from tests.system.conftest import UpProcess, ask, chat, records, start
from tests.system.test_disk import health, until
from tests.system.test_record import rows, wait_until_recorded

pytestmark = pytest.mark.servers


def test_the_last_steps_are_shown_and_planned_again_though_their_scheduler_was_killed(
    own_stack: UpProcess,
) -> None:
    thread = chat(own_stack, ask("What is 12 times 34?")).headers["X-Ostinato-Thread"]
    wait_until_recorded(own_stack)
    dead = own_stack.pid("scheduler-0")
    os.kill(dead, signal.SIGKILL)
    assert "56" in chat(own_stack, ask("What is 7 times 8?")).json()["choices"][0]["message"]["content"]
    wait_until_recorded(own_stack)
    *steps, before, after = records(own_stack.cli("replay", "engine", "--last", "100000", "--verify", "--json"))
    assert (before["ok"], before["problem"], after["ok"], after["problem"]) == (True, "", True, "")
    assert before["plans"] + after["plans"] == len(steps)
    assert [step["step"] for step in steps] == [*range(1, before["plans"] + 1), *range(1, after["plans"] + 1)]
    assert (after["running"], after["waiting"], after["in_flight"]) == (0, 0, 0)
    assert before["engine"] == "ostinato-mini"
    mine = records(own_stack.cli("replay", "engine", thread, "--json"))
    assert [step["step"] for step in mine] == [step["step"] for step in steps[: len(mine)]]
    (first,) = mine[0]["begins"]
    assert first["request"].startswith(f"default/{thread}/")
    assert (first["tokens"], mine[0]["positions"]) == (first["tokens"], first["tokens"] - first["cached"])


def test_a_plan_that_was_changed_in_the_record_is_named(own_stack: UpProcess) -> None:
    chat(own_stack, ask("Hello!"))
    wait_until_recorded(own_stack)
    (plan,) = rows(own_stack, "SELECT seq, payload FROM record WHERE subject LIKE 'step.%.plan' AND n = 3")
    changed: StepPlan = codec.decode(plan["payload"], StepPlan)
    changed = msgspec.structs.replace(changed, slices=(msgspec.structs.replace(changed.slices[0], start=999),))
    rows(own_stack, "UPDATE record SET payload = $1 WHERE seq = $2", codec.encode(changed), plan["seq"])
    done = own_stack.cli("replay", "engine", "--last", "--verify", "--json")
    (*_, verified) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, verified["ok"], verified["plans"]) == (1, False, 2)
    assert verified["problem"].startswith("plan 3 has slices [[")
    assert "999" in verified["problem"]


def test_steps_of_nothing_and_of_nobody_are_errors(stack: UpProcess) -> None:
    neither = stack.cli("replay", "engine")
    assert (neither.returncode, neither.stderr) == (
        2,
        "ostinato replay engine: name a thread, run or generation, or use --last\n",
    )
    nobody = stack.cli("replay", "engine", "nobody")
    assert nobody.returncode == 1
    assert "nothing recorded of 'nobody'" in nobody.stderr


def test_an_engine_that_stands_still_is_not_healthy_and_says_why(system_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ostinato.toml"
    file.write_text("[engine]\nstall_s = 1\n", encoding="utf-8")
    up = start(system_folder / tmp_path.name, "--config", str(file))
    worker = up.pid("worker-0")
    os.kill(worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(chat, up, ask("What is 12 times 34?"))
            until(lambda: "trouble" in process(up, "scheduler-0"), "a stall")
            trouble = process(up, "scheduler-0")["trouble"]
            assert re.search(
                r"no step has ended for \d+ s: 0 waiting, 1 running; worker \S+ has not answered steps 1", trouble
            )
            assert httpx.get(f"{up.url}/health", timeout=10).status_code == 503
            os.kill(worker, signal.SIGCONT)
            assert "408" in asked.result(timeout=60).json()["choices"][0]["message"]["content"]
        until(lambda: health(up)["status"] == "ok", "a fine state")
        wait_until_recorded(up)
        lines = records(up.cli("replay", "engine", "--last", "100", "--json"))
        stalls = [line for line in lines if "after_step" in line]
        assert (stalls[0]["after_step"], stalls[0]["over"]) == (2, False)
        assert stalls[-1]["over"]
        assert "stands still" in up.cli("replay", "engine", "--last", "100").stdout
    finally:
        os.kill(worker, signal.SIGCONT)
        assert up.stop() == 0


def process(up: UpProcess, slot: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{up.url}/health", timeout=10).json()["processes"][slot]
    return answer
