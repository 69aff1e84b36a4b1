"""Forks of threads of the running stack: durable, verified, and compared with where they came from."""

from __future__ import annotations

import json
import re

import pytest

from tests.system.conftest import UpProcess, ask, chat, records
from tests.system.test_record import wait_until_recorded


def thread_with_a_tool(stack: UpProcess) -> str:
    thread = str(chat(stack, ask("What is 19 plus 4?")).headers["X-Ostinato-Thread"])
    wait_until_recorded(stack)
    return thread


def fork(stack: UpProcess, *argv: str) -> tuple[str, str]:
    """Fork; give the new thread and what was printed."""
    done = stack.cli("replay", "fork", *argv)
    assert done.returncode == 0, done.stderr
    (thread,) = re.findall(r"^thread (\w+), a fork of", done.stderr, re.MULTILINE)
    wait_until_recorded(stack)
    assert stack.cli("replay", "verify", thread).returncode == 0
    return thread, done.stdout


def kinds(stack: UpProcess, thread: str) -> list[str]:
    return [line["kind"] for line in records(stack.cli("replay", "show", thread, "--json"))]


def test_another_result_of_a_tool_leads_to_another_answer_and_diff_finds_it(stack: UpProcess) -> None:
    origin = thread_with_a_tool(stack)
    thread, said = fork(stack, origin, "--at", "7", "--set", "tool_result=77")
    assert "77" in said
    assert kinds(stack, thread)[8:] == ["thread.forked", "model.called", "model.returned", "run.finished"]
    differs = stack.cli("replay", "diff", origin, thread, "--json")
    assert differs.returncode == 1
    first = json.loads(differs.stdout.splitlines()[0])["first"]
    assert (first["a"]["number"], first["b"]["number"]) == (7, 8)
    assert first["fields"] == [{"field": "content", "a": "23", "b": "77"}]
    again, said = fork(stack, thread, "--at", "8", "--set", "tool_result=78")
    assert "78" in said
    assert kinds(stack, again)[:9] == kinds(stack, thread)[:9]


@pytest.mark.parametrize("at", ["1", "3", "4", "6", "8", "9"])
def test_a_fork_without_changes_comes_to_the_same(stack: UpProcess, at: str) -> None:
    origin = thread_with_a_tool(stack)
    thread, said = fork(stack, origin, "--at", at)
    assert "23" in said or at == "9"
    same = stack.cli("replay", "diff", origin, thread)
    assert same.returncode == 0, same.stdout


def test_another_question_or_prompt_holds_from_there_on(stack: UpProcess) -> None:
    origin = thread_with_a_tool(stack)
    _, said = fork(stack, origin, "--at", "2", "--set", "message=What is 30 plus 4?")
    assert "34" in said
    thread, _ = fork(stack, origin, "--at", "4", "--set", "prompt=Be brief.", "--set", "seed=5")
    (marker,) = [
        line for line in records(stack.cli("replay", "show", thread, "--json")) if line["kind"] == "thread.forked"
    ]
    assert marker["data"]["profile"]["instructions"] == "Be brief."
    assert marker["data"]["profile"]["sampling"]["seed"] == 5
    assert marker["data"]["origin"] == origin


def test_a_fork_at_rest_is_a_thread_to_go_on_with(stack: UpProcess) -> None:
    origin = thread_with_a_tool(stack)
    thread, _ = fork(stack, origin, "--at", "10")
    done = stack.cli("run", "demo", "What is 2 plus 2?", "--thread", thread)
    assert "4" in done.stdout


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("--at", "99"), 2, "--at: 99 is after the last event"),
        (("--at", "5", "--set", "tool_result=1"), 2, "event 5 (model.returned) is not the result of a tool: fork at 7"),
        (("--at", "5", "--set", "message=x"), 2, "is not the user's message: fork at 2"),
        (("--at", "10", "--set", "model=x"), 2, "--set model: no run goes on after event 10 (run.finished)"),
        (("--at", "4", "--set", "seed=much"), 2, "--set seed: 'much' is no whole number"),
        (("--at", "4", "--set", "colour=red"), 2, "'colour=red': write NAME=VALUE"),
        (("--at", "4", "--set", "model=nobody"), 1, "no model 'nobody'"),
        (("--at", "4", "--thread", "Not An Id"), 2, "thread 'Not An Id' cannot be used"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_it(
    stack: UpProcess, argv: tuple[str, ...], code: int, says: str
) -> None:
    done = stack.cli("replay", "fork", thread_with_a_tool(stack), *argv)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
