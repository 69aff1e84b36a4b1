"""Starting twice, starting where somebody listens, stopping, and coming back."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infra.services.process import until
from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import OSTINATO, UpProcess, ask, chat, records, start
from tests.system.pseudo_terminal import CTRL_C, PseudoTerminal

pytestmark = pytest.mark.servers


def up(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OSTINATO, "up", *argv], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("same_port", [False, True], ids=["another port", "the same port"])
def test_a_second_up_on_the_same_data_directory_says_so(stack: UpProcess, same_port: bool) -> None:
    port = stack.url.rpartition(":")[2] if same_port else "0"
    second = up("--port", port, "--data", str(stack.data))
    assert second.returncode == 1
    assert str(stack.runtime["pid"]) in second.stderr
    assert stack.url in second.stderr
    assert len(second.stderr.splitlines()) <= 2


def test_a_busy_port_is_named_before_anything_starts(system_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = up("--port", str(port), "--data", str(system_folder / "busy"))
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "--port" in done.stderr
    assert not (system_folder / "busy").exists()


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("--model", "/no/such/folder"), "/no/such/folder"),
        (("--agents", "no_such_file.py"), "no_such_file.py"),
        (("--model", str(Path(__file__).parent)), "config.json"),
        (("--host", "203.0.113.9"), "--host"),
        (("--data", __file__), "data directory"),
        (("--data", "/proc/nothing"), "data directory"),
    ],
    ids=["model", "agents", "not a checkpoint", "host", "a file as data directory", "an unwritable data directory"],
)
def test_a_wrong_setting_is_one_clear_line(system_folder: Path, argv: tuple[str, ...], word: str) -> None:
    done = up("--port", "0", "--data", str(system_folder / "wrong"), *argv)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "argv", [("up", "--port", "99999"), ("up", "--context-length", "0"), ("replay", "ls", "--limit", "-1")], ids=str
)
def test_a_number_out_of_range_is_a_usage_error(argv: tuple[str, ...]) -> None:
    done = subprocess.run([*OSTINATO, *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_broken_model_is_one_clear_line_and_not_a_crash_loop(system_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(EMBEDDED_CHECKPOINT, broken)
    save_file({"model.norm.weight": torch.ones(256)}, broken / "model.safetensors")
    done = up("--port", "0", "--data", str(system_folder / "broken"), "--model", str(broken))
    assert done.returncode == 1
    assert "model.embed_tokens.weight" in done.stderr
    assert "Traceback" not in done.stderr
    log = (system_folder / "broken" / "logs" / "worker-0.log").read_text(encoding="utf-8")
    assert log.count("ostinato: ") == 1


def test_run_without_a_stack_says_how_to_start_one(system_folder: Path) -> None:
    command = [*OSTINATO, "run", "demo", "Hello!", "--data", str(system_folder / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "ostinato up" in done.stderr


async def made(path: Path) -> None:
    async for _ in until(30.0):
        if await asyncio.to_thread(path.exists):
            return
    raise AssertionError(f"{path} was not made")


@pytest.mark.parametrize("sign", ["postgres.new", "postgres.new/base/4", "postgres.new/global/pg_control", "postgres"])
def test_ctrl_c_in_the_first_start_spoils_nothing(system_folder: Path, tmp_path: Path, sign: str) -> None:
    data = system_folder / tmp_path.name
    with PseudoTerminal([*OSTINATO, "up", "--port", "0", "--data", str(data)], {}) as screen:
        asyncio.run(made(data / sign))
        screen.type(CTRL_C)
        assert screen.end() == 130
    assert "Traceback" not in screen.raw
    done = subprocess.run(
        [*OSTINATO, "replay", "ls", "--data", str(data)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing recorded yet" in done.stdout


def test_ctrl_c_stops_every_child_and_the_record_can_be_read_afterwards(system_folder: Path) -> None:
    own = start(system_folder / "stopped")
    thread = chat(own, ask("What is 2 plus 3?")).headers["X-Ostinato-Thread"]
    children = own.children()
    assert own.stop() == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    told = records(own.cli("replay", "show", thread, "--json"))
    assert told[-1]["kind"] == "run.finished"
    assert own.cli("replay", "verify", "--all").returncode == 0


def test_a_killed_launcher_leaves_nobody_behind_and_a_new_one_takes_up_where_it_was(system_folder: Path) -> None:
    own = start(system_folder / "killed")
    thread = chat(own, ask("What is 4 plus 5?")).headers["X-Ostinato-Thread"]
    watched = [os.pidfd_open(pid) for pid in own.children()]
    own.process.kill()
    own.process.communicate(timeout=10)
    for descriptor in watched:
        over, _, _ = select.select([descriptor], [], [], 10)
        os.close(descriptor)
        assert over, "a process outlives its launcher"
    again = start(system_folder / "killed")
    answer = chat(again, ask("What is 6 plus 7?"), thread)
    assert "13" in answer.json()["choices"][0]["message"]["content"]
    assert again.cli("replay", "verify", "--all").returncode == 0
    assert again.stop() == 0


def test_a_server_that_was_killed_comes_back_and_the_stack_is_still_known_by_its_url(system_folder: Path) -> None:
    own = start(system_folder / "server-killed")
    url = own.url
    for server in ("nats", "postgres"):
        descriptor = os.pidfd_open(own.runtime["pids"][server])
        os.kill(own.runtime["pids"][server], signal.SIGKILL)
        select.select([descriptor], [], [], 10)
        os.close(descriptor)
        assert "11" in chat(own, ask("What is 5 plus 6?")).json()["choices"][0]["message"]["content"]
    second = up("--port", "0", "--data", str(own.data))
    assert url in second.stderr
    assert own.stop() == 0
