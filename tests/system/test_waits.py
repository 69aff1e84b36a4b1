"""Runs that wait for somebody, on the whole stack, from Python: they survive `kill -9`, and one answer counts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pytest

from actors.tools import ToolContext, tool
from infra.client import Client, connect
from infra.errors import NoAnswer, ScheduleUnfit, SettlementRefused
from infra.running import Waiting
from schemas.commands import Approve, PostResult, Resume
from schemas.live import Committed, Progress
from tests.system.conftest import UpProcess, records
from tests.system.test_docs import blocks
from tests.system.test_record import wait_until_recorded

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(120)]


@pytest.fixture
async def client(stack: UpProcess) -> AsyncIterator[Client]:
    async with connect(str(stack.data)) as connected_client:
        yield connected_client


async def verified(stack: UpProcess, thread: str) -> list[str]:
    """Check that the thread is decided the same again; list its events."""
    await asyncio.to_thread(wait_until_recorded, stack)
    done = await asyncio.to_thread(stack.cli, "replay", "verify", thread)
    assert done.returncode == 0, done.stderr
    return [line["kind"] for line in records(await asyncio.to_thread(stack.cli, "replay", "show", thread, "--json"))]


async def test_a_program_runs_an_agent_and_hears_its_words(stack: UpProcess, client: Client) -> None:
    answer = await client.run("demo", "What is 12 times 34?")
    assert "408" in answer.text
    running = client.stream("demo", "What is 19 plus 4?", thread=answer.thread)
    said = [text async for text in running.texts()]
    assert running.finished is not None
    assert "".join(said).endswith(running.finished.text)
    assert len(said) > 1
    with pytest.raises(NoAnswer, match="no agent 'nobody'"):
        await client.run("nobody", "hi")
    await verified(stack, answer.thread)


async def test_a_tool_that_waits_for_data_gets_it_from_whoever_is_there(stack: UpProcess, client: Client) -> None:
    asked: list[Waiting] = []

    async def on_wait(waits: Waiting) -> Resume:
        asked.append(waits)
        return waits.resume("perhaps" if len(asked) == 1 else True)

    running = client.stream("leaving", "What is 12 times 34?", on_wait=on_wait)
    frames = [frame async for frame in running]
    assert running.finished is not None
    assert "408" in running.finished.text
    assert [frame.data for frame in frames if isinstance(frame, Progress)] == [{"begins": "12 * 34"}] * 3
    assert (asked[0].payload, asked[0].schema) == ({"expression": "12 * 34"}, {"type": "boolean"})
    assert "bool" in asked[1].problem
    assert (await verified(stack, running.thread)).count("tool.suspended") == 2


async def test_a_tool_of_the_programs_is_run_in_it(stack: UpProcess, client: Client) -> None:
    used: list[str] = []

    @tool
    def calculator(expression: str, context: ToolContext) -> str:
        """Work out an arithmetic expression."""
        used.append(expression)
        return "77"

    async def here(waits: Waiting) -> PostResult:
        output = await calculator.call(waits.call.arguments, ToolContext("t", waits.thread, waits.effect, 0, {}))
        return waits.result(output.content)

    answer = await client.run("lent", "What is 12 times 34?", on_wait=here)
    assert "77" in answer.text
    assert used == ["12 * 34"]
    kinds = await verified(stack, answer.thread)
    assert kinds[-1] == "hooks.told"
    assert kinds.count("step.prepared") == 2


async def test_whether_somebody_is_asked_depends_on_the_arguments(stack: UpProcess, client: Client) -> None:
    async def yes(waits: Waiting) -> Approve:
        return waits.approve()

    dear = await client.run("choosy", "What is 1000 times 3?", on_wait=yes)
    cheap = await client.run("choosy", "What is 12 times 3?", on_wait=yes)
    assert "approval.given" in await verified(stack, dear.thread)
    assert "approval.given" not in await verified(stack, cheap.thread)


class Person(msgspec.Struct):
    """Whom a text is about."""

    name: Literal["Ann", "Bob"]
    here: bool


async def test_an_answer_is_of_the_type_that_was_asked_for_and_is_seen_as_it_grows(
    stack: UpProcess, client: Client
) -> None:
    answer = await client.run("plain", "Who is there?", output_type=Person)
    assert isinstance(answer.output, Person)
    running = client.stream("plain", "Who is there?", output_type=Person)
    seen = [value async for value in running.partials()]
    assert running.finished is not None
    assert seen[-2] == msgspec.json.decode(running.finished.text)
    assert seen[-1] == running.answer().output == msgspec.json.decode(running.finished.text, type=Person)
    assert len(seen) > 2
    await verified(stack, answer.thread)


async def test_what_waits_survives_kill_9_and_a_hundred_answers_are_one(
    own_stack: UpProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(str(own_stack.data)) as client:
        running = client.stream("careful", "What is 12 times 34?", on_wait=leave_it)
        hearing = asyncio.create_task(heard(running))
        held = await waiting_in(client, running.thread)
        await asyncio.to_thread(wait_until_recorded, own_stack)
        (listed,) = records(await asyncio.to_thread(own_stack.cli, "waits", "list", "--json", "--clear"))
        assert (listed["thread"], listed["effect"]) == (running.thread, held.effect)
        for more, warned in (((), True), (("--clear",), False)):
            shown = await asyncio.to_thread(own_stack.cli, "waits", "list", *more)
            assert (held.call.arguments in shown.stdout, "--clear" in shown.stderr) == (not warned, warned)
        health = await asyncio.to_thread(httpx.get, f"{own_stack.url}/health")
        os.kill(int(health.json()["processes"]["agents-0"]["pid"]), signal.SIGKILL)
        assert await client.waiting(running.thread) == (held,)
        answers = await asyncio.gather(
            *(client.settle(running.thread, held.approve()) for _ in range(100)), return_exceptions=True
        )
        assert answers.count(None) == 1
        assert all(answer is None or isinstance(answer, SettlementRefused) for answer in answers)
        frames = await hearing
    kinds = [frame.type for frame in frames if isinstance(frame, Committed)]
    assert kinds.count("tool.called") == 1
    assert kinds.count("tool.returned") == 1
    assert kinds[-1] == "run.finished"
    await verified(own_stack, running.thread)


async def leave_it(_waits: Waiting) -> None:
    """Leave it to somebody else."""


async def heard(running: Any) -> list[Any]:
    return [frame async for frame in running]


async def waiting_in(client: Client, thread: str) -> Waiting:
    """Wait until something waits, and is recorded."""
    for _ in range(1000):
        if held := await client.waiting(thread):
            return held[0]
        await asyncio.sleep(0.02)
    raise AssertionError("nothing waits")


async def test_a_script_brings_the_stack_along() -> None:
    """`examples/extraction.py`, as its reader starts it."""
    argv = [sys.executable, str(ROOT / "examples" / "extraction.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = await asyncio.to_thread(
        subprocess.run, argv, capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert re.fullmatch(r"Ticket\(topic='(invoice|delivery|other)', urgent=(True|False)\)\n", done.stdout), done.stderr


async def listed(stack: UpProcess, thread: str) -> dict[str, Any]:
    """Wait until the record knows that a thread waits; give what `ostinato waits` tells of it."""
    async with asyncio.timeout(60):
        while True:
            every = records(await asyncio.to_thread(stack.cli, "waits", "list", "--json", "--clear"))
            if found := [wait for wait in every if wait["thread"] == thread]:
                return found[0]


@pytest.mark.parametrize(
    ("agent", "verb", "more", "kind", "event"),
    [
        ("careful", "approve", (), "approval", "approval.given"),
        ("careful", "decline", ("--reason", "too dear"), "approval", "approval.denied"),
        ("leaving", "resume", ("--answer", "true"), "data", "tool.continued"),
    ],
)
async def test_what_waits_is_answered_from_the_command_line(
    stack: UpProcess, client: Client, agent: str, verb: str, more: tuple[str, ...], kind: str, event: str
) -> None:
    running = client.stream(agent, "What is 12 times 34?", on_wait=leave_it)
    hearing = asyncio.create_task(heard(running))
    assert (await listed(stack, running.thread))["kind"] == kind
    wrong = ("resume", "--answer", "true") if kind == "approval" else ("approve",)
    refused = await asyncio.to_thread(stack.cli, "waits", wrong[0], running.thread, *wrong[1:])
    assert refused.returncode == 1
    assert "no call waits" in refused.stderr
    unread = await asyncio.to_thread(stack.cli, "waits", "resume", running.thread, "--answer", "{no")
    assert (unread.returncode, "--answer: no JSON" in unread.stderr) == (1, True)
    done = await asyncio.to_thread(stack.cli, "waits", verb, running.thread, *more)
    assert done.returncode == 0, done.stderr
    frames = await hearing
    (answered,) = [frame for frame in frames if isinstance(frame, Committed) and frame.type == event]
    assert verb != "decline" or b"too dear" in bytes(answered.data)
    assert running.finished is not None
    again = await asyncio.to_thread(stack.cli, "waits", verb, running.thread, *more)
    assert again.returncode == 1


async def test_schedules_are_added_listed_fired_paused_and_removed_from_python(
    stack: UpProcess, client: Client
) -> None:
    named: dict[str, Any] = {}
    ((_, block),) = blocks("schedules.md", "py")
    exec(block, named)
    schedules = client.schedules
    with pytest.raises(ScheduleUnfit, match="missed"):
        await schedules.add("yearly", "0 8 1 1 *", "demo", "What is 12 times 34?", missed="never")
    with pytest.raises(SettlementRefused):
        await schedules.pause("yearly")
    await schedules.add("yearly", "0 8 1 1 *", "demo", "What is 12 times 34?", timezone="Europe/Vienna", thread="fired")
    await schedules.pause("yearly")
    await asyncio.to_thread(wait_until_recorded, stack)
    assert await yearly(client) == [("paused", 0)]
    await schedules.resume("yearly")
    await schedules.run("yearly")
    async with asyncio.timeout(60):
        while "run.finished" not in await kinds_of(stack, "fired"):
            pass
    assert await yearly(client) == [("active", 1)]
    await named["plan"](client)
    await schedules.remove("yearly")
    await asyncio.to_thread(wait_until_recorded, stack)
    assert await yearly(client) == []
    assert "morning" not in [row.id for row in await schedules.list()]


async def yearly(client: Client) -> list[tuple[str, int]]:
    """Look the test's schedule up."""
    return [(row.status, row.fired) for row in await client.schedules.list() if row.id == "yearly"]


async def kinds_of(stack: UpProcess, thread: str) -> list[str]:
    """List the events of a thread, as far as is recorded."""
    shown = await asyncio.to_thread(stack.cli, "replay", "show", thread, "--json")
    return [line["kind"] for line in records(shown)] if shown.returncode == 0 else []
