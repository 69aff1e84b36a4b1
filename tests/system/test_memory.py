"""Memory on the whole stack: threads from the command line, and prompts whose beginning the engine keeps."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.system.conftest import UpProcess, ask, chat, records
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
    done = stack.cli("thread", "create", "sums", "--resource", "ann", "--title", "Sums", "--metadata", "team=red")
    assert (done.returncode, done.stdout) == (0, "thread sums is begun\n"), done.stderr
    assert stack.cli("run", "agent/demo", "What is 12 times 34?", "--thread", "sums").returncode == 0
    assert stack.cli("thread", "rename", "sums", "--title", "Products").returncode == 0
    (row,) = records(stack.cli("log", "threads", "--resource", "ann", "--search", "prod", "--json"))
    assert (row["thread"], row["title"], json.loads(row["metadata"])) == ("sums", "Products", {"team": "red"})
    assert stack.cli("thread", "delete", "sums", "--reason", "asked for").returncode == 0
    again = stack.cli("run", "agent/demo", "And 5 more?", "--thread", "sums")
    assert again.returncode == 1
    assert "was deleted" in again.stderr
    assert not list(records(stack.cli("log", "threads", "--resource", "ann", "--json")))
    assert stack.cli("replay", "verify", "sums").returncode == 0
    twice = stack.cli("thread", "create", "sums")
    assert (twice.returncode, "was deleted" in twice.stderr) == (1, True)
    bad = stack.cli("thread", "create", "--metadata", "nothing")
    assert (bad.returncode, "NAME=VALUE" in bad.stderr) == (1, True)
