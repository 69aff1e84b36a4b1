"""`ostinato log threads`, `runs`, `usage`, `rebuild` and `retain`, on a stack that runs and on one that does not."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from schemas.times import DAY
from tests.system.conftest import UpProcess, ask, chat, records, start
from tests.system.pseudo_terminal import PseudoTerminal
from tests.system.test_docs import blocks, commands
from tests.system.test_log import OSTINATO, log

pytestmark = pytest.mark.servers

OLD = 20_000 * DAY
COUNTS = ("prompt_tokens", "completion_tokens", "model_calls", "tool_calls")


def execute(up: UpProcess, *statements: str) -> None:
    async def executing() -> None:
        client = await asyncpg.connect(up.runtime["urls"]["postgres"])
        for sql in statements:
            await client.execute(sql)
        await client.close()

    asyncio.run(executing())


def asked(up: UpProcess, text: str) -> str:
    """Ask the demo agent; return the thread."""
    answer = chat(up, ask(text))
    assert answer.status_code == 200
    return answer.headers["X-Ostinato-Thread"]


def rows(up: UpProcess, verb: str, *argv: str) -> list[dict[str, Any]]:
    return list(records(up.cli("log", verb, "--json", *argv)))


def test_a_run_is_in_the_books_as_soon_as_it_was_answered(stack: UpProcess) -> None:
    for _ in range(3):
        thread = asked(stack, "What is 12 times 34?")
        [run] = rows(stack, "runs", "--thread", thread)
        shown = list(records(stack.cli("replay", "show", thread, "--json")))
        ended = [line["data"] for line in shown if line["kind"] == "run.finished"]
        assert (run["status"], run["agent"], run["model"]) == ("finished", "demo", "ostinato-mini")
        assert run["prompt_tokens"] == ended[0]["usage"]["prompt_tokens"]
        assert run["model_calls"] == ended[0]["steps"]
        assert run["asked"] <= run["started"] <= run["finished"]
        [found] = [row for row in rows(stack, "threads") if row["thread"] == thread]
        assert (found["events"], found["runs"], found["status"]) == (len(shown), 1, "idle")


def test_the_page_on_the_log_can_be_typed_as_it_stands(stack: UpProcess) -> None:
    thread = asked(stack, "Hello!")
    typed = commands("log.md")
    assert len(typed) == 11
    for line in typed:
        done = stack.cli(*shlex.split(line.replace("ID", thread))[1:])
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout, line
    ((_, sql),) = blocks("log.md", "sql")
    execute(stack, *sql.strip().splitlines())


def test_what_runs_used_is_what_was_used(stack: UpProcess) -> None:
    asked(stack, "What is 3 times 4?")
    runs, usage = rows(stack, "runs", "--limit", "100000"), rows(stack, "usage")
    for count in COUNTS:
        assert sum(row[count] for row in runs) == sum(row[count] for row in usage) > 0
    assert sum(row["runs"] for row in usage) == len([run for run in runs if run["started"] is not None])
    with PseudoTerminal([*OSTINATO, "log", "usage", "--data", str(stack.data)], {}) as screen:
        screen.until("ostinato-mini")
        assert screen.end() == 0


def test_projections_are_made_again_while_the_stack_runs(stack: UpProcess) -> None:
    asked(stack, "Hello!")
    before = {verb: rows(stack, verb, "--limit", "100000") for verb in ("threads", "runs")}
    execute(stack, "UPDATE projected_run SET prompt_tokens = 7", "DELETE FROM projected_thread")
    assert rows(stack, "threads") == []
    done = rows(stack, "rebuild", "all")
    made = {one["projection"]: one.get("rows", 0) > 0 for one in done}
    assert list(made) == ["threads", "runs", "usage", "schedules", "batches", "vectors"]
    assert (made["threads"], made["runs"], made["usage"]) == (True, True, True)
    assert {verb: rows(stack, verb, "--limit", "100000") for verb in ("threads", "runs")} == before
    thread = asked(stack, "Hello again!")
    assert rows(stack, "runs")[0]["thread"] == thread


def test_a_thread_that_cannot_be_followed_is_told_with_every_sum(stack: UpProcess) -> None:
    thread = asked(stack, "Hello!")
    assert rows(stack, "runs")[0]["thread"] == thread  # it is recorded by now
    rename = f"UPDATE event SET type = '{{}}' WHERE type = '{{}}' AND thread = '{thread}'"
    execute(stack, rename.format("run.dreamt", "run.finished"))
    try:
        assert rows(stack, "rebuild", "all")
        told = stack.cli("log", "usage")
        assert told.returncode == 0
        assert f"thread {thread}: 1 event is not counted: event " in told.stderr
        assert "'run.dreamt': this code does not know it" in told.stderr
        [run] = rows(stack, "runs", "--thread", thread)
        assert run["status"] == "stopped"
    finally:
        execute(stack, rename.format("run.finished", "run.dreamt"))
    assert rows(stack, "rebuild", "all")
    assert stack.cli("log", "usage").stderr == ""


@pytest.fixture
def own(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    """A stack of this test's."""
    up = start(system_folder / tmp_path.name)
    yield up
    up.stop()


def test_the_books_can_be_read_and_made_again_while_the_stack_is_stopped(own: UpProcess) -> None:
    thread = asked(own, "What is 12 times 34?")
    assert own.stop() == 0
    [run] = records(log(own.data, "runs", "--json"))
    assert (run["thread"], run["status"]) == (thread, "finished")
    assert {made["projection"] for made in records(log(own.data, "rebuild", "usage", "--json"))} == {"usage"}
    assert [row["runs"] for row in records(log(own.data, "usage", "--json"))] == [1]
    assert log(own.data, "retain", "--steps", "7d").stdout.startswith("no step records are from days")


def test_old_step_records_go_threads_stay_and_whoever_asks_for_them_is_told(own: UpProcess) -> None:
    thread = asked(own, "What is 12 times 34?")
    execute(
        own,
        f"CREATE TABLE record_20241004 PARTITION OF record FOR VALUES FROM ({OLD}) TO ({OLD + DAY})",
        "INSERT INTO record SELECT 1, 1000000 + n, '', 'step.x.plan', 'e', n, "
        f"{OLD} + n, '' FROM generate_series(1, 50) AS n",
    )
    [would] = rows(own, "retain", "--steps", "7d", "--dry-run")
    assert (would["rows"], would["begins"], would["dropped"]) == (50, "2024-10-04T00:00:00.000000Z", False)
    before = rows(own, "threads")
    told = own.cli("log", "retain", "--steps", "7d").stdout
    assert "2024-10-04" in told
    assert "dropped: 50 rows" in told
    assert rows(own, "retain", "--steps", "7d") == []
    assert rows(own, "threads") == before
    assert "have expired" not in own.cli("replay", "show", thread, "--steps").stdout
    execute(own, "UPDATE retention SET until = 9000000000000000", "DELETE FROM record")
    shown = own.cli("replay", "show", thread, "--steps").stdout
    assert shown.count("its steps have expired: those before 2255-03-14 are not kept") == 2
    assert "run.finished" in shown


def test_jetstream_forgets_what_it_need_not_keep(own: UpProcess) -> None:
    asked(own, "What is 12 times 34?")
    [would] = rows(own, "trim", "--keep", "0d", "--dry-run")
    [done] = rows(own, "trim", "--keep", "0d")
    assert (would["trimmed"], done["trimmed"]) == (False, True)
    assert "0 envelopes" in own.cli("log", "trim", "--keep", "30d").stdout
    assert own.cli("log", "verify").returncode == 0
    assert own.cli("replay", "verify", "--all").returncode == 0
    refused = own.cli("log", "trim", "--keep", "soon")
    assert refused.returncode == 2
    assert "such as 7d" in refused.stderr


def test_a_stack_lets_old_step_records_expire_by_itself(own: UpProcess) -> None:
    execute(
        own,
        f"CREATE TABLE record_20241004 PARTITION OF record FOR VALUES FROM ({OLD}) TO ({OLD + DAY})",
        f"INSERT INTO record VALUES (1, 1000000, '', 'step.x.plan', 'e', 1, {OLD}, '')",
    )
    assert own.stop() == 0
    back = start(own.data)
    try:
        for _ in range(100):
            if not records(back.cli("log", "retain", "--steps", "7d", "--dry-run", "--json")):
                break
        assert rows(back, "retain", "--steps", "7d", "--dry-run") == []
        assert "record_20241004 expired: 1 rows" in (back.data / "logs" / "host.log").read_text(encoding="utf-8")
    finally:
        assert back.stop() == 0
