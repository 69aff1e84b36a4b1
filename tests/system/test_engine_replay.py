"""What an engine did is shown step by step, and its scheduler plans the same again, also after a crash."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from schemas import codec
from schemas.steps import StepPlan
from tests.system.conftest import UpProcess, ask, chat, records, start
from tests.system.test_record import rows, wait_until_recorded

pytestmark = pytest.mark.servers


@pytest.fixture
def own_stack(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


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
