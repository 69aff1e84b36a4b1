"""Custom tools: functions to the model, and to clients what they offered; hosted ones are left out, and it is told."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bridge.custom import InputReader
from infra.bridge.openai import BadRequest, command_data, read_request
from schemas.commands import Command, Generate
from schemas.live import Frame
from schemas.messages import Message, ToolCall
from tests.infra.bridge.doors import Scripted, accepted, called, returned
from tests.infra.bridge.test_responses import TOOL, Client

TEXT = 'Say "hi"\n\\ \U0001f600!'
SPLIT = json.dumps({"input": TEXT})
CUSTOM: Any = {"type": "custom", "name": "run", "description": "Runs code."}
REGEX: Any = {**CUSTOM, "format": {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}}


def calling(command: Command) -> list[Frame]:
    """Two calls of a custom tool, and one of a function between them."""
    calls = (ToolCall("c0", "run", SPLIT), ToolCall("c1", "look", "{}"), ToolCall("c2", "run", '{"input": ""}'))
    return [
        accepted(command),
        *called(command, 0, "c0", "run", *SPLIT),
        *called(command, 1, "c1", "look", "{}"),
        returned(command, "", "tool_calls", tool_calls=calls),
    ]


@given(
    text=st.text(),
    ascii_alone=st.booleans(),
    spaces=st.sampled_from(["", " ", "\n  "]),
    cuts=st.lists(st.integers(0, 200)),
)
def test_what_a_tool_is_called_with_is_read_however_it_comes(
    text: str, ascii_alone: bool, spaces: str, cuts: list[int]
) -> None:
    written = f'{spaces}{{{spaces}"input"{spaces}:{spaces}{json.dumps(text, ensure_ascii=ascii_alone)}{spaces}}}'
    places = sorted({0, len(written), *(cut for cut in cuts if cut < len(written))})
    reader = InputReader()
    pieces = [reader.feed(written[start:end]) for start, end in pairwise(places)]
    assert "".join(pieces) + reader.end() == text
    assert reader.end() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"other": 1, "input": "a"}', "a"),
        ('{"code": "a"}', '{"code": "a"}'),
        ('{"input": 5}', '{"input": 5}'),
        ("*** Begin", "*** Begin"),
        ('{"inp', '{"inp'),
        ("", ""),
        ('{"input": "cut o', "cut o"),
        (r'{"input": "half \ud83d of a pair, and \q"}', "half \ufffd of a pair, and \\q"),
        (r'{"a": 1, "input": "\ud83d"}', "?"),
        ("[" * 100_000, "[" * 100_000),
        ('{"input": "' + r"\q" * 50_000 + '"}', r"\q" * 50_000),
    ],
)
def test_what_no_model_should_write_is_text_all_the_same(arguments: str, text: str) -> None:
    reader = InputReader()
    assert reader.feed(arguments) + reader.end() == text
    assert reader.feed("more") == ""


def chat(**fields: Any) -> Generate:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    data = command_data(read_request(json.dumps(body).encode()), None)
    assert isinstance(data, Generate)
    return data


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, **more}}


def test_to_a_model_it_is_a_function_with_one_text() -> None:
    (tool,) = chat(tools=[named("run", description="Runs code.")]).tools
    shape = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    assert (tool.name, tool.description, tool.strict) == ("run", "Runs code.", False)
    assert tool.parameters == {**shape, "additionalProperties": False}


@pytest.mark.parametrize(
    ("syntax", "definition"), [("lark", "start: LETTER+\n%import common.LETTER"), ("regex", "[a-zA-Z]+")]
)
def test_a_grammar_binds_the_text_and_is_told_to_the_model(syntax: str, definition: str) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    (tool,) = chat(tools=[named("run", format=grammar)]).tools
    assert tool.strict
    assert "[a-zA-Z]" in tool.parameters["properties"]["input"]["pattern"]
    assert definition in tool.description


@pytest.mark.parametrize(
    ("syntax", "definition", "told"),
    [
        ("lark", 'start: "(" start ")"', "'start' holds itself"),
        ("lark", 'start: "a"\n%ignore " "', "%ignore"),
        ("lark", "", "no rule 'start'"),
        ("regex", "(a", "unclosed group"),
        ("regex", "a)|(?:b", "unopened group"),
        ("regex", "(?=a)b", "look-ahead"),
        ("regex", "a" * 40_000, "more than 8192 characters"),
    ],
)
def test_a_grammar_that_no_argument_can_be_bound_to_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, syntax: str, definition: str, told: str
) -> None:
    grammar = {"syntax": syntax, "definition": definition}
    with pytest.raises(BadRequest, match="give one without what is named") as refused:
        chat(tools=[TOOLS[0], named("run", format={"type": "grammar", "grammar": grammar})])
    assert refused.value.body.error.param == "tools[1].custom.format.grammar.definition"
    assert told in refused.value.body.error.message
    client = Client(monkeypatch)
    with pytest.raises(openai.BadRequestError) as response:
        client.create(tools=[TOOL, {**CUSTOM, "format": {"type": "grammar", **grammar}}])
    assert response.value.param == "tools[1].format.definition"
    # of tools that are left out the others keep their numbers
    with pytest.raises(openai.BadRequestError) as response:
        client.create(tools=[{"type": "web_search"}, {**CUSTOM, "format": {"type": "grammar", **grammar}}])
    assert response.value.param == "tools[1].format.definition"


TOOLS: Any = [{"type": "function", "function": {"name": "look"}}, named("run"), named("go")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [named("")]}, "tools[0].custom.name"),
        ({"tools": [{**TOOLS[0], **named("run"), "type": "function"}]}, "tools[0]"),
        ({"tools": [named("run", format={"type": "grammar"})]}, "tools[0].custom.format.grammar"),
        ({"tools": [named("run", format={"type": "xml"})]}, "tools[0].custom.format.type"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "name": "run"}}, "tool_choice"),
    ],
)
def test_a_tool_that_is_none_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**fields)
    assert refused.value.body.error.param == param


def test_so_many_grammars_are_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(tools=[REGEX] * 16 + [CUSTOM] * 20)
    with pytest.raises(openai.BadRequestError, match="at most 16") as refused:
        client.create(tools=[*[REGEX] * 16, CUSTOM, REGEX])
    assert refused.value.param == "tools[17].format"


def test_one_may_be_chosen_and_some_may_be_allowed() -> None:
    asked = chat(tools=TOOLS, tool_choice=named("run"))
    assert (asked.tool_choice, asked.tool) == ("required", "run")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("go"), TOOLS[0]]}}
    assert [tool.name for tool in chat(tools=TOOLS, tool_choice=allowed).tools] == ["look", "go"]


def test_in_a_chat_what_it_was_called_with_comes_back_as_the_function_s_arguments() -> None:
    calls = [{"id": "c0", "type": "custom", "custom": {"name": "run", "input": TEXT}}]
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": calls}]
    asked = chat(messages=[*said, {"role": "tool", "tool_call_id": "c0", "content": "ran"}], tools=TOOLS)
    (call,) = asked.messages[1].tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("c0", "run", {"input": TEXT})


def test_a_chat_is_told_the_same_streamed_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Scripted(monkeypatch, calling)
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    with openai.OpenAI(api_key="k", base_url="http://door/v1", http_client=door.http(), max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**asked, service_tier="priority")
        chunks = [chunk.to_dict() for chunk in sdk.chat.completions.create(**asked, stream=True)]
    deltas: list[Any] = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
    begun = [(one["index"], one["id"], one["type"], one[one["type"]]["name"]) for one in deltas if "id" in one]
    assert begun == [(0, "c0", "custom", "run"), (1, "c1", "function", "look"), (2, "c2", "custom", "run")]
    pieces = [one["custom"]["input"] for one in deltas if one["index"] == 0]
    assert (len(pieces) > 10, "".join(pieces)) == (True, TEXT)
    message = whole.choices[0].message
    assert [call.to_dict() for call in message.tool_calls or ()] == [
        {"id": "c0", "type": "custom", "custom": {"name": "run", "input": TEXT}},
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "c2", "type": "custom", "custom": {"name": "run", "input": ""}},
    ]
    assert whole.service_tier == "default"


def test_a_response_tells_of_it_in_events_of_its_own_and_the_same_whenever_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(monkeypatch, calling)
    events = list(client.sdk.create(model="m", input="hi", stream=True, tools=[CUSTOM, TOOL]))
    of_first = [event for event in events if getattr(event, "output_index", None) == 0]
    kinds = list(dict.fromkeys(event.type for event in of_first))
    assert kinds == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    assert "".join(event.delta for event in of_first if event.type.endswith("delta")) == TEXT
    assert [event.input for event in of_first if event.type.endswith("input.done")] == [TEXT]
    final = events[-1].response  # type: ignore[union-attr]
    names = {event.item_id for event in of_first if hasattr(event, "item_id")}
    assert names == {final.output[0].id} != {None}
    told = [(one.type, one.call_id, one.name) for one in final.output]
    custom = "custom_tool_call"
    assert told == [(custom, "c0", "run"), ("function_call", "c1", "look"), (custom, "c2", "run")]
    assert [one.input for one in final.output if one.type == custom] == [TEXT, ""]
    assert final.tools[0].to_dict() == CUSTOM
    assert client.sdk.retrieve(final.id).to_dict() == final.to_dict()
    whole = client.create(tools=[CUSTOM, TOOL])
    ids = [one.id.removeprefix("ctc_").removeprefix("fc_") for one in whole.output]  # type: ignore[union-attr]
    assert ids == [f"{client.door.commands[-1].id}_{at}" for at in range(3)]
    with client.sdk.stream(model="m", input="hi", tools=[CUSTOM, TOOL]) as stream:
        helped = stream.get_final_response()
    assert [one.type for one in helped.output] == [one.type for one in final.output]


def test_one_that_was_cut_off_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(command: Command) -> list[Frame]:
        calls = (ToolCall("c0", "run", '{"input": "ab'),)
        pieces = called(command, 0, "c0", "run", '{"input": "a', "b")
        return [accepted(command), *pieces, returned(command, "", "length", cut_off=calls)]

    (call,) = Client(monkeypatch, cut).events(tools=[CUSTOM])[-1].response.output
    assert (call.type, call.input, call.status) == ("custom_tool_call", "ab", "incomplete")


RESULTS: Any = [
    {"type": "custom_tool_call_output", "call_id": "c0", "output": "ran"},
    {"type": "function_call_output", "call_id": "c1", "output": "blue"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "nothing"}]},
]


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_called_and_what_came_of_it_are_read_again(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    client = Client(monkeypatch, calling)
    first = client.create(tools=[REGEX, TOOL], store=kept)
    if kept:
        second = client.create(previous_response_id=first.id, input=RESULTS, tools=[REGEX, TOOL])
    else:
        history = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output), *RESULTS]
        second = client.create(input=history, tools=[REGEX, TOOL], store=False)
    hi, called_, *results = client.generate.messages
    assert hi == Message("user", "hi")
    assert [json.loads(call.arguments) for call in called_.tool_calls] == [{"input": TEXT}, {}, {"input": ""}]
    assert [(one.tool_call_id, one.content) for one in results] == [("c0", "ran"), ("c1", "blue"), ("c2", "nothing")]
    if kept:
        listed = [item.to_dict() for item in client.sdk.input_items.list(second.id, order="asc").data]
        assert [item["type"] for item in listed] == [item["type"] for item in RESULTS]


def test_a_local_shell_s_calls_are_read_and_listed_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    action = {"type": "exec", "command": ["ls", "-l"], "env": {}}
    calls: Any = [
        {"role": "user", "content": "hi"},
        {"type": "local_shell_call", "id": "l0", "call_id": "c0", "status": "completed", "action": action},
        {"type": "local_shell_call_output", "id": "c0", "output": "a.txt"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "run", "input": TEXT},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "ran"},
    ]
    response = client.create(input=calls, tools=[{"type": "local_shell"}, CUSTOM])
    _, shell, output, *_ = client.generate.messages
    assert (shell.tool_calls[0].name, json.loads(shell.tool_calls[0].arguments)) == ("local_shell", action)
    assert (output.tool_call_id, output.content) == ("c0", "a.txt")
    listed: Any = [item.to_dict() for item in client.sdk.input_items.list(response.id, order="asc").data]
    assert [item["type"] for item in listed] == ["message", *(item["type"] for item in calls[1:])]
    assert (listed[1]["action"], listed[3]["input"]) == (action, TEXT)


HOSTED: Any = [
    {"type": "web_search"},
    TOOL,
    {"type": "namespace", "name": "mcp", "description": "Theirs.", "tools": []},
    {"type": "web_search_preview_2025_03_11"},
    {"type": "image_generation"},
    {"type": "web_search"},
]
LEFT_OUT = "web_search, namespace, web_search_preview, image_generation"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("choice", [None, "auto", "none", "required", {"type": "function", "name": "look"}])
def test_what_is_not_run_here_is_left_out_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, choice: Any, stream: bool
) -> None:
    client = Client(monkeypatch)
    given_ = {} if choice is None else {"tool_choice": choice}
    # what clients add of themselves to tools that are run elsewhere
    given_["include"] = ["web_search_call.action.sources", "code_interpreter_call.outputs", "file_search_call.results"]
    raw = client.sdk.with_raw_response.create(model="m", input="hi", tools=HOSTED, stream=stream, **given_)
    assert raw.headers["x-ostinato-left-out"] == LEFT_OUT
    assert [tool.name for tool in client.generate.tools] == ["look"]
    answer: Any = raw.parse()
    response = list(answer)[-1].response if stream else answer
    assert [tool.name for tool in response.tools] == ["look"]
    assert "x-ostinato-left-out" not in client.sdk.with_raw_response.create(model="m", input="hi").headers


def test_of_what_is_allowed_something_must_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.create(tools=HOSTED, tool_choice=allowed)
    assert refused.value.param == "tool_choice"
    client.create(tools=HOSTED, tool_choice={**allowed, "mode": "auto"})
    assert not client.generate.tools
    client.create(tools=[CUSTOM, TOOL], tool_choice={"type": "custom", "name": "run"})
    assert (client.generate.tool_choice, client.generate.tool) == ("required", "run")


def test_how_much_is_thought_and_said_reaches_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(reasoning_effort="none").chat_template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}
    assert chat(reasoning_effort="xhigh", verbosity="low").chat_template_kwargs == {
        "reasoning_effort": "xhigh",
        "verbosity": "low",
    }
    asked = chat(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert asked.chat_template_kwargs["enable_thinking"]
    client = Client(monkeypatch)
    response = client.create(reasoning={"effort": "none"}, text={"verbosity": "high"}, service_tier="flex")
    wanted = {"reasoning_effort": "none", "enable_thinking": False, "verbosity": "high"}
    assert client.generate.chat_template_kwargs == wanted
    assert response.service_tier == "default"
    assert response.text is not None
    assert response.text.verbosity == "high"
