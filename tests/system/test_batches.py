"""Batches as OpenAI's own client brings them to a whole stack, and what is left of them when processes are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from bus.store import Store
from tests.system.conftest import OSTINATO, UpProcess, start
from tests.system.test_keys import created, url

pytestmark = pytest.mark.servers

MODEL = "ostinato-mini"
OVER = {"completed", "failed", "expired", "cancelled"}
ENDED_S = 300.0


@contextmanager
def client(up: UpProcess, key: str = "none") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key=key, max_retries=0, timeout=120) as sdk:
        yield sdk


def chat_line(name: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def begin(sdk: openai.OpenAI, content: bytes, endpoint: Any = "/v1/chat/completions", window: Any = "24h") -> Any:
    file = sdk.files.create(file=("input.jsonl", content), purpose="batch")
    assert file.bytes == len(content)
    return sdk.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window)


def wait(sdk: openai.OpenAI, identity: str, until: Any = None) -> Any:
    """Ask how a batch stands until it is over, or something is true of it."""
    end = time.monotonic() + ENDED_S
    while time.monotonic() < end:
        batch = sdk.batches.retrieve(identity)
        if batch.status in OVER or (until is not None and until(batch)):
            return batch
        time.sleep(0.1)
    raise AssertionError(f"batch {identity} is {batch.status} after {ENDED_S} s: {batch.request_counts}")


def lines_of(sdk: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [] if file is None else [json.loads(line) for line in sdk.files.content(file).text.splitlines()]


def test_a_batch_of_chats_is_answered_in_order_and_what_cannot_be_is_told_apart(stack: UpProcess) -> None:
    lines = [chat_line(f"c{n}", f"Say {n}", temperature=0) for n in range(6)]
    lines[2]["body"]["temperature"] = 9
    lines[3]["body"]["model"] = "nobody"
    lines[4]["body"]["stream"] = True
    with client(stack) as sdk:
        begun = begin(sdk, jsonl(lines))
        batch = wait(sdk, begun.id)
        assert (batch.status, batch.errors) == ("completed", None)
        assert batch.request_counts.model_dump() == {"total": 6, "completed": 3, "failed": 3}
        answers, errors = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
        assert [line["custom_id"] for line in answers] == ["c0", "c1", "c5"]
        assert [line["custom_id"] for line in errors] == ["c2", "c3", "c4"]
        alone = sdk.chat.completions.create(**lines[0]["body"])
        told = answers[0]["response"]
        assert (told["status_code"], answers[0]["error"]) == (200, None)
        assert told["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
        assert [line["response"]["status_code"] for line in errors] == [400, 404, 400]
        assert [line["response"]["body"]["error"]["param"] for line in errors] == ["temperature", "model", "stream"]
        assert batch.usage.input_tokens == sum(line["response"]["body"]["usage"]["prompt_tokens"] for line in answers)
        files = [file.id for file in sdk.files.list(purpose="batch_output")]
        assert {batch.output_file_id, batch.error_file_id} <= set(files)
        assert begun.id in [one.id for one in sdk.batches.list(limit=5)]


def test_a_file_comes_back_as_it_was_brought_until_it_is_deleted(stack: UpProcess) -> None:
    content = jsonl([chat_line(f"c{n}", "x" * 40_000) for n in range(20)]) + b"\n  \n" + jsonl([chat_line("last")])[:-1]
    with client(stack) as sdk:
        file = sdk.files.create(
            file=("many.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert (file.bytes, file.filename, file.expires_at) == (len(content), "many.jsonl", file.created_at + 3600)
        assert sdk.files.content(file.id).read() == content
        assert sdk.files.retrieve(file.id).id == file.id
        newest = sdk.files.list(limit=1)
        assert [one.id for one in newest.data] == [file.id]
        assert sdk.files.delete(file.id).deleted
        for ask in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(file.id)
        with pytest.raises(openai.NotFoundError):
            sdk.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"\n \n", ["empty_file"]),
        (b"nonsense\n" + jsonl([chat_line("a"), chat_line("a")]), ["invalid_json_line", "duplicate_custom_id"]),
        (jsonl([{**chat_line("a"), "method": "GET"}, {**chat_line("b"), "url": "/v1/models"}]),
         ["invalid_method", "mismatched_endpoint"]),
        (jsonl([{key: value for key, value in chat_line("a").items() if key != "custom_id"}]), ["invalid_json_line"]),
        (jsonl([chat_line("\ud800"), chat_line("b", "\udc00")]) + b'{"custom_id":"\xff"}', ["invalid_json_line"] * 3),
    ],
)  # fmt: skip
def test_a_file_that_is_no_batch_says_which_lines_are_wrong(stack: UpProcess, content: bytes, codes: list[str]) -> None:
    with client(stack) as sdk:
        batch = wait(sdk, begin(sdk, content).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [error.code for error in batch.errors.data] == codes
    assert batch.failed_at


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"metadata": {"a": "x" * 600}}, "metadata"),
        ({"input_file_id": "file-nobodys"}, "input_file_id"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(stack: UpProcess, fields: dict[str, Any], param: str) -> None:
    asked = {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h", **fields}
    with client(stack) as sdk, pytest.raises(openai.APIStatusError) as refused:
        sdk.batches.create(**asked)
    assert refused.value.status_code in {400, 404}
    assert str(refused.value.param).split(".")[0].split("[")[0] == param


def test_prompts_responses_and_vectors_are_answered_too(stack: UpProcess) -> None:
    def line(name: str, endpoint: str, **body: Any) -> dict[str, Any]:
        return {"custom_id": name, "method": "POST", "url": endpoint, "body": {"model": MODEL, **body}}

    with client(stack) as sdk:
        asked = {"prompt": ["One", "Two"], "max_tokens": 3, "temperature": 0}
        batch = wait(sdk, begin(sdk, jsonl([line("p", "/v1/completions", **asked)]), "/v1/completions").id)
        (told,) = lines_of(sdk, batch.output_file_id)
        alone = sdk.completions.create(model=MODEL, **asked)  # type: ignore[call-overload]
        assert [one["text"] for one in told["response"]["body"]["choices"]] == [one.text for one in alone.choices]

        lines = [line("r", "/v1/responses", input="Hello"), line("s", "/v1/responses", input="x", background=True)]
        batch = wait(sdk, begin(sdk, jsonl(lines), "/v1/responses").id)
        (told,), (wrong,) = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
        body = told["response"]["body"]
        assert sdk.responses.retrieve(body["id"]).output_text == "".join(
            part["text"] for item in body["output"] for part in item["content"]
        )
        assert wrong["response"]["body"]["error"]["param"] == "background"

        batch = wait(sdk, begin(sdk, jsonl([line("v", "/v1/embeddings", input="x")]), "/v1/embeddings").id)
        (wrong,) = lines_of(sdk, batch.error_file_id)
        assert (wrong["response"]["status_code"], batch.output_file_id) == (404, None)


def test_lines_that_are_too_much_are_errors_of_their_own(stack: UpProcess) -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    lines = [
        chat_line("long", "word " * 400_000),
        chat_line("deep", metadata={"a": deep}),
        chat_line("agent", model="agent/demo"),
        chat_line("late", max_tokens=400, ignore_eos=True, timeout_s=0.001),
        chat_line("fine"),
    ]
    with client(stack) as sdk:
        batch = wait(sdk, begin(sdk, jsonl(lines)).id)
        errors = {line["custom_id"]: line["response"] for line in lines_of(sdk, batch.error_file_id)}
        (fine,) = lines_of(sdk, batch.output_file_id)
    assert fine["custom_id"] == "fine"
    assert {name: response["status_code"] for name, response in errors.items()} == {
        "long": 400,
        "deep": 400,
        "agent": 400,
        "late": 504,
    }
    assert errors["long"]["body"]["error"]["code"] == "context_length_exceeded"


NUL = "a\0b"
ODD: dict[str, dict[str, Any]] = {
    "content": {"messages": [{"role": "user", "content": NUL}]},
    "user": {"user": NUL},
    "session": {"session_id": NUL},
    "metadata": {"metadata": {NUL: NUL}},
    "stop": {"stop": [NUL]},
    "model": {"model": NUL},
    "tool": {"tools": [{"type": "function", "function": {"name": NUL, "description": NUL, "parameters": {NUL: NUL}}}]},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": NUL, "schema": {"const": NUL}}}},
    "salt": {"cache_salt": NUL},
    "picture": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": NUL}}]}]},
    "messages": {"messages": NUL},
    "deep": {"metadata": json.loads("[" * 500 + "]" * 500)},
    "number": {"max_tokens": 1 << 62},
}


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_odd_characters_end_no_batch_and_each_line_is_told_of(stack: UpProcess, endpoint: str) -> None:
    """What Postgres takes in no text, and what JSON can spell but hardly anybody does, hangs nothing."""
    lines = [{**chat_line(f"{name}\0", **more), "url": endpoint} for name, more in ODD.items()]
    if endpoint == "/v1/responses":
        for line in lines:
            line["body"] |= {"input": line["body"].pop("messages"), "max_output_tokens": line["body"].pop("max_tokens")}
    with client(stack) as sdk:
        batch = wait(sdk, begin(sdk, jsonl([*lines, {**lines[0], "custom_id": "plain"}]), endpoint).id)
        assert batch.status == "completed"
        assert batch.request_counts.completed + batch.request_counts.failed == len(ODD) + 1
        told = lines_of(sdk, batch.output_file_id) + lines_of(sdk, batch.error_file_id)
    assert {one["custom_id"] for one in told} == {*(line["custom_id"] for line in lines), "plain"}
    assert not [one for one in told if one["response"]["status_code"] >= 500]


def slow(count: int) -> bytes:
    return jsonl([chat_line(f"c{n}", max_tokens=400, ignore_eos=True) for n in range(count)])


def test_a_batch_that_is_cancelled_keeps_what_was_answered_by_then(stack: UpProcess) -> None:
    with client(stack) as sdk:
        begun = begin(sdk, jsonl([chat_line("quick", max_tokens=1)]) + slow(400))
        wait(sdk, begun.id, lambda batch: batch.request_counts.completed)
        stopped = sdk.batches.cancel(begun.id)
        assert stopped.status in {"cancelling", "cancelled"}
        batch = wait(sdk, begun.id)
        assert (batch.status, batch.cancelled_at is None, batch.cancelling_at is None) == ("cancelled", False, False)
        answers, errors = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
        assert answers
        assert sorted(line["custom_id"] for line in answers + errors) == sorted(
            ["quick", *(f"c{n}" for n in range(400))]
        )
        assert "batch_cancelled" in {line["error"]["code"] for line in errors if line["error"] is not None}
        assert batch.request_counts.completed == len(answers)
        again = sdk.batches.cancel(begun.id)
        assert (again.status, again.cancelled_at) == ("cancelled", batch.cancelled_at)


def test_what_is_not_answered_in_time_never_is(stack: UpProcess) -> None:
    with client(stack) as sdk:
        batch = wait(sdk, begin(sdk, slow(300), window="3s").id)
        assert (batch.status, batch.expires_at) == ("expired", batch.created_at + 3)
        errors = lines_of(sdk, batch.error_file_id)
        assert "batch_expired" in {line["error"]["code"] for line in errors if line["error"] is not None}
        assert batch.request_counts.total == 300 == len(errors) + len(lines_of(sdk, batch.output_file_id))


@pytest.fixture(scope="module")
def guarded(system_folder: Path) -> Iterator[UpProcess]:
    up = start(system_folder / "batches-guarded", "--host", "0.0.0.0")
    yield up
    assert up.stop() == 0


def test_a_foreign_tenant_sees_nothing_of_files_and_batches(guarded: UpProcess) -> None:
    ours, theirs = (created(guarded, "--tenant", name)["key"] for name in ("acme", "other"))
    base = f"{url(guarded)}/v1"
    with (
        openai.OpenAI(base_url=base, api_key=ours, max_retries=0) as sdk,
        openai.OpenAI(base_url=base, api_key=theirs, max_retries=0) as foreign,
    ):
        batch = wait(sdk, begin(sdk, jsonl([chat_line("a")])).id)
        assert batch.status == "completed"
        for identity in (batch.input_file_id, batch.output_file_id):
            for ask in (foreign.files.retrieve, foreign.files.content, foreign.files.delete):
                with pytest.raises(openai.NotFoundError):
                    ask(identity)
        for look in (foreign.batches.retrieve, foreign.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                look(batch.id)
        stolen: Any = {"input_file_id": batch.input_file_id, "endpoint": batch.endpoint, "completion_window": "24h"}
        with pytest.raises(openai.NotFoundError):
            foreign.batches.create(**stolen)
        assert foreign.files.list().data == []
        assert foreign.batches.list().data == []
        assert lines_of(sdk, batch.output_file_id)


@pytest.fixture(scope="module")
def breakable(system_folder: Path) -> Iterator[UpProcess]:
    """A stack whose processes are killed, one after another, and come back."""
    up = start(system_folder / "batches-breakable")
    yield up
    assert up.stop() == 0


@pytest.mark.parametrize("slot", ["agents-0", "scheduler-0", "worker-0", "recorder-0"])
def test_a_thousand_lines_are_answered_once_each_whoever_is_killed(breakable: UpProcess, slot: str) -> None:
    count = 1000 if slot == "agents-0" else 600
    lines = [chat_line(f"c{n}", f"Say {n % 7}", max_tokens=1 + n % 3, temperature=0) for n in range(count)]
    with client(breakable) as sdk:
        begun = begin(sdk, jsonl(lines))
        for part in (4, 2) if slot == "agents-0" else (6,):
            at = count // part
            batch = wait(sdk, begun.id, lambda batch, at=at: batch.request_counts.completed >= at)  # type: ignore[misc]
            assert batch.status == "in_progress"
            os.kill(breakable.pid(slot), signal.SIGKILL)
        batch = wait(sdk, begun.id)
        assert batch.status == "completed"
        answers, errors = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
        told = [line["custom_id"] for line in answers + errors]
        assert sorted(told) == sorted(line["custom_id"] for line in lines)
        assert batch.request_counts.model_dump() == {"total": count, "completed": len(answers), "failed": len(errors)}
        if slot == "agents-0":
            assert errors == []
            assert [line["custom_id"] for line in answers] == [f"c{n}" for n in range(count)]
    verified = breakable.cli("replay", "verify", begun.id)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_connection_is_answered_while_a_batch_goes_on(stack: UpProcess) -> None:
    with client(stack) as sdk:
        begun = begin(sdk, slow(300))
        wait(sdk, begun.id, lambda batch: batch.status == "in_progress")
        answer = sdk.chat.completions.create(**chat_line("x")["body"])
        assert answer.choices[0].message is not None
        assert sdk.batches.cancel(begun.id).status in {"cancelling", "cancelled"}
        assert wait(sdk, begun.id).status == "cancelled"


def test_the_command_line_has_a_file_answered_in_the_order_of_its_lines(stack: UpProcess, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    wanted = [chat_line(f"c{n}", max_tokens=2) for n in range(5)]
    wanted[3]["body"]["top_p"] = 7
    source.write_bytes(jsonl(wanted))
    done = stack.cli("batch", "run", str(source), "-o", str(target))
    assert (done.returncode, "4 of 5 answered, 1 failed" in done.stdout) == (1, True), done.stdout + done.stderr
    told = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line["custom_id"] for line in told] == [f"c{n}" for n in range(5)]
    assert [line["response"]["status_code"] for line in told] == [200, 200, 200, 400, 200]
    listed = stack.cli("batch", "list", "--json", "--limit", "1")
    (row,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (row["status"], row["completed"], row["failed"]) == ("completed", 4, 1)
    assert "is completed" in stack.cli("batch", "cancel", row["id"]).stdout
    assert row["id"] in stack.cli("batch", "list").stdout

    source.write_text("nonsense", encoding="utf-8")
    wrong = stack.cli("batch", "run", str(source), "-o", str(target))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    source.write_bytes(jsonl([wanted[0], wanted[0]]))
    wrong = stack.cli("batch", "run", str(source), "-o", str(target))
    assert (wrong.returncode, "line 2" in wrong.stderr) == (1, True)
    assert stack.cli("batch", "cancel", "batch_none").returncode == 1
    nowhere = stack.cli("batch", "run", str(source), "-o", str(tmp_path / "no" / "where"))
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)


def test_whoever_waits_no_more_on_the_command_line_leaves_the_batch_alone(stack: UpProcess, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(slow(300))
    argv = [*OSTINATO, "batch", "run", str(source), "-o", str(target), "--data", str(stack.data)]
    with client(stack) as sdk:
        waiting = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        _, identity, *_ = waiting.stderr.readline().split()
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=30)
        assert (waiting.returncode, f"batch {identity} goes on" in told) == (130, True), told
        assert sdk.batches.retrieve(identity).status in {"validating", "in_progress"}
        sdk.batches.cancel(identity)
        assert wait(sdk, identity).status == "cancelled"
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_batch_outlives_the_whole_stack(system_folder: Path, tmp_path: Path) -> None:
    data = system_folder / tmp_path.name
    lines = [chat_line(f"c{n}", max_tokens=2, temperature=0) for n in range(300)]
    up = start(data)
    try:
        with client(up) as sdk:
            begun = begin(sdk, jsonl(lines))
            wait(sdk, begun.id, lambda batch: batch.request_counts.completed >= 50)
        # nobody says goodbye: the host goes first, then whatever it started
        for pid in [up.process.pid, *up.children()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        up.process.wait(timeout=30)
    finally:
        up.process.kill()
        up.process.communicate(timeout=30)
    again = start(data)
    try:
        with client(again) as sdk:
            batch = wait(sdk, begun.id)
            assert (batch.status, batch.error_file_id) == ("completed", None)
            answers = lines_of(sdk, batch.output_file_id)
        assert [line["custom_id"] for line in answers] == [line["custom_id"] for line in lines]
    finally:
        assert again.stop() == 0


def test_what_is_asked_in_a_batch_is_not_in_the_database_in_clear(stack: UpProcess) -> None:
    said = "quixotically"
    with client(stack) as sdk:
        batch = wait(sdk, begin(sdk, jsonl([chat_line(said, said, max_tokens=1)])).id)
        assert batch.status == "completed"

    async def stored() -> list[bytes]:
        async with await Store.open(stack.postgres_url) as store:
            parts = await store.rows("SELECT data AS found FROM file_part")
            events = await store.rows("SELECT payload AS found FROM event WHERE kind = 'batch'")
            return [bytes(row["found"]) for row in (*parts, *events)]

    found = asyncio.run(stored())
    assert len(found) > 5
    assert not [data for data in found if said.encode() in data or b"custom_id" in data]
