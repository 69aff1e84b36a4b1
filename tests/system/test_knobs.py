"""vLLM's further fields of requests, on a whole stack: usage in every chunk, and names of requests."""

from __future__ import annotations

import datetime
import json
from typing import Any

import httpx
import pytest

from tests.system.conftest import UpProcess, ask

pytestmark = pytest.mark.servers

MODEL = "ostinato-mini"
OFTEN = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def told(up: UpProcess, path: str, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    answer = httpx.post(f"{up.url}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def counted(chunks: list[dict[str, Any]], n: int) -> dict[int, list[tuple[int, int]]]:
    """Of each choice, what its chunks say that prompt and answer took; the last chunk's usage is that of all."""
    *parts, last = chunks
    taken: dict[int, list[tuple[int, int]]] = {}
    for part in parts:
        (choice,) = part["choices"]
        assert "token_ids" not in choice
        assert not {"prompt_token_ids"} & {*part, *choice}
        usage = part["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        taken.setdefault(choice["index"], []).append((usage["prompt_tokens"], usage["completion_tokens"]))
    for one in taken.values():
        assert one == sorted(one)
        assert len({prompt for prompt, _ in one}) == 1
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == sum(one[-1][1] for one in taken.values())
    assert last["usage"]["prompt_tokens"] == sum(taken[first][-1][0] for first in range(0, len(taken), n))
    return taken


def test_each_chunk_of_a_chat_says_what_its_answer_took_by_then(stack: UpProcess) -> None:
    body = ask("Say something long.", MODEL, max_tokens=120, n=2, ignore_eos=True, **OFTEN)
    taken = counted(told(stack, "/v1/chat/completions", body), 2)
    assert {len(set(one)) > 1 for one in taken.values()} == {True}
    assert {one[-1][1] for one in taken.values()} == {120}


def test_so_does_each_of_a_completion_with_several_prompts(stack: UpProcess) -> None:
    body = {"model": MODEL, "prompt": ["I have", "What is the time of the day?"], "max_tokens": 9, "n": 2, **OFTEN}
    taken = counted(told(stack, "/v1/completions", body | {"ignore_eos": True}), 2)
    assert sorted(taken) == [0, 1, 2, 3]
    assert taken[0][0][0] == taken[1][0][0] < taken[2][0][0] == taken[3][0][0]


def test_tokens_that_are_wanted_come_all_the_same(stack: UpProcess) -> None:
    chunks = told(stack, "/v1/chat/completions", ask("Hi!", MODEL, max_tokens=6, return_token_ids=True, **OFTEN))
    tokens = [token for part in chunks[:-1] for token in part["choices"][0].get("token_ids", ())]
    assert len(tokens) == chunks[-1]["usage"]["completion_tokens"]


def test_of_an_agent_s_run_nobody_knows_it_before_the_end(stack: UpProcess) -> None:
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=ask("Hi!", **OFTEN), timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream_options.continuous_usage_stats")


def test_models_say_since_when_they_are_there(stack: UpProcess) -> None:
    listed = httpx.get(f"{stack.url}/v1/models", timeout=60).json()["data"]
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=ask("Hi!", MODEL, max_tokens=1), timeout=60).json()
    (since,) = {one["created"] for one in listed}
    assert 0 <= answer["created"] - since < 86_400
    told = httpx.get(f"{stack.url}/v1/models/{MODEL}", timeout=60).json()
    assert (told["created"], told["created_at"]) == (since, listed[0]["created_at"])
    assert datetime.datetime.fromisoformat(told["created_at"]).timestamp() == since


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_body_names_its_request_where_no_header_does(stack: UpProcess, path: str) -> None:
    body = {"model": MODEL, "prompt": "I", "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 1}

    def named(name: str, **headers: str) -> httpx.Response:
        return httpx.post(f"{stack.url}{path}", json=body | {"request_id": name}, headers=headers, timeout=60)

    assert named("bench-7").headers["x-request-id"] == "bench-7"
    assert named("bench-7", **{"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    refused = named("no name\r\nx: y")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "request_id")
