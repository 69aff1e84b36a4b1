"""What happened is in Postgres exactly once, can be shown, and can be decided again."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import msgspec
import nats
import pytest

from infra.privacy import known_master, opened_store
from schemas import codec
from schemas.steps import StepPlan
from tests.system.conftest import OSTINATO, UpProcess, ask, chat, records

pytestmark = pytest.mark.servers


def rows(stack: UpProcess, sql: str, *values: object) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(stack.postgres_url)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close()

    return asyncio.run(fetch())


async def _last_sequences(url: str) -> dict[str, int]:
    client = await nats.connect(url)
    try:
        infos = await client.jetstream().streams_info()
        return {str(info.config.name): info.state.last_seq for info in infos}
    finally:
        await client.close()


def wait_until_recorded(stack: UpProcess) -> dict[str, int]:
    """Wait until the recorder has what the streams hold now; return the streams' last sequences."""

    async def wait() -> dict[str, int]:
        last = await _last_sequences(stack.nats_url)
        connection = await asyncpg.connect(stack.postgres_url)
        try:
            async with asyncio.timeout(20):
                while True:
                    done = {row["name"]: row["seq"] for row in await connection.fetch("SELECT name, seq FROM cursor")}
                    if all(done.get(name, 0) >= last[name] for name in ("EV", "TRACE")):
                        return last
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()

    return asyncio.run(wait())


def wait_until_called(stack: UpProcess, count: int) -> None:
    """Wait until so many model calls have no answer yet."""
    sql = (
        "SELECT count(*) FILTER (WHERE type = 'model.called') - count(*) FILTER (WHERE type IN "
        "('model.returned', 'model.failed')) FROM event"
    )

    async def wait() -> None:
        connection = await asyncpg.connect(stack.postgres_url)
        try:
            async with asyncio.timeout(20):
                while True:
                    if await connection.fetchval(sql) >= count:
                        return
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()

    asyncio.run(wait())


def test_every_commit_and_every_step_is_in_postgres_exactly_once(stack: UpProcess) -> None:
    assert chat(stack, ask("What is 5 plus 6?")).status_code == 200
    last = wait_until_recorded(stack)
    commits = [row["seq"] for row in rows(stack, "SELECT seq FROM commit ORDER BY seq")]
    assert commits[: last["EV"]] == list(range(1, last["EV"] + 1))
    versions = rows(
        stack,
        "SELECT tenant, kind, entity, count(*) AS n, max(version) AS top, count(DISTINCT version) AS distinct_n "
        "FROM event WHERE kind <> 'shard' GROUP BY tenant, thread, kind, entity",
    )
    assert versions
    assert all(row["n"] == row["top"] == row["distinct_n"] for row in versions)
    trace = [row["seq"] for row in rows(stack, "SELECT seq FROM record ORDER BY seq")]
    assert trace[: last["TRACE"]] == list(range(1, last["TRACE"] + 1))


def test_steps_are_numbered_without_gaps_and_each_plan_has_its_result(stack: UpProcess) -> None:
    assert chat(stack, ask("What is 9 plus 6?")).status_code == 200
    wait_until_recorded(stack)
    plans = rows(stack, "SELECT producer, n FROM record WHERE subject LIKE 'step.%.plan' ORDER BY seq")
    results = rows(stack, "SELECT producer, n FROM record WHERE subject LIKE 'step.%.result'")
    numbers = [row["n"] for row in plans]
    assert numbers == list(range(1, len(numbers) + 1))
    assert Counter(row["n"] for row in results) == Counter(numbers)


PLANS = "SELECT payload FROM record WHERE subject LIKE 'step.%.plan' ORDER BY seq"


def test_eight_conversations_at_once_share_steps(stack: UpProcess) -> None:
    worker = stack.pid("worker-0")
    wait_until_recorded(stack)
    plans_before = len(rows(stack, PLANS))
    os.kill(worker, signal.SIGSTOP)  # until all eight are in, so that sharing does not hang on timing
    try:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(chat, stack, ask(f"What is {n} plus 10?")) for n in range(8)]
            wait_until_called(stack, 8)
            os.kill(worker, signal.SIGCONT)
            answers = [answer.result() for answer in asked]
    finally:
        os.kill(worker, signal.SIGCONT)
    assert all(answer.status_code == 200 for answer in answers)
    wait_until_recorded(stack)
    plans = [codec.decode(bytes(row["payload"]), StepPlan) for row in rows(stack, PLANS)[plans_before:]]
    most = max(len({part.request for part in plan.slices}) for plan in plans)
    assert most == 8, f"at most {most} requests ever shared a step"


def test_show_tells_who_did_what_with_tokens_and_latency(stack: UpProcess) -> None:
    thread = chat(stack, ask("What is 12 times 12?")).headers["X-Ostinato-Thread"]
    wait_until_recorded(stack)
    told = records(stack.cli("replay", "show", thread, "--json"))
    kinds = [line["kind"] for line in told]
    assert kinds == [
        "command.accepted",
        "message.added",
        "run.started",
        "model.called",
        "model.returned",
        "tool.called",
        "tool.returned",
        "model.called",
        "model.returned",
        "run.finished",
    ]
    assert told[6]["latency_s"] > 0
    assert "+" in told[4]["tokens"]
    listed = [line["thread"] for line in records(stack.cli("replay", "ls", "--json", "--limit", "50"))]
    assert thread in listed
    text = stack.cli("replay", "show", thread, "--steps").stdout
    assert "step " in text
    assert "blocks" in text


async def edited(stack: UpProcess, thread: str) -> bytes:
    """Give the payload of a thread's call, sealed as it is, with other arguments."""
    master = await asyncio.to_thread(known_master, stack.data)
    async with await opened_store(stack.postgres_url, master) as store:
        (fact,) = [
            event.fact for event in await store.events_of_thread("default", thread) if event.fact.type == "tool.called"
        ]
        other = json.loads(bytes(fact.payload))
        other["call"]["arguments"] = '{"expression": "1 + 1"}'
        payload = msgspec.Raw(json.dumps(other, separators=(",", ":")).encode())
        assert store.keys is not None
        return bytes(store.keys.sealed(msgspec.structs.replace(fact, payload=payload)).payload)


def test_verify_decides_the_same_and_catches_one_edited_event_by_name(stack: UpProcess) -> None:
    thread = chat(stack, ask("What is 21 times 2?")).headers["X-Ostinato-Thread"]
    other = chat(stack, ask("Hello!", model="ostinato-mini")).json()["id"].removeprefix("chatcmpl-")
    wait_until_recorded(stack)
    for identity in (thread, other):
        same = stack.cli("replay", "verify", identity)
        assert (same.returncode, same.stderr) == (0, ""), same.stdout
    (row,) = rows(stack, "SELECT seq, idx, payload FROM event WHERE thread = $1 AND type = 'tool.called'", thread)
    sql = "UPDATE event SET payload = $1 WHERE seq = $2 AND idx = $3"
    rows(stack, sql, asyncio.run(edited(stack, thread)), row["seq"], row["idx"])
    caught = stack.cli("replay", "verify", thread)
    rows(stack, sql, row["payload"], row["seq"], row["idx"])
    assert caught.returncode == 1
    assert "tool.called" in caught.stdout
    assert f"{row['seq']}/{row['idx']}" in caught.stdout
    assert stack.cli("replay", "verify", thread).returncode == 0


def test_an_unknown_id_is_a_clear_error(stack: UpProcess) -> None:
    done = stack.cli("replay", "show", "nothing-like-it")
    assert done.returncode == 1
    assert "nothing-like-it" in done.stderr
    assert "replay ls" in done.stderr


def test_diff_finds_two_threads_that_did_the_same_alike_and_names_what_differs(stack: UpProcess) -> None:
    questions = ("What is 14 plus 3?", "What is 14 plus 3?", "What is 14 plus 4?")
    a, b, other = (chat(stack, ask(question)).headers["X-Ostinato-Thread"] for question in questions)
    wait_until_recorded(stack)
    same = stack.cli("replay", "diff", a, b)
    assert (same.returncode, same.stderr) == (0, ""), same.stdout
    differs = stack.cli("replay", "diff", a, other)
    assert differs.returncode == 1
    assert "first difference: event 1 (command.accepted)" in differs.stdout
    assert "14 plus 3" in differs.stdout
    first = json.loads(stack.cli("replay", "diff", a, other, "--json").stdout.splitlines()[0])
    assert first["first"]["fields"][0]["b"] == "What is 14 plus 4?"
    assert stack.cli("replay", "diff", a, "nothing-like-it").returncode == 2


def test_a_bundle_is_redacted_unless_said_otherwise_and_is_read_beside_the_log(
    stack: UpProcess, tmp_path: Path
) -> None:
    thread = chat(stack, ask("What is 17 times 3?")).headers["X-Ostinato-Thread"]
    wait_until_recorded(stack)
    before = stack.cli("replay", "ls", "--json", "--limit", "1000").stdout
    redacted, whole = str(tmp_path / "redacted.jsonl.gz"), str(tmp_path / "Whole.jsonl")
    done = stack.cli("replay", "export", thread, "-o", redacted)
    assert "redacted" in done.stderr
    assert "17 times 3" not in gzip.decompress(Path(redacted).read_bytes()).decode()
    assert "NOT redacted" in stack.cli("replay", "export", "--all", "--no-redact", "-o", whole).stderr
    assert "17 times 3" in stack.cli("replay", "show", thread, "--bundle", whole).stdout
    refused = stack.cli("replay", "verify", thread, "--bundle", redacted)
    assert refused.returncode == 1
    assert "--no-redact" in refused.stdout
    assert stack.cli("replay", "verify", "--all", "--bundle", whole).returncode == 0
    assert "kept beside the log as 'whole'" in stack.cli("replay", "import", whole).stdout
    assert stack.cli("replay", "import", whole).returncode == 1
    assert stack.cli("replay", "import", whole, "--replace").returncode == 0
    assert stack.cli("replay", "verify", f"whole:{thread}").returncode == 0
    assert stack.cli("replay", "diff", f"whole:{thread}", thread).returncode == 0
    assert stack.cli("replay", "ls", "--json", "--limit", "1000").stdout == before
    imported = records(stack.cli("replay", "ls", "--imported", "--json", "--limit", "1000"))
    assert f"whole:{thread}" in [line["thread"] for line in imported]
    assert stack.cli("replay", "export", "-o", whole).returncode == 2


def test_tail_tells_each_event_as_it_is_committed_and_ends_quietly(stack: UpProcess) -> None:
    command = [*OSTINATO, "replay", "tail", "run.finished", "--json", "--data", str(stack.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        timer = threading.Timer(60, tail.kill)
        timer.start()
        try:
            assert tail.stdout is not None
            assert tail.stderr is not None
            assert "following what is committed" in tail.stderr.readline()
            thread = chat(stack, ask("What is 11 plus 2?")).headers["X-Ostinato-Thread"]
            told = next(line for line in map(json.loads, tail.stdout) if line["thread"] == thread)
            tail.send_signal(signal.SIGINT)
            assert (tail.wait(), tail.stderr.read()) == (130, "")
        finally:
            timer.cancel()
    assert told["kind"] == "run.finished"
    assert "13" in told["summary"]
