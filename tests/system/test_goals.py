"""Modes, agreements, task lists, questions and goals on the whole stack, with processes that are killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.agent.standing import Goal
from actors.built_in.task_list import TaskItem, tasks_in
from actors.models.nearby import offer_model
from actors.models.provider import ModelAnswer, ModelCall, OnText
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from infra.client import Client, connected
from infra.errors import SettlementRefused, ThreadUnfit
from infra.privacy import known_master
from infra.running import Waiting, folded
from ostinato import Choice, Classifier, YesNo
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess, records, start
from tests.system.test_waits import heard, verified

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(240)]

STEPS = (
    ("ask_user", '{"question": "Which colour?", "options": ["red", "blue"]}'),
    ("write_tasks", '{"titles": ["paint", "dry"]}'),
    ("submit_plan", '{"title": "The shed", "plan": "1. Paint it."}'),
    ("paint", '{"colour": "blue"}'),
    ("paint", '{"colour": "bluer"}'),
    ("complete_task", '{"id": "1"}'),
)


class Judge(ScriptedModel):
    """Works, and judges once it may."""

    def __init__(self) -> None:
        super().__init__(script)
        self.judging = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Answer; as a judge, not before that is let."""
        if call.sampling.structured is not None and call.sampling.structured.kind == "json_schema":
            self.judging.set()
            await self.go.wait()
        return await super().call(call, on_text)


def script(call: ModelCall) -> Say:
    """Go through the steps that the agent is there for."""
    last = call.messages[-1].content
    wanted = call.sampling.structured
    if wanted is not None and wanted.kind == "choice":
        return wanted.choices[0]
    if wanted is not None:
        verdict = "done" if last.count("assistant: worked") >= 3 else "go_on"
        return f'{{"reason": "{last.count("assistant: worked")} done", "verdict": "{verdict}"}}'
    done = sum(message.role == "tool" for message in call.messages)
    if call.agent == "painter" and done < len(STEPS):
        name, arguments = STEPS[done]
        assert name in [spec.name for spec in call.tools], call
        return ToolCall(f"k{done}", name, arguments)
    return "worked"


@pytest.fixture
def own(system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpProcess]:
    """A stack whose agents process is killed, and whose tools leave a witness."""
    monkeypatch.setenv("OSTINATO_TEST_WITNESS", str(tmp_path / "witness"))
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


@asynccontextmanager
async def reaching(up: UpProcess, tenant: str = "default") -> AsyncIterator[Client]:
    master = await asyncio.to_thread(known_master, up.data)
    async with connected(up.nats_url, up.postgres_url, tenant, master) as client:
        yield client


async def kill(up: UpProcess) -> None:
    os.kill(await asyncio.to_thread(up.pid, "agents-0"), signal.SIGKILL)


async def waits(client: Client, thread: str, tool: str, before: str = "") -> Waiting:
    """Wait until a call of a tool waits for somebody, as is recorded, and not for what it waited for before."""
    for _ in range(1500):
        held = [one for one in await client.waiting(thread) if one.call.name == tool and one.effect != before]
        if held:
            return held[0]
        await asyncio.sleep(0.02)
    raise AssertionError(f"no call of {tool} waits")


async def standing(client: Client, thread: str, status: str, runs: int) -> Goal:
    """Wait until a goal stands so after so many runs, as is recorded."""
    for _ in range(1500):
        goal = await client.goals.get(thread)
        if goal is not None and (goal.status, goal.runs, goal.judging) == (status, runs, None):
            return goal
        await asyncio.sleep(0.02)
    raise AssertionError(f"the goal is {goal}")


async def test_what_stands_in_a_thread_survives_kill_9(own: UpProcess, tmp_path: Path) -> None:
    async with await Connection.open(own.nats_url, "scripted") as connection, reaching(own) as client:
        model = Judge()
        await offer_model(connection, "scripted", "1.0.0", model)
        await painted(own, client, tmp_path / "witness")
        await pursued(own, client, model)
        await steered(own, client)
        await unseen(own)
        await classified(own, client)


async def painted(up: UpProcess, client: Client, witness: Path) -> None:
    """Questions, plans and calls wait through `kill -9`; what was agreed to for good holds after it, and a mode."""
    running = client.stream("painter", "Paint the shed.", thread="shed", on_wait=leave_it)
    hearing = asyncio.create_task(heard(running))
    question = await waits(client, "shed", "ask_user")
    assert question.payload == {"question": "Which colour?", "options": ["red", "blue"]}
    await kill(up)
    await client.settle("shed", question.resume("green"))
    again = await waits(client, "shed", "ask_user", question.effect)
    assert "green" in again.problem
    await client.settle("shed", again.resume("blue"))
    plan = await waits(client, "shed", "submit_plan")
    assert (await client.threads.standing("shed")).mode == ""
    await kill(up)
    with pytest.raises(SettlementRefused, match="always"):
        await client.settle("shed", plan.approve(always=True))
    await client.settle("shed", plan.approve())
    call = await waits(client, "shed", "paint")
    await kill(up)
    await client.settle("shed", call.approve(always=True))
    await hearing
    assert running.finished is not None, running.problem
    assert running.finished.text == "worked"
    kinds = await verified(up, "shed")
    assert [kinds.count(kind) for kind in ("mode.changed", "tool.granted", "tool.suspended")] == [1, 1, 2]
    stands = await client.threads.standing("shed")
    assert (stands.mode, stands.grants) == ("build", ("paint",))
    lines = (await asyncio.to_thread(witness.read_text, encoding="utf-8")).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["blue", "bluer"]
    state = folded("default", "shed", await (await client.store()).events_of_thread("default", "shed"))
    assert tasks_in(state.notes) == [TaskItem("1", "paint", "completed"), TaskItem("2", "dry")]


async def pursued(up: UpProcess, client: Client, model: Judge) -> None:
    """A judge whose process is killed is asked again, and one run follows what he says."""
    assert await client.goals.set("goaler", "Work thrice.", thread="goal", budget=10) == "goal"
    await asyncio.wait_for(model.judging.wait(), 30)
    await kill(up)
    model.go.set()
    reached = await standing(client, "goal", "done", 3)
    assert reached.reason == "3 done"
    kinds = await verified(up, "goal")
    assert [kinds.count(kind) for kind in ("run.started", "goal.judging", "goal.judged")] == [3, 3, 3]


async def steered(up: UpProcess, client: Client) -> None:
    """A goal is paused where its budget ends, and resumed and cleared from the command line and over HTTP."""
    done = await asyncio.to_thread(up.cli, "goal", "set", "goaler", "Work.", "--thread", "cli", "--budget", "1")
    assert done.returncode == 0, done.stderr
    paused = await standing(client, "cli", "paused", 1)
    assert "budget of 1 runs" in paused.reason
    (shown,) = records(await asyncio.to_thread(up.cli, "goal", "show", "cli", "--json"))
    assert (shown["status"], shown["runs"]) == ("paused", 1)
    refused = await asyncio.to_thread(up.cli, "goal", "resume", "cli")
    assert (refused.returncode, "budget" in refused.stderr) == (1, True)
    async with httpx.AsyncClient(base_url=up.url, timeout=60) as http:
        resumed = await http.post("/api/threads/cli/goal/resume", json={"budget": 2})
        assert resumed.status_code == 200, resumed.text
        await standing(client, "cli", "paused", 2)
        told = (await http.get("/api/threads/cli/goal")).json()
        assert (told["status"], told["budget"], told["agent"]) == ("paused", 2, "goaler")
        assert (await http.put("/api/threads/cli/goal", json={"agent": "goaler", "text": "x"})).status_code == 409
        strange = {"agent": "painter", "text": "hi", "mode": "dance"}
        assert (await http.post("/api/threads/cli/runs", json=strange)).status_code == 400
        assert (await http.put("/api/threads/none/goal", json={"agent": "goaler", "text": ""})).status_code == 400
        assert (await http.delete("/api/threads/cli/goal")).status_code == 200
        await ungoaled(http)
        granted = await http.post("/api/threads/cli/grants", json={"tool": "paint*"})
        assert granted.status_code == 200, granted.text
        await asyncio.to_thread(up.cli, "thread", "withdraw", "shed", "paint")
        mode = await asyncio.to_thread(up.cli, "thread", "mode", "shed", "plan")
        assert mode.returncode == 0, mode.stderr
        assert (await http.put("/api/threads/shed/mode", json={"mode": "dance"})).status_code == 400
        for _ in range(500):
            stands = (await http.get("/api/threads/shed/standing")).json()
            if stands["mode"] == "plan":
                break
            await asyncio.sleep(0.02)
        assert stands == {"mode": "plan", "grants": [], "goal": None}
    with pytest.raises(ThreadUnfit, match="budget"):
        await client.goals.set("goaler", "x", budget=0)
    await verified(up, "cli")


async def ungoaled(http: httpx.AsyncClient) -> None:
    for _ in range(500):
        if (await http.get("/api/threads/cli/goal")).status_code == 404:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the goal is still there")


async def unseen(up: UpProcess) -> None:
    """Another tenant sees nothing of it, and can change nothing."""
    async with reaching(up, "stranger") as stranger:
        assert await stranger.goals.get("goal") is None
        assert (await stranger.threads.standing("shed")).grants == ()
        for order in (stranger.goals.pause("goal"), stranger.threads.mode("shed", "build")):
            with pytest.raises(SettlementRefused):
                await order


async def classified(up: UpProcess, client: Client) -> None:
    """Questions are asked of a model of the stack, bound by our own engine with the chances of its answers."""
    questions: dict[str, Any] = {"topic": Choice({"billing": "invoices", "other": "else"}), "urgent": YesNo("Is it?")}
    there = await client.classify(Classifier(questions, "local/scripted"), "I want to pay.")
    assert (there["topic"].value, there["urgent"].value) == ("billing", True)
    assert there["topic"].chances is None
    own = await client.classify(Classifier(questions), "I want to pay.", await served(up))
    assert own["topic"].value in {"billing", "other"}
    assert own["urgent"].value in {True, False}
    answer = await client.run("chooser", "hello", thread="chosen")
    assert answer.text == "worked"
    assert "step.prepared" in await verified(up, "chosen")


async def served(up: UpProcess) -> str:
    """Name the model of the stack's own engine."""
    async with httpx.AsyncClient(base_url=up.url, timeout=60) as http:
        names = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
    return next(name for name in names if "/" not in name)


async def leave_it(_waits: Waiting) -> None:
    """Leave it to somebody else."""
