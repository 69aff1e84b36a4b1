"""Batches as OpenAI's own client brings them to a whole stack, and what is left of them when processes are killed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from tests.system.conftest import UpProcess

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
        assert begun.status in {"validating", "in_progress"}
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
