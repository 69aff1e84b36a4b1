"""Histories with calls of tools that were run where another model was, as official clients send back what they got."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from schemas.messages import Message, ToolCall
from tests.infra.bridge.test_responses import Client

PICTURE = "iVBORw0KGgo" * 1000
SILENT: list[dict[str, Any]] = [
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "whales"}},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PICTURE},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "sea", "tools": []},
    {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "sea", "name": "dive", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "tool_search_call", "id": "ts_1", "arguments": {"query": "dive"}},
    {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["whales"], "results": None},
]
TOLD: list[dict[str, Any]] = [
    {"type": "mcp_call", "id": "m1", "server_label": "sea", "name": "dive", "arguments": '{"m": 3}', "output": "wet"},
    {"type": "mcp_call", "id": "m2", "server_label": "sea", "name": "fly", "arguments": "{}", "error": {"code": 1}},
    {
        "type": "code_interpreter_call",
        "id": "ci_1",
        "container_id": "c",
        "status": "completed",
        "code": "1+1",
        "outputs": [{"type": "logs", "logs": "2"}, {"type": "image", "url": "https://x.example/a.png"}],
    },
    {
        "type": "file_search_call",
        "id": "fs_2",
        "status": "completed",
        "queries": ["whales"],
        "results": [{"file_id": "f1", "filename": "sea.md", "text": "They sing."}],
    },
]


def answered(kind: str, call: dict[str, Any], output: Any) -> list[dict[str, Any]]:
    given = {"call_id": f"c-{kind}", "status": "completed"}
    return [{"type": kind, "id": f"id-{kind}", **given, **call}, {"type": f"{kind}_output", **given, "output": output}]


ANSWERED = [
    *answered("shell_call", {"action": {"commands": ["ls"]}}, [{"stdout": "a\n", "stderr": "b\n", "outcome": {}}]),
    *answered("apply_patch_call", {"operation": {"type": "delete_file", "path": "a"}}, None),
    *answered("computer_call", {"action": {"type": "screenshot"}}, {"type": "computer_screenshot", "image_url": "u"}),
]


def test_what_such_a_call_came_to_is_told_where_it_says_so_and_all_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    said = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "So.", "annotations": []}],
    }
    history: list[Any] = [{"role": "user", "content": "Go."}, *SILENT, *TOLD, said, {"role": "user", "content": "on"}]
    raw = client.sdk.with_raw_response.create(model="m", input=history)
    assert raw.headers["x-ostinato-left-out"].split(", ") == list(dict.fromkeys(item["type"] for item in SILENT))
    first, turn, last = client.generate.messages
    assert (first, last) == (Message("user", "Go."), Message("user", "on"))
    assert turn.content == (
        '[sea.dive({"m": 3})]\nwet\n[sea.fly({})]\n{"code":1}\n[code that was run:\n1+1]\n2\n'
        "[files searched for whales]\nsea.md: They sing.\nSo."
    )
    listed = client.sdk.input_items.list(raw.parse().id, order="asc", limit=100).data
    kinds = {item.type for item in listed}
    assert kinds >= {"message", *(item["type"] for item in [*SILENT, *TOLD])}
    assert PICTURE not in str(listed)


def test_calls_that_a_client_answered_are_calls_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    response = client.create(input=[{"role": "user", "content": "Go."}, *ANSWERED, {"role": "user", "content": "on"}])
    turns = client.generate.messages[1:-1]
    assert [turn.tool_calls for turn in turns[::2]] == [
        (ToolCall("c-shell_call", "shell", '{"commands":["ls"]}'),),
        (ToolCall("c-apply_patch_call", "apply_patch", '{"type":"delete_file","path":"a"}'),),
        (ToolCall("c-computer_call", "computer", '{"type":"screenshot"}'),),
    ]
    assert [turn.content for turn in turns[1::2]] == ["a\nb\n", "", "[screenshot]"]
    listed = client.sdk.input_items.list(response.id, order="asc", limit=100).data
    assert [item.type for item in listed[1:-1]] == [item["type"] for item in ANSWERED]


def test_an_output_that_is_none_names_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": 1}}
    output = {"type": "function_call_output", "call_id": "c", "output": [{"text": "x"}]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.create(input=[call, output])
    assert refused.value.param == "input[1].output"
