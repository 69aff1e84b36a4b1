"""What breaks OpenAI's own stream helper, turned around: none of it is ever sent, and the helper gets through.

Where the other clients' lines are: those of the AI SDK and of AG-UI in `tests/system/test_npm_clients.py` and
`test_telling.py`, of Responses in `test_responses.py`, of Anthropic's in `test_anthropic.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from schemas.answers import Alternative
from schemas.commands import Command
from schemas.live import Delta, Frame
from schemas.messages import ToolCall
from schemas.runs import ModelFailed, Problem
from tests.infra.bridge.doors import Script, Scripted, accepted, committed, everything, plain, returned, said

ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False},
}


@contextmanager
def client(door: Scripted) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url="http://door/v1", http_client=door.http(), max_retries=0) as made:
        yield made


def chunks(door: Scripted, **more: Any) -> list[dict[str, Any]]:
    """Give a stream as it is sent."""
    body = json.dumps({**ASKED, "stream": True, "stream_options": {"include_usage": True}, **more}).encode()
    answer: httpx.Response = door.send("POST", "/v1/chat/completions", {"content-type": "application/json"}, body)
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def two(command: Command) -> list[Frame]:
    """Two answers, the second of which is heard of first."""
    first, second = said(command, "Hel", "lo")
    pieces = [
        Delta(first.subject, first.thread, first.effect, 1, 0, "Good", choice=1),
        first,
        Delta(first.subject, first.thread, first.effect, 1, 4, " day", choice=1),
        second,
    ]
    return [accepted(command), *pieces, returned(command, "Hello", more=(Alternative("Good day", "stop", ()),))]


def second_calls(command: Command) -> list[Frame]:
    """Two answers, of which only the second calls anything, and no delta told of it."""
    other = Alternative("", "tool_calls", (ToolCall("c0", "look", "{}"),))
    return [accepted(command), returned(command, "Hello", more=(other,))]


@pytest.mark.parametrize("script", [plain, everything, two, second_calls])
def test_every_chunk_is_one_that_the_helper_takes(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    told = chunks(Scripted(monkeypatch, script), n=2 if script in {two, second_calls} else 1, tools=[TOOL])
    *parts, last = told
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0
    roles, calls = list[int](), dict[tuple[int, int], int]()
    for chunk in parts:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["id"] == told[0]["id"]
        assert not chunk.get("usage")
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        assert isinstance(delta, dict)
        roles += [choice["index"]] if "role" in delta else []
        assert choice["finish_reason"] in {None, "stop", "length", "tool_calls"}
        for call in delta.get("tool_calls", ()):
            key = (choice["index"], call["index"])
            assert isinstance(call["function"]["arguments"], str)
            assert ("id" in call) == ("name" in call["function"]) == ("type" in call) == (key not in calls)
            calls[key] = calls.get(key, -1) + 1
        lists = [name for name, value in delta.items() if isinstance(value, list)]
        assert lists in ([], ["tool_calls"])
        assert not any(isinstance(value, int | float) for value in delta.values())
    assert roles == sorted(set(roles))
    assert roles == list(range(len(roles)))
    by_choice = {index: sorted(at for choice, at in calls if choice == index) for index, _ in calls}
    assert all(indexes == list(range(len(indexes))) for indexes in by_choice.values())


@pytest.mark.parametrize("script", [plain, everything, two, second_calls])
def test_the_helper_comes_to_the_whole_answer(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    wanted: Any = {**ASKED, "n": 2 if script in {two, second_calls} else 1, "tools": [TOOL]}
    with client(Scripted(monkeypatch, script)) as sdk:
        with sdk.chat.completions.stream(**wanted, stream_options={"include_usage": True}) as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_completion()
        whole = sdk.chat.completions.create(**wanted)
    for one, other in zip(streamed.choices, whole.choices, strict=True):
        assert one.message.role == "assistant"
        assert (one.message.content or "") == (other.message.content or "")
        assert one.finish_reason == other.finish_reason
        asked = [(call.id, call.function.name, call.function.arguments) for call in one.message.tool_calls or ()]
        assert asked == [
            (call.id, call.function.name, call.function.arguments)
            for call in other.message.tool_calls or ()
            if call.type == "function"
        ]
    assert streamed.usage is not None
    assert whole.usage is not None
    assert streamed.usage.total_tokens == whole.usage.total_tokens


def test_an_error_in_mid_stream_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(command: Command) -> list[Frame]:
        failed = ModelFailed(f"{command.id}-1-m", Problem("engine", "the engine is gone"))
        return [accepted(command), *said(command, "Hel"), committed(command, 2, failed)]

    with (
        client(Scripted(monkeypatch, breaks)) as sdk,
        sdk.chat.completions.stream(**ASKED) as stream,
        pytest.raises(openai.APIError, match="the engine is gone"),
    ):
        for _ in stream:
            pass
