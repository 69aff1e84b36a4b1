"""`ostinato chat` in a real pseudo-terminal and in pipes, and tools that wait for a person's approval."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import OSTINATO, UpProcess, ask, chat, records, start
from tests.system.pseudo_terminal import CTRL_C, CTRL_D, PseudoTerminal
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

PROMPT = "you> "


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the counting tool writes, outside the system."""
    path = tmp_path / "witness"
    path.touch()
    monkeypatch.setenv("OSTINATO_TEST_WITNESS", str(path))
    return path


@pytest.fixture
def own_stack(witness: Path, system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    """A stack to break."""
    up = start(system_folder / tmp_path.name)
    yield up
    assert up.stop() == 0


def terminal(up: UpProcess, tmp_path: Path, *argv: str, **environment: str) -> PseudoTerminal:
    command = [*OSTINATO, "chat", *argv, "--data", str(up.data)]
    return PseudoTerminal(command, {"XDG_STATE_HOME": str(tmp_path), **environment})


def piped(up: UpProcess, text: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [*OSTINATO, *argv, "--data", str(up.data)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def thread_in(text: str) -> str:
    found = re.search(r"--thread (\S+)", text)
    assert found is not None, text
    return found.group(1)


def test_a_conversation_shows_tool_calls_as_they_run_replays_and_says_how_to_continue(
    stack: UpProcess, tmp_path: Path
) -> None:
    with terminal(stack, tmp_path) as screen:
        screen.until(PROMPT)
        screen.type("What is 12 times 34?\n")
        said = screen.until("408.")
        assert re.search(r'\[calculator \{"expression": ?"12 \* 34"\} -> 408  \d+\.\d\d s\]', said)
        screen.until(PROMPT)
        screen.type("/replay\n")
        assert "tool.returned" in screen.until("run.finished")
        screen.until(PROMPT)
        screen.type("/thread\n")
        screen.until(PROMPT)
        screen.type("/nonsense\n")
        screen.until("no command /nonsense")
        screen.until(PROMPT)
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert "\x1b[2m" in screen.raw
    thread = thread_in(screen.raw)
    assert screen.raw.count(thread) >= 2
    assert "What is 12 times 34?" in (tmp_path / "ostinato" / "chat_history").read_text(encoding="utf-8")
    assert records(stack.cli("replay", "verify", thread, "--json"))[0]["ok"]


def test_a_thread_goes_on_where_it_was_left_and_a_new_one_knows_nothing(stack: UpProcess, tmp_path: Path) -> None:
    first = piped(stack, "Please remember that my cat is called Biscuit.\n", "chat", "--json")
    (accepted,) = [frame for frame in map(json.loads, first.stdout.splitlines()) if frame["frame"] == "outcome"]
    with terminal(stack, tmp_path, "demo", "--thread", accepted["thread"]) as screen:
        screen.until(PROMPT)
        screen.type("What is my cat called?\n")
        assert "Biscuit" in screen.until(PROMPT)
        screen.type("/new\n")
        screen.until("a new thread")
        screen.until(PROMPT)
        screen.type("/thread\n")
        screen.until("no thread yet")
        screen.type("/quit\n")
        assert screen.end() == 0


def test_ctrl_c_stops_the_display_of_an_answer_and_a_second_one_leaves(stack: UpProcess, tmp_path: Path) -> None:
    worker = stack.pid("worker-0")
    with terminal(stack, tmp_path, "rambler") as screen:
        screen.until(PROMPT)
        os.kill(worker, signal.SIGSTOP)
        try:
            before = latest_threads(stack)
            screen.type("Go on.\n")
            another_thread(stack, before)
            screen.type(CTRL_C)
            screen.until("goes on")
            screen.until(PROMPT)
            assert screen.press_until_end(CTRL_C) == 0
        finally:
            os.kill(worker, signal.SIGCONT)


def test_what_was_begun_can_be_ended_from_the_conversation_and_from_outside(stack: UpProcess, tmp_path: Path) -> None:
    worker = stack.pid("worker-0")
    with terminal(stack, tmp_path, "rambler") as screen:
        screen.until(PROMPT)
        os.kill(worker, signal.SIGSTOP)
        try:
            for ended_by in ("/abort\n", None):
                before = latest_threads(stack)
                screen.type("/new\nGo on.\n")
                another_thread(stack, before)
                screen.type(CTRL_C)
                screen.until("/abort ends it")
                screen.until(PROMPT)
                if ended_by is not None:
                    screen.type(ended_by)
                    screen.until("aborted")
                    screen.until(PROMPT)
            screen.type(CTRL_D)
            assert screen.end() == 0
            thread = thread_in(screen.raw)
            done = stack.cli("abort", thread, "--reason", "enough of it")
            assert (done.returncode, done.stderr) == (0, "")
            again = stack.cli("abort", thread)
        finally:
            os.kill(worker, signal.SIGCONT)
    assert again.returncode == 1
    assert "not under way" in again.stderr
    assert "aborted by cli: enough of it" in stack.cli("replay", "show", thread).stdout
    assert records(stack.cli("replay", "verify", thread, "--json"))[0]["ok"]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colour_where_none_is_wanted(stack: UpProcess, tmp_path: Path, environment: dict[str, str]) -> None:
    with terminal(stack, tmp_path, **environment) as screen:
        screen.until(PROMPT)
        screen.type("What is 12 times 34?\n")
        screen.until("408.")
        screen.until(PROMPT)
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert not re.search(r"\x1b\[[0-9;]*m", screen.raw)


def test_every_line_of_a_pipe_is_one_message_and_the_output_is_plain(stack: UpProcess) -> None:
    done = piped(stack, "What is 12 times 34?\n\nWhat is 2 plus 3?\n", "chat")
    assert done.returncode == 0, done.stderr
    assert "408" in done.stdout
    assert "-> 5" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_bare_model_is_told_the_history_by_the_client(stack: UpProcess) -> None:
    done = piped(stack, "Hello\nHello again\n", "chat", "ostinato-mini", "--json")
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    seen = [frame["data"]["seen"] for frame in frames if frame.get("type") == "model.called"]
    assert seen == [1, 3]


@pytest.mark.parametrize(
    ("argv", "word", "code"),
    [
        (("chat", "nobody"), "no agent 'nobody'", 1),
        (("chat", "demo", "--thread", "never-begun"), "does not exist", 1),
        (("chat", "ostinato-mini", "--thread", "t1"), "keeps no thread", 2),
        (("run", "ostinato-mini", "--thread", "t1"), "keeps no thread", 2),
        (("run", "agent/nobody"), "no agent 'nobody'", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_said_is_one_line_and_an_exit_code(
    stack: UpProcess, argv: tuple[str, ...], word: str, code: int
) -> None:
    done = piped(stack, "Hello\n", *argv)
    assert done.returncode == code
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["agent/demo", "demo", "ostinato-mini"])
def test_run_takes_its_message_from_a_pipe_for_agents_and_bare_models(stack: UpProcess, name: str) -> None:
    done = piped(stack, "Hello!\n", "run", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_without_a_stack_chat_says_how_to_start_one(tmp_path: Path) -> None:
    command = [*OSTINATO, "chat", "--data", str(tmp_path / "none")]
    done = subprocess.run(command, input="Hello\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ostinato up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_tool_is_run_when_the_person_says_yes_and_not_when_they_say_no(stack: UpProcess, tmp_path: Path) -> None:
    with terminal(stack, tmp_path, "careful") as screen:
        screen.until(PROMPT)
        screen.type("What is 12 times 34?\n")
        screen.until("run it? [y/n] ")
        screen.type("perhaps\n")
        screen.until("run it? [y/n] ")
        screen.type("y\n")
        screen.until("-> 408")
        screen.until(PROMPT)
        screen.type("What is 5 times 7?\n")
        screen.until("run it? [y/n] ")
        screen.type("n\n")
        assert '[calculator {"expression": "5 * 7"} -> ' in screen.until("was not approved")
        screen.until(PROMPT)
        screen.type(CTRL_D)
        assert screen.end() == 0
    thread = thread_in(screen.raw)
    kinds = [line["kind"] for line in records(stack.cli("replay", "show", thread, "--json"))]
    assert [kind for kind in kinds if kind.startswith("approval")] == [
        "approval.requested",
        "approval.given",
        "approval.requested",
        "approval.denied",
    ]
    assert records(stack.cli("replay", "verify", thread, "--json"))[0]["ok"]


def test_a_question_that_was_left_open_is_asked_again_before_the_next_message(stack: UpProcess, tmp_path: Path) -> None:
    with terminal(stack, tmp_path, "careful") as screen:
        screen.until(PROMPT)
        screen.type("What is 12 times 34?\n")
        screen.until("run it? [y/n] ")
        screen.press_until(CTRL_C, "the call waits, and is asked about again")
        screen.until(PROMPT)
        screen.type("/replay ls\n")
        screen.until("/replay does not take that")
        screen.until(PROMPT)
        screen.type("Hello!\n")
        screen.until("run it? [y/n] ")
        screen.type("y\n")
        screen.until("-> 408")
        screen.until("Hello")
        screen.until(PROMPT)
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert "waits for run" not in screen.raw
    assert records(stack.cli("replay", "verify", thread_in(screen.raw), "--json"))[0]["ok"]


def test_a_client_of_the_http_bridge_gets_an_answer_without_the_tool(stack: UpProcess) -> None:
    response = chat(stack, ask("What is 12 times 34?", "agent/careful"))
    assert response.status_code == 200
    events = records(stack.cli("replay", "show", response.headers["X-Ostinato-Thread"], "--json"))
    failed = next(event for event in events if event["kind"] == "tool.failed")
    assert "needs a person's approval" in failed["data"]["content"]


def test_run_says_where_a_person_can_be_asked(stack: UpProcess) -> None:
    asked = stack.cli("run", "careful", "What is 12 times 34?")
    assert asked.returncode == 0
    hint = next(line for line in asked.stderr.splitlines() if "needs a person's approval" in line)
    assert "chat careful --thread t" in hint


def test_what_waits_for_approval_survives_kill_9_and_runs_once(
    own_stack: UpProcess, witness: Path, tmp_path: Path
) -> None:
    with terminal(own_stack, tmp_path, "careful") as screen:
        screen.until(PROMPT)
        screen.type("What is 12 times 34?\n")
        screen.until("run it? [y/n] ")
        screen.type(CTRL_D)
        assert screen.end() == 0
    thread, old = thread_in(screen.raw), own_stack.pid("agents-0")
    refused = chat(own_stack, ask("And now?", "agent/careful"), thread)
    assert refused.status_code == 400
    assert "approve 'calculator'" in refused.json()["error"]["message"]
    assert piped(own_stack, "And now?\n", "chat", "careful", "--thread", thread).returncode == 1
    os.kill(old, signal.SIGKILL)
    with terminal(own_stack, tmp_path, "careful", "--thread", thread) as screen:
        screen.until("run it? [y/n] ")
        screen.type("y\n")
        screen.until("408")
        screen.until(PROMPT)
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert witness.read_text(encoding="utf-8").count("\n") == 1
    assert records(own_stack.cli("replay", "verify", thread, "--json"))[0]["ok"]
    assert own_stack.pid("agents-0") != old


def test_names_and_threads_of_the_running_stack_are_completed(stack: UpProcess) -> None:
    bare = chat(stack, ask("Hello!", "ostinato-mini")).json()["id"].removeprefix("chatcmpl-")
    thread = chat(stack, ask("Hello!")).headers["X-Ostinato-Thread"]
    records(stack.cli("replay", "show", thread, "--json"))

    def completed(*words: str) -> list[str]:
        argv = [*OSTINATO, "completion", "words", "--", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    data = ("--data", str(stack.data))
    assert {"demo", "careful", "ostinato-mini"} <= set(completed("chat", *data, ""))
    assert any(thread in completed("chat", *data, "--thread", "") for _ in range(20)), "the projection never caught up"
    assert bare not in completed("chat", *data, "--thread", "")
    assert {bare, thread} <= set(completed("replay", "show", *data, ""))


def latest_threads(up: UpProcess) -> set[str]:
    """Return the threads that were last written to."""
    return {record["thread"] for record in records(up.cli("replay", "ls", "--json", "--limit", "50"))}


def another_thread(up: UpProcess, before: set[str]) -> None:
    """Wait until a thread is recorded that is not one of `before`."""
    for _ in range(100):
        if latest_threads(up) - before:
            return
    raise AssertionError("no other thread was recorded")


def test_run_ends_soon_after_its_stack_and_says_that_it_is_gone(system_folder: Path, tmp_path: Path) -> None:
    own_stack = start(system_folder / tmp_path.name)
    worker, watched = own_stack.pid("worker-0"), [os.pidfd_open(pid) for pid in own_stack.children()]
    os.kill(worker, signal.SIGSTOP)
    command = [*OSTINATO, "run", "rambler", "Go on.", "--data", str(own_stack.data)]
    asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    another_thread(own_stack, set())
    own_stack.process.kill()
    own_stack.process.communicate(timeout=30)
    os.kill(worker, signal.SIGCONT)
    said, problem = asked.communicate(timeout=30)
    assert asked.returncode == 1
    assert said == ""
    assert "ostinato up" in problem.splitlines()[-1]
    assert len(problem.splitlines()) <= 2
    for child in watched:
        assert select.select([child], [], [], 30)[0]
        os.close(child)
    back = start(own_stack.data)
    assert back.stop() == 0


def test_run_with_a_timeout_ends_then_with_its_reason(stack: UpProcess) -> None:
    worker = stack.pid("worker-0")
    os.kill(worker, signal.SIGSTOP)
    try:
        done = stack.cli("run", "rambler", "Go on.", "--timeout", "0.5")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert done.returncode == 1
    assert "the run's deadline has passed" in done.stderr
    assert stack.cli("run", "rambler", "Go on.", "--timeout", "soon").returncode == 2


def test_run_tells_an_agent_what_it_is_asked_for(stack: UpProcess) -> None:
    wanted = (
        "--context",
        "user=beth",
        "--context",
        'limits={"notes":2}',
        "--resource",
        "beth",
        "--model",
        "ostinato-mini",
    )
    answer = stack.cli("run", "demo", "What is 2 plus 3?", *wanted, "--json")
    assert answer.returncode == 0, answer.stderr
    thread = next(line["thread"] for line in records(answer) if "thread" in line)
    wait_until_recorded(stack)
    shown = records(stack.cli("replay", "show", thread, "--json"))
    asked = next(line["data"]["command"]["data"] for line in shown if line["kind"] == "command.accepted")
    assert asked["context"] == {"user": "beth", "limits": {"notes": 2}}
    assert (asked["resource"], asked["model"]) == ("beth", "ostinato-mini")
    assert stack.cli("run", "ostinato-mini", "hello", "--context", "user=beth").returncode == 2
    wrong = stack.cli("run", "demo", "hello", "--context", "user")
    assert wrong.returncode == 2
    assert "write NAME=VALUE" in wrong.stderr


def test_run_says_what_goes_on_when_it_is_interrupted(stack: UpProcess, tmp_path: Path) -> None:
    worker = stack.pid("worker-0")
    os.kill(worker, signal.SIGSTOP)
    try:
        command = [*OSTINATO, "run", "rambler", "Go on.", "--data", str(stack.data)]
        before = latest_threads(stack)
        with PseudoTerminal(command, {}) as screen:
            another_thread(stack, before)
            screen.type(CTRL_C)
            assert screen.end() == 130
    finally:
        os.kill(worker, signal.SIGCONT)
    assert "what was begun goes on" in screen.raw
    assert thread_in(screen.raw)
    assert "Traceback" not in screen.raw


def test_a_stack_that_was_stopped_is_named_and_the_conversation_goes_on_when_it_is_back(
    system_folder: Path, tmp_path: Path
) -> None:
    data = system_folder / tmp_path.name
    up = start(data)
    with terminal(up, tmp_path) as screen:
        screen.until(PROMPT)
        screen.type("Please remember that my cat is called Biscuit.\n")
        screen.until(PROMPT)
        assert up.stop() == 0
        screen.type("What is my cat called?\n")
        said = screen.until(PROMPT)
        assert "ostinato up" in said
        assert "Traceback" not in said
        assert len(said.splitlines()) == 3
        back = start(data)
        screen.type("What is my cat called?\n")
        assert "Biscuit" in screen.until(PROMPT)
        assert back.stop() == 0
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert "Traceback" not in screen.raw
