"""`ostinato log`, and stacks whose log is damaged: at their start, and while they run."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bus.connection import Connection
from infra.access import resting_log_servers
from tests.system.conftest import OSTINATO, STOP_S, UpProcess, ask, chat, records, start
from tests.system.pseudo_terminal import PseudoTerminal

pytestmark = pytest.mark.servers


@pytest.fixture
def used(system_folder: Path, tmp_path: Path) -> Path:
    """The data directory of a stack that was talked to and stopped."""
    up = start(system_folder / tmp_path.name)
    for question in ("What is 12 times 34?", "Hello!"):
        assert chat(up, ask(question)).status_code == 200
    assert up.stop() == 0
    return up.data


def log(data: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [*OSTINATO, "log", *argv, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def lose(connection: Connection, sequences: Sequence[int]) -> None:
    """Make JetStream forget messages, as one with a damaged block does."""
    for sequence in sequences:
        await connection.api("STREAM.MSG.DELETE.EV", {"seq": sequence})


def lose_at_rest(data: Path, *sequences: int) -> None:
    async def losing() -> None:
        async with resting_log_servers(str(data)) as (connection, _):
            await lose(connection, sequences)

    asyncio.run(losing())


def test_a_running_stack_is_verified_and_not_repaired(stack: UpProcess) -> None:
    assert chat(stack, ask("Hello!")).status_code == 200
    [found] = records(stack.cli("log", "verify", "--json"))
    assert found["whole"]
    assert found["events"] > found["envelopes"] > 0
    with PseudoTerminal([*OSTINATO, "log", "verify", "--data", str(stack.data)], {}) as screen:
        screen.until("the log is whole")
        assert screen.end() == 0
    refused = stack.cli("log", "repair")
    assert refused.returncode == 1
    assert "already runs" in refused.stderr


def test_a_damaged_log_is_mended_at_the_next_start_and_tells_the_same_story(used: Path) -> None:
    threads = [line["thread"] for line in _replay(used, "ls")]
    before = [_replay(used, "show", thread) for thread in threads]
    lose_at_rest(used, 2, 3)
    verified = log(used, "verify")
    assert verified.returncode == 1
    assert "JetStream: sequences 2 to 3: missing" in verified.stdout
    assert "log repair" in verified.stdout
    back = start(used)
    assert [_replay(used, "show", thread) for thread in threads] == before
    assert chat(back, ask("Hello again!"), threads[0]).status_code == 200
    back.process.send_signal(2)
    _, said = back.process.communicate(timeout=STOP_S)
    assert "the log was damaged (2 of its" in said
    assert "2 restored from Postgres" in said
    assert log(used, "verify").returncode == 0


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_a_bit_that_flipped_on_the_disk_is_mended_whether_the_server_noticed_it_or_not(
    used: Path, share: float
) -> None:
    threads = [line["thread"] for line in _replay(used, "ls")]
    before = [_replay(used, "show", thread) for thread in threads]
    [block] = used.glob("**/streams/EV/msgs/1.blk")
    data = bytearray(block.read_bytes())
    data[int(share * len(data))] ^= 1
    block.write_bytes(bytes(data))
    back = start(used)
    assert [_replay(used, "show", thread) for thread in threads] == before
    assert chat(back, ask("Hello again!"), threads[0]).status_code == 200
    back.process.send_signal(2)
    _, said = back.process.communicate(timeout=STOP_S)
    assert "the log was damaged (" in said
    assert log(used, "verify").returncode == 0


def test_what_would_be_cut_is_left_to_a_person_and_set_aside(used: Path) -> None:
    async def go_on_from_nothing() -> None:
        async with resting_log_servers(str(used)) as (connection, _):
            await lose(connection, [1])
            await connection.request("ev.0", b"not an envelope")

    asyncio.run(go_on_from_nothing())
    refused = subprocess.run(
        [*OSTINATO, "up", "--port", "0", "--data", str(used)], capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 1
    assert "messages in it that do not continue what is recorded: 1" in refused.stderr
    repaired = log(used, "repair")
    assert repaired.returncode == 1
    assert "the log is whole again: 1 restored from Postgres, 1 cut out" in repaired.stdout
    [file] = used.glob("cut-*.jsonl")
    assert str(file) in repaired.stdout
    assert json.loads(file.read_text())["data"] == "not an envelope"
    assert log(used, "repair").stdout == "the log was whole: nothing was damaged\n"
    assert start(used).stop() == 0


def test_a_stack_under_which_the_log_is_damaged_stops_and_says_what_mends_it(
    system_folder: Path, tmp_path: Path
) -> None:
    up = start(system_folder / tmp_path.name)
    assert chat(up, ask("Hello!")).status_code == 200

    async def damage() -> None:
        async with await Connection.open(up.nats_url, "test") as connection:
            await connection.request("ev.0", b"not an envelope")

    asyncio.run(damage())
    _, said = up.process.communicate(timeout=60)
    assert up.process.returncode == 1
    assert "stream 'EV' is damaged at sequence" in said.splitlines()[-1]
    assert "ostinato log repair" in said.splitlines()[-1]
    assert log(up.data, "repair", "--json").returncode == 1
    assert start(up.data).stop() == 0


def _replay(data: Path, *argv: str) -> list[dict[str, object]]:
    command = [*OSTINATO, "replay", *argv, "--json", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return list(records(done))
