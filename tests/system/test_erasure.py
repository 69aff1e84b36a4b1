"""What is left of a thread that was deleted, on the whole stack: nothing that anybody said, in any copy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from bus.connection import Connection
from infra.client import connect
from infra.errors import NoAnswer, SettlementRefused
from infra.follow import send
from schemas.commands import Command
from schemas.memory import Remember
from tests.system.conftest import OSTINATO, UpProcess, records, start
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

CANARY = "Quetzalcoatlus"
OTHER = "Archaeopteryx"
BEFORE_S = 20.0


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + BEFORE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def tables_with(up: UpProcess, word: str) -> set[str]:
    """Name the tables in which a word stands, in any column."""

    async def look() -> set[str]:
        connection = await asyncpg.connect(up.postgres_url)
        try:
            names = [row["relname"] for row in await connection.fetch(_TABLES)]
            found = set()
            for name in names:
                for (row,) in await connection.fetch(f'SELECT each::text FROM "{name}" AS each'):
                    if word in row or word.encode().hex() in row:
                        found.add(name)
            return found
        finally:
            await connection.close()

    return asyncio.run(look())


def vectors(up: UpProcess, thread: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(up.postgres_url)
        try:
            found: int = await connection.fetchval("SELECT count(*) FROM spoken_vector WHERE thread = $1", thread)
            return found
        finally:
            await connection.close()

    return asyncio.run(count())


def files_with(folder: Path, word: str) -> list[Path]:
    """List the files of a server in which a word stands."""
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def remember(up: UpProcess, thread: str, content: str) -> None:
    async def go() -> None:
        async with await Connection.open(up.nats_url, "test") as connection:
            outcome = await send(
                connection, Command(f"m-{thread}", "default", "agent", thread, "remember", Remember(content))
            )
            assert outcome.problem is None

    asyncio.run(go())


def talk(up: UpProcess, thread: str, word: str) -> None:
    made = ("--resource", word.lower(), "--title", f"About {word}", "--metadata", f"pet={word}")
    assert up.cli("thread", "create", thread, *made).returncode == 0
    assert up.cli("run", "agent/rememberer", f"Hello, my {word}!", "--thread", thread).returncode == 0
    remember(up, thread, f"- pet: {word}")
    # too large for an envelope, and for the model
    long = up.cli("run", "agent/rememberer", f"{word} " * 8000, "--thread", thread)
    assert "too long" in long.stderr or long.returncode, long.stderr
    wait_until_recorded(up)
    eventually(lambda: vectors(up, thread) > 0)


def asked(up: UpProcess, thread: str, word: str) -> dict[str, str]:
    """Ask over the bus for what is remembered."""

    async def ask() -> dict[str, str]:
        async with connect(str(up.data)) as client:
            memory = client.memory
            found = {
                "threads": str(await memory.threads(resource=word.lower(), text="about")),
                "recall": str(await memory.recall(f"Hello, my {word}!", resource=word.lower())),
            }
            for name in ("messages", "working"):
                try:
                    told = memory.messages(thread) if name == "messages" else memory.working(thread=thread)
                    found[name] = str(await told)
                except SettlementRefused as refused:
                    found[name] = refused.problem.message
            return found

    return asyncio.run(ask())


def shown_of(up: UpProcess, thread: str) -> list[dict[str, Any]]:
    return list(records(up.cli("replay", "show", thread, "--json")))


def test_an_erased_thread_is_gone_from_every_copy_at_once_and_its_neighbour_is_not(
    system_folder: Path, tmp_path: Path
) -> None:
    agents = Path(__file__).parent / "rememberer.py"
    up = start(system_folder / tmp_path.name, "--agents", str(agents))
    try:
        talk(up, "gone", CANARY)
        talk(up, "stays", OTHER)
        # the log holds it sealed from the beginning, and whoever may read it does
        assert any(CANARY in str(line["data"]) for line in shown_of(up, "gone"))
        assert all(CANARY in told for told in asked(up, "gone", CANARY).values()), asked(up, "gone", CANARY)
        assert up.cli("replay", "verify", "gone", "stays").returncode == 0
        assert not files_with(up.data / "nats", CANARY)
        assert tables_with(up, CANARY) == {"projected_thread"}
        key = key_of_a_picture(up, "gone")
        assert up.cli("thread", "delete", "gone").returncode == 0
        wait_until_erased(up, "gone")
        check_what_is_gone(up, tmp_path)
        check_what_is_planned_again(up)
        # what the store keeps of a picture nobody can open any more
        assert not files_with(up.data / "nats", key)
        assert tables_with(up, key) == set()
        check_what_stays(up)
        # another owner folds it anew, and the books are made again from what can be read
        os.kill(up.pid("agents-0"), signal.SIGKILL)
        assert "was deleted" in up.cli("run", "agent/rememberer", "Hello?", "--thread", "gone").stderr
        assert up.cli("log", "rebuild", "all").returncode == 0
        eventually(lambda: vectors(up, "stays") > 0)
        assert up.cli("log", "verify").returncode == 0
        everything = up.cli("replay", "verify", "--all")
        assert everything.returncode == 0, everything.stdout
        check_what_is_gone(up, tmp_path)
        check_what_stays(up)
        check_a_person_is_erased(up)
        assert up.cli("thread", "delete").returncode == 2
    finally:
        assert up.stop() == 0


def check_a_person_is_erased(up: UpProcess) -> None:
    # a person is erased by all of their threads, the one too that the recorder has not come to yet
    with held(up.pid("recorder-0")):
        assert up.cli("thread", "create", "also", "--resource", OTHER.lower()).returncode == 0
        wanted = ("walk", "0 8 * * *", "demo", f"Walk {OTHER}!", "--resource", OTHER.lower())
        assert up.cli("schedule", "add", *wanted).returncode == 0
        deleting = begun(up, "thread", "delete", "--resource", OTHER.lower())
        with pytest.raises(subprocess.TimeoutExpired):
            deleting.wait(1)
    told = f"2 threads of {OTHER.lower()} are deleted\n1 schedules of {OTHER.lower()} are removed\n"
    assert deleting.communicate(timeout=60) == (told, "")
    assert deleting.returncode == 0
    wait_until_erased(up, "stays")
    eventually(lambda: any(line["kind"] == "schedule.erased" for line in shown_of(up, "walk")))
    assert tables_with(up, OTHER) == set()


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Keep a process from doing anything."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def begun(up: UpProcess, *argv: str) -> subprocess.Popen[str]:
    """Start a command and do not wait for it."""
    command = [*OSTINATO, *argv, "--data", str(up.data)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def key_of_a_picture(up: UpProcess, thread: str) -> str:
    """Show a picture in a thread, to a model that sees none; give the key that opens it."""

    async def show() -> None:
        async with connect(str(up.data)) as client:
            with pytest.raises(NoAnswer, match="sees no images"):
                await client.run("rememberer", "See?", thread=thread, images=[b"\x89PNG\r\n\x1a\n" + CANARY.encode()])

    asyncio.run(show())
    wait_until_recorded(up)
    said = [line["data"]["message"] for line in shown_of(up, thread) if line["kind"] == "message.added"]
    (image,) = [image for message in said for image in message.get("images", ())]
    assert not files_with(up.data / "nats", CANARY)
    return str(image["key"])


def check_what_is_gone(up: UpProcess, folder: Path) -> None:
    assert tables_with(up, CANARY) == set()
    assert vectors(up, "gone") == 0
    assert not files_with(up.data / "nats", CANARY)
    assert not list(records(up.cli("log", "threads", "--resource", CANARY.lower(), "--json")))
    told = shown_of(up, "gone")
    assert len(told) > 10
    assert {line["summary"] for line in told if line["kind"] == "message.added"} == {"erased"}
    checked = up.cli("replay", "verify", "gone")
    assert (checked.returncode, "erased" in checked.stdout) == (0, True), checked.stdout
    assert asked(up, "gone", CANARY) == {
        "threads": "()",
        "recall": "()",
        "messages": "thread 'gone' was deleted",
        "working": "thread 'gone' was deleted",
    }
    bundle = folder / "bundle.jsonl"
    assert up.cli("replay", "export", "gone", "--no-redact", "-o", str(bundle)).returncode == 0
    assert CANARY not in bundle.read_text(encoding="utf-8")
    bundle.unlink()
    forked = up.cli("replay", "fork", "gone", "--at", "5")
    assert (forked.returncode, "was deleted" in forked.stderr) == (2, True), forked.stderr


def check_what_is_planned_again(up: UpProcess) -> None:
    """A record whose tokens were taken out is no wrong one, and is told from one that is."""
    (*_, verified) = records(up.cli("replay", "engine", "--last", "--verify", "--json"))
    assert (verified["ok"], verified["problem"]) == (True, "")
    assert 0 < verified["plans"] < verified["recorded"]
    assert verified["erased"] > 0
    told = up.cli("replay", "engine", "--last", "--verify")
    assert f"{verified['plans']} plans of {verified['recorded']} come out the same" in told.stdout
    assert f"the tokens of {verified['erased']} requests were erased" in told.stdout


def wait_until_erased(up: UpProcess, thread: str) -> None:
    eventually(lambda: any(line["kind"] == "thread.erased" for line in shown_of(up, thread)))
    (line,) = [line for line in shown_of(up, thread) if line["kind"] == "thread.erased"]
    assert line["data"].get("unsealed", 0) == 0


def check_what_stays(up: UpProcess) -> None:
    assert any(OTHER in str(line["data"]) for line in shown_of(up, "stays"))
    (row,) = records(up.cli("log", "threads", "--resource", OTHER.lower(), "--json"))
    assert row["title"] == f"About {OTHER}"
    assert vectors(up, "stays") > 0
    assert all(OTHER in told for told in asked(up, "stays", OTHER).values()), asked(up, "stays", OTHER)


def test_a_bare_generation_is_read_by_whoever_has_the_master_key_and_in_no_table(stack: UpProcess) -> None:
    word = "Pterodaustro"
    asked = {"model": "ostinato-mini", "prompt": f"Hello, my {word}!", "max_tokens": 8, "stream": True}
    with httpx.stream("POST", f"{stack.url}/v1/completions", json=asked, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
    generation = json.loads(lines[0][6:])["id"].removeprefix("cmpl-")
    wait_until_recorded(stack)
    assert tables_with(stack, word) == set()
    shown = shown_of(stack, generation)
    assert any(word in str(line["data"]) for line in shown), shown
    verified = stack.cli("replay", "verify", generation)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_a_schedule_asks_is_in_no_copy_and_is_read_until_it_is_removed(stack: UpProcess) -> None:
    word = "Dimorphodon"
    assert stack.cli("schedule", "add", "feeding", "0 8 * * *", "demo", f"Feed my {word}!").returncode == 0
    wait_until_recorded(stack)
    assert word in stack.cli("schedule", "list").stdout
    assert any(word in str(line["data"]) for line in shown_of(stack, "feeding"))
    assert tables_with(stack, word) == set()
    assert not files_with(stack.data / "nats", word)
    assert stack.cli("schedule", "remove", "feeding").returncode == 0
    eventually(lambda: any(line["kind"] == "schedule.erased" for line in shown_of(stack, "feeding")))
    assert word not in str(shown_of(stack, "feeding"))
    assert word not in stack.cli("schedule", "list").stdout
    assert "erased" in stack.cli("replay", "verify", "feeding").stdout
    assert stack.cli("log", "verify").returncode == 0
    assert not [path for path in files_with(stack.data, word) if path.suffix == ".log"]


def test_what_cannot_be_answered_says_why(stack: UpProcess) -> None:
    async def ask() -> list[str]:
        async with connect(str(stack.data)) as client:
            problems = []
            for told in (
                client.memory.working(),
                client.memory.messages("no-such-thread"),
                client.memory.recall("hello", embedder="none"),
            ):
                with pytest.raises(SettlementRefused) as refused:
                    await told
                problems.append(refused.value.problem.message)
            raw = await client.connection.request("rpc.memory.dreams.default", b"{}")
            return [*problems, raw.data.decode()]

    working, messages, recall, dreams = asyncio.run(ask())
    assert working == "give `thread` or `resource`"
    assert messages == "thread 'no-such-thread' does not exist"
    assert recall.startswith("embedder: there are none")
    assert "ask for one of threads, messages, recall, working" in dreams


_TABLES = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = 'public' AND relkind = 'r'
"""
