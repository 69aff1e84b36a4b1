"""Memory on the whole stack: threads from the command line, and prompts whose beginning the engine keeps."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from infra.client import connect
from infra.errors import NothingRecorded, SettlementRefused, ThreadUnfit
from tests.system.conftest import UpProcess, ask, chat, records
from tests.system.test_erasure import eventually
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

TURNS = 20


def conversation(up: UpProcess, agent: str) -> list[dict[str, Any]]:
    """Hold a conversation of many turns; return the usage of each turn's first model call."""
    thread = None
    for turn in range(TURNS):
        answer = chat(up, ask(f"Hello number {turn}!", f"agent/{agent}"), thread)
        assert answer.status_code == 200, answer.text
        thread = answer.headers["X-Ostinato-Thread"]
    assert thread is not None
    wait_until_recorded(up)
    shown = list(records(up.cli("replay", "show", thread, "--json")))
    used = {line["entity"]: line["data"]["usage"] for line in reversed(shown) if line["kind"] == "model.returned"}
    assert up.cli("replay", "verify", thread).returncode == 0
    return list(reversed(used.values()))


def test_cached_tokens_grow_with_the_conversation_although_working_memory_is_shown(stack: UpProcess) -> None:
    used = conversation(stack, "keeper")
    cached = [usage.get("cached_tokens", 0) for usage in used]
    prompts = [usage["prompt_tokens"] for usage in used]
    assert len(cached) == TURNS
    assert all(before <= after for before, after in pairwise(cached)), cached
    assert cached[-1] > cached[1] + 200
    # all but the last turn and the block that is not full
    assert all(prompt - kept < 110 for prompt, kept in zip(prompts[1:], cached[1:], strict=True)), (prompts, cached)


def test_a_window_keeps_the_beginning_for_several_turns(stack: UpProcess) -> None:
    used = conversation(stack, "slider")
    cached = [usage.get("cached_tokens", 0) for usage in used]
    drops = sum(after < before for before, after in pairwise(cached))
    assert 0 < drops <= TURNS // 3 + 1, cached
    assert max(usage["prompt_tokens"] for usage in used) < 2 * used[9]["prompt_tokens"]


def test_threads_are_begun_found_renamed_and_ended_from_the_command_line(stack: UpProcess) -> None:
    done = stack.cli("thread", "create", "ann-sums", "--resource", "ann", "--title", "Sums", "--metadata", "team=red")
    assert (done.returncode, done.stdout) == (0, "thread ann-sums is begun\n"), done.stderr
    assert stack.cli("run", "agent/demo", "What is 12 times 34?", "--thread", "ann-sums").returncode == 0
    assert stack.cli("thread", "rename", "ann-sums", "--title", "Products").returncode == 0
    (row,) = records(stack.cli("log", "threads", "--resource", "ann", "--search", "prod", "--json"))
    assert (row["thread"], row["title"], json.loads(row["metadata"])) == ("ann-sums", "Products", {"team": "red"})
    assert stack.cli("thread", "delete", "ann-sums", "--reason", "asked for").returncode == 0
    again = stack.cli("run", "agent/demo", "And 5 more?", "--thread", "ann-sums")
    assert again.returncode == 1
    assert "was deleted" in again.stderr
    assert not list(records(stack.cli("log", "threads", "--resource", "ann", "--json")))
    assert stack.cli("replay", "verify", "ann-sums").returncode == 0
    twice = stack.cli("thread", "create", "ann-sums")
    assert (twice.returncode, "was deleted" in twice.stderr) == (1, True)
    bad = stack.cli("thread", "create", "--metadata", "nothing")
    assert (bad.returncode, "NAME=VALUE" in bad.stderr) == (1, True)


def listed(up: UpProcess, resource: str) -> list[dict[str, Any]]:
    return list(records(up.cli("log", "threads", "--resource", resource, "--json")))


def test_threads_are_begun_copied_and_ended_from_a_program(stack: UpProcess) -> None:
    async def go() -> None:
        async with connect(str(stack.data)) as client:
            threads = client.threads
            name = await threads.create(resource="eve", title="Cats", metadata={"pet": "cat"})
            assert await threads.create("eve-2", resource="eve") == "eve-2"
            await client.run("keeper", "Hello!", thread=name)
            await threads.rename(name, "Dogs", {"pet": None, "kind": "dog"})
            await threads.remember(name, "- name: Eve")
            await asyncio.to_thread(wait_until_recorded, stack)
            copy = await threads.clone(name)
            # what lists them hears of it a moment later
            await asyncio.to_thread(eventually, lambda: len(listed(stack, "eve")) == 3)
            found = {one.thread: one for one in await client.memory.threads(resource="eve")}
            assert set(found) == {name, "eve-2", copy}
            assert (found[name].title, found[name].metadata) == ("Dogs", {"kind": "dog"})
            for thread in (name, copy):
                assert await client.memory.working(thread=thread) == "- name: Eve"
                assert (await client.memory.messages(thread)).messages[0].content == "Hello!"
            await threads.delete(name, "asked for")
            # the copy is a thread of its own
            assert (await client.run("keeper", "And again!", thread=copy)).text
            for refused in (threads.delete(name), threads.rename("nowhere", "x"), threads.create("eve-2")):
                with pytest.raises(SettlementRefused):
                    await refused
            await asyncio.to_thread(wait_until_recorded, stack)
            with pytest.raises(NothingRecorded):  # what was refused there is no thread
                await threads.clone("nowhere")
            with pytest.raises(SettlementRefused, match="does not exist"):
                await client.memory.messages("nowhere")
            with pytest.raises(ThreadUnfit):
                await threads.create(title="x" * 10_000)

    asyncio.run(go())
