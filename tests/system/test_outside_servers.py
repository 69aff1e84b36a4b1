"""`ostinato up` on servers that somebody else runs: a NATS cluster of three that loses one, and a Postgres."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus.connection import Connection
from bus.streams import CMD, DEAD, EV, LEASE, TRACE
from infra.services.process import until
from tests.system import foreign
from tests.system.conftest import OSTINATO, STOP_S, UpProcess, ask, chat, records, start

pytestmark = pytest.mark.servers

ELECTION_S = 30.0
STREAMS = (EV, CMD, TRACE, DEAD, LEASE)


@pytest.fixture
def place(system_folder: Path, tmp_path: Path) -> Path:
    """A folder for this test that an unprivileged server can enter."""
    folder = system_folder / tmp_path.name
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def database(place: Path) -> Iterator[foreign.Database]:
    with foreign.postgres(place) as running:
        yield running


@contextmanager
def stack(data: Path, *argv: str) -> Iterator[UpProcess]:
    """Run a stack until the block ends; nothing it printed may hold a password."""
    up = start(data, *argv)
    try:
        yield up
    finally:
        up.process.send_signal(signal.SIGINT)
        printed = up.process.communicate(timeout=STOP_S)
    assert up.process.returncode == 0, printed
    assert foreign.PASSWORD not in "".join(printed)


def hides_its_passwords(up: UpProcess, more: str = "") -> None:
    """Look wherever somebody else may."""
    told = "\n".join(up.lines) + more
    for log in (up.data / "logs").iterdir():
        told += log.read_text(encoding="utf-8", errors="replace")
    own = foreign.command_lines([up.process.pid, *up.children()])
    assert "infra.process" in own
    assert foreign.PASSWORD not in own
    assert foreign.PASSWORD not in told
    assert "***@127.0.0.1" in "\n".join(up.lines)


async def replicas(url: str) -> dict[str, int]:
    """Give each stream's replicas."""
    async with await Connection.open(url, "test") as connection:
        found = {stream: await connection.api(f"STREAM.INFO.{stream}") for stream in STREAMS}
    return {stream: info["config"]["num_replicas"] for stream, info in found.items()}


async def lose_the_leader(node: foreign.Node) -> None:
    """Have a server lead the log, then kill it; whoever knew only of it goes on at the servers that it told of."""
    async with await Connection.open(node.url, "test") as connection:
        async for _ in until(ELECTION_S):
            cluster = (await connection.api(f"STREAM.INFO.{EV}"))["cluster"]
            current = all(one["current"] for one in cluster.get("replicas", []))
            if cluster.get("leader") == node.name and current:
                break
            if cluster.get("leader") and current:
                preferred = {"placement": {"preferred": node.name}}
                await connection.api(f"STREAM.LEADER.STEPDOWN.{EV}", preferred)
        else:
            raise AssertionError(f"{node.name} does not lead {EV}")
        reconnected = asyncio.Event()

        async def on_reconnect() -> None:
            reconnected.set()

        connection.on_reconnect(on_reconnect)
        node.kill()
        async with asyncio.timeout(ELECTION_S):
            await reconnected.wait()


def says(up: UpProcess, text: str, thread: str | None = None) -> tuple[str, str]:
    """Say something to the demo agent; return the answer and the thread."""
    answer = chat(up, ask(text), thread)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"], answer.headers["X-Ostinato-Thread"]


def test_a_conversation_outlives_the_server_that_led_its_log(
    place: Path, database: foreign.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign.nats_servers(place, 3) as cluster:
        first, second, _ = cluster.nodes
        monkeypatch.setenv("OSTINATO_NATS", f"{first.url},{second.url}")
        monkeypatch.setenv("OSTINATO_POSTGRES", database.url())
        with stack(place / "data") as up:
            assert "408" in says(up, "What is 12 times 34?")[0]
            _, thread = says(up, "Please remember that my cat is called Biscuit.")
            assert asyncio.run(replicas(first.url)) == dict.fromkeys(STREAMS, 3)
            asyncio.run(lose_the_leader(first))
            assert "Biscuit" in says(up, "What is my cat called?", thread)[0]
            assert "6223" in says(up, "What is 127 times 49?", thread)[0].replace(",", "")
            hides_its_passwords(up)
            assert set(up.runtime["pids"]) == set()
            asked = up.cli("run", "demo", "What is 3 times 4?")
            assert "12" in asked.stdout, asked.stderr
            verified = up.cli("replay", "verify", "--all")
            assert verified.returncode == 0, verified.stdout + verified.stderr
        with stack(place / "data") as up:
            assert "Biscuit" in says(up, "What is my cat called?", thread)[0]
        monkeypatch.delenv("OSTINATO_NATS")
        monkeypatch.delenv("OSTINATO_POSTGRES")
        # the stack is down: what it used is remembered, and the record is whole
        assert len(records(up.cli("replay", "ls", "--json"))) == 3
        assert not (up.data / "runtime.json").exists()
        verified = up.cli("replay", "verify", "--all")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert not (up.data / "nats").exists()


def refused(place: Path, nats: str) -> str:
    """Start a second stack on the same account and return the line that says why it cannot be."""
    command = [*OSTINATO, "up", "--port", "0", "--data", str(place / "company"), "--nats", nats]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("starting: ")]
    assert foreign.PASSWORD not in line
    return line


def test_either_server_alone_may_be_somebody_elses(place: Path, database: foreign.Database) -> None:
    with foreign.nats_servers(place) as single:
        with stack(place / "first", "--nats", single.url) as up:
            assert set(up.runtime["pids"]) == {"postgres"}
            assert "another stack runs on it ('host' answers): stop that one" in refused(place, single.url)
            assert "408" in says(up, "What is 12 times 34?")[0]
            assert asyncio.run(replicas(single.url)) == dict.fromkeys(STREAMS, 1)
        assert up.cli("replay", "verify", "--all").returncode == 0
    with stack(place / "second", "--postgres", database.url()) as up:
        assert set(up.runtime["pids"]) == {"nats"}
        assert "408" in says(up, "What is 12 times 34?")[0]
    assert up.cli("replay", "verify", "--all").returncode == 0


def test_a_server_of_somebody_elses_that_goes_away_is_waited_for_and_not_started(place: Path) -> None:
    with foreign.nats_servers(place) as single:
        [node] = single.nodes
        with stack(place / "data", "--nats", node.url) as up:
            _, thread = says(up, "Please remember that my cat is called Biscuit.")
            node.kill()
            node.start()
            assert "Biscuit" in says(up, "What is my cat called?", thread)[0]
            assert set(up.runtime["pids"]) == {"postgres"}


def test_more_replicas_than_servers_is_one_line(place: Path) -> None:
    command = [*OSTINATO, "up", "--port", "0", "--data", str(place / "data"), "--replicas", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=os.environ)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("starting: ")]
    assert "setting 'replicas' (3)" in line
    assert "set it to 1" in line


def test_the_record_is_read_with_the_number_of_shards_it_was_made_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTINATO_SHARDS", "3")
    with stack(place / "data") as up:
        assert "408" in says(up, "What is 12 times 34?")[0]
    monkeypatch.delenv("OSTINATO_SHARDS")
    verified = up.cli("replay", "verify", "--all")
    assert verified.returncode == 0, verified.stderr
