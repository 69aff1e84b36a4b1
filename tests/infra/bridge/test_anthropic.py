"""Anthropic's own client against the bridge: what it makes of streams and answers, and what its requests become."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from infra.bridge.app import Bridge
from infra.bridge.openai import BadRequest
from infra.bridge.seals import sealed, unsealed
from schemas.commands import Command, Generate, RunAgent
from schemas.live import Frame, Outcome
from schemas.messages import Image, Message, Thought, ToolCall
from schemas.runs import Problem, RunFinished
from tests.infra.bridge.doors import (
    USAGE,
    Script,
    Scripted,
    accepted,
    committed,
    everything,
    plain,
    returned,
    said,
    thought,
)

HI: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}]


class Client:
    """The client, and the bridge that it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Script = plain) -> None:
        self.door = Scripted(monkeypatch, script)
        http = self.door.http()
        self.sdk = anthropic.Anthropic(api_key="k", base_url="http://door", http_client=http, max_retries=0)

    def create(self, **fields: Any) -> anthropic.types.Message:
        message: anthropic.types.Message = self.sdk.messages.create(
            **{
                "model": "m",
                "max_tokens": 9,
                "messages": HI,
                **fields,
            }
        )
        return message

    def final(self, **fields: Any) -> anthropic.types.Message:
        with self.sdk.messages.stream(**{"model": "m", "max_tokens": 9, "messages": HI, **fields}) as stream:
            return stream.get_final_message()  # type: ignore[no-any-return]

    def events(self, **fields: Any) -> Iterator[Any]:
        yield from self.sdk.messages.create(**{"model": "m", "max_tokens": 9, "messages": HI, "stream": True, **fields})

    @property
    def generate(self) -> Generate:
        assert isinstance(self.door.asked, Generate)
        return self.door.asked


@pytest.mark.parametrize("script", [plain, everything])
def test_a_streamed_message_and_a_whole_one_are_the_same(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    whole = Client(monkeypatch, script).create().to_dict()
    streamed = Client(monkeypatch, script).final().to_dict()
    for block in streamed["content"]:
        block.pop("parsed_output", None)
    assert streamed == whole


def test_thought_text_and_calls_are_blocks_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    message = client.final(tools=TOOLS)
    thinking, text, first, second = message.content
    assert (thinking.type, thinking.type == "thinking" and thinking.thinking) == ("thinking", "hmm")
    assert (text.type, text.type == "text" and text.text) == ("text", "I look.")
    calls = [(call.id, call.name, call.input) for call in (first, second) if call.type == "tool_use"]
    assert calls == [("c0", "look", {"at": "sky"}), ("c1", "look", {})]
    assert message.stop_reason == "tool_use"
    assert message.id == f"msg_{client.door.commands[0].id}"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 8, 5)


def test_every_block_begins_grows_and_ends_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    events = list(Client(monkeypatch, everything).events())
    assert (events[0].type, events[-2].type, events[-1].type) == ("message_start", "message_delta", "message_stop")
    open_block, numbers = None, []
    for event in events:
        if event.type == "content_block_start":
            assert open_block is None
            open_block = event.index
            numbers.append(event.index)
        elif event.type == "content_block_delta":
            assert event.index == open_block
        elif event.type == "content_block_stop":
            assert event.index == open_block
            open_block = None
    assert numbers == [0, 1, 2, 3]
    assert open_block is None


def test_every_event_has_its_name_and_there_is_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Client(monkeypatch).door
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": HI, "stream": True}).encode()
    answer = door.send("POST", "/v1/messages", body=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    names, kinds = [], []
    for event in answer.text.strip().split("\n\n"):
        name, data = event.split("\n")
        names.append(name.removeprefix("event: "))
        kinds.append(json.loads(data.removeprefix("data: "))["type"])
    assert names == kinds
    assert "ping" in names


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens")])
def test_why_an_answer_ends_is_told(monkeypatch: pytest.MonkeyPatch, finish: str, reason: str) -> None:
    client = Client(monkeypatch, lambda command: [accepted(command), returned(command, "Hello", finish)])
    assert client.create().stop_reason == reason
    assert client.final().stop_reason == reason


def test_which_text_ended_an_answer_is_told_to_whoever_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"stopped_at": "\n\nHuman:"}
    client = Client(monkeypatch, lambda command: [accepted(command), returned(command, "Hello", "stop", **ended)])
    for message in (client.create(stop_sequences=["x", "\n\nHuman:"]), client.final(stop_sequences=["\n\nHuman:"])):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "\n\nHuman:")
    theirs = client.create(stop_sequences=["x"])
    assert (theirs.stop_reason, theirs.stop_sequence) == ("end_turn", None)


def test_a_call_that_was_cut_off_is_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = (ToolCall("c0", "look", '{"at": "s'),)
    client = Client(monkeypatch, lambda command: [accepted(command), returned(command, "So", "length", cut_off=cut)])
    message = client.create()
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "max_tokens"


def test_thinking_that_nobody_wants_is_not_told_and_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    message = client.create(thinking={"type": "disabled"})
    assert "thinking" not in [block.type for block in message.content]
    assert client.generate.chat_template_kwargs == {"enable_thinking": False}


def test_a_budget_of_thinking_is_the_engine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    client.create(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    assert client.generate.thinking_token_budget == 1024
    assert client.generate.chat_template_kwargs == {"enable_thinking": True}


def test_what_a_provider_wants_back_of_its_thoughts_goes_through_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    thoughts = (Thought("claude", 3, "seal"),)

    def sealing(command: Command) -> list[Frame]:
        return [
            accepted(command),
            *thought(command, "hmm"),
            returned(command, "So", reasoning="hmm", thoughts=thoughts),
        ]

    client = Client(monkeypatch, sealing)
    message = client.final()
    assert [block.type for block in message.content] == ["thinking", "text", "redacted_thinking"]
    answered = {"role": "assistant", "content": message.content}
    client.create(messages=[*HI, answered, {"role": "user", "content": "on"}])
    assert client.generate.messages[1] == Message("assistant", "So", reasoning="hmm", thoughts=thoughts)


@pytest.mark.parametrize("data", ["theirs", "ostinato:@@", sealed(())[:-1] + "x"])
def test_thoughts_of_others_are_nothing(data: str) -> None:
    assert unsealed(data) == ()


def test_a_turn_with_calls_and_their_results_becomes_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "What is up?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "theirs"},
                    {"type": "redacted_thinking", "data": "theirs"},
                    {"type": "tool_use", "id": "c0", "name": "look", "input": {"at": "sky"}},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c0", "content": [{"type": "text", "text": "blue"}]},
                    {"type": "tool_result", "tool_use_id": "c1", "content": "no", "is_error": True},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        tools=TOOLS,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
    )
    asked = client.generate
    calls = (ToolCall("c0", "look", '{"at": "sky"}'), ToolCall("c1", "look", "{}"))
    assert asked.messages == (
        Message("system", "Be brief."),
        Message("user", "What is up?"),
        Message("assistant", tool_calls=calls, reasoning="hm"),
        Message("tool", "blue", tool_call_id="c0"),
        Message("tool", "error: no", tool_call_id="c1"),
        Message("user", "Well?"),
    )
    assert (asked.max_tokens, asked.stop, asked.tool_choice, asked.parallel_tool_calls) == (
        9,
        ("END",),
        "required",
        False,
    )
    assert [tool.name for tool in asked.tools] == ["look"]


def test_images_of_a_tool_s_result_are_shown_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image: Any = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    texts: Any = [{"type": "text", "text": "Here: "}, image]
    client = Client(monkeypatch)
    client.create(
        messages=[
            *HI,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c0", "name": "look", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c0", "content": texts},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        tools=TOOLS,
    )
    told, shown = client.generate.messages[-2:]
    assert told == Message("tool", "Here: [image]", tool_call_id="c0")
    assert (shown.role, shown.content) == ("user", "[images of the result of c0]Well?")
    assert [(one.url, one.rest) for one in shown.images] == [("https://example.com/a.png", len("Well?"))]


def test_one_tool_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(tools=TOOLS, tool_choice={"type": "tool", "name": "look"})
    assert (client.generate.tool_choice, client.generate.tool) == ("required", "look")


RESULT: Any = {"type": "tool_result", "tool_use_id": "t"}
HOSTED: Any = [
    {"type": "web_search_20260209", "name": "web_search"},
    {"type": "bash_20250124", "name": "bash"},
    {"type": "web_search_20250305", "name": "web_search"},
]


def test_tools_that_are_run_where_other_models_are_are_left_out_and_the_answer_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client(monkeypatch)
    asked: Any = {"model": "m", "max_tokens": 9, "messages": HI}
    raw = client.sdk.messages.with_raw_response.create(**asked, tools=[*HOSTED, *TOOLS])
    assert [tool.name for tool in client.generate.tools] == ["look"]
    assert raw.headers["x-ostinato-left-out"] == "web_search, bash"
    client.create(tools=HOSTED)
    assert not client.generate.tools
    assert "x-ostinato-left-out" not in client.sdk.messages.with_raw_response.create(**asked, tools=TOOLS).headers
    own = {**TOOLS[0], "type": "custom", "name": "bash"}
    client.create(tools=[own])
    assert [tool.name for tool in client.generate.tools] == ["bash"]


@pytest.mark.parametrize(
    ("tools", "choice"),
    [(HOSTED, {"type": "any"}), ([*HOSTED, *TOOLS], {"type": "tool", "name": "bash"})],
)
def test_where_one_that_is_left_out_must_be_called_the_request_is_refused(
    monkeypatch: pytest.MonkeyPatch, tools: Any, choice: Any
) -> None:
    client = Client(monkeypatch)
    with pytest.raises(anthropic.BadRequestError, match="tool_choice: tools of type 'web_search', 'bash' are not run"):
        client.create(tools=tools, tool_choice=choice)
    client.create(tools=[*HOSTED, *TOOLS], tool_choice={"type": "any"})
    assert (client.generate.tool_choice, [tool.name for tool in client.generate.tools]) == ("required", ["look"])


def test_an_answer_goes_on_with_the_assistant_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(messages=[*HI, {"role": "assistant", "content": "Once"}])
    assert client.generate.continue_final_message is True


@pytest.mark.parametrize("named", ["output_config", "output_format"])  # older clients send the latter
def test_an_answer_may_be_bound_to_a_schema(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    client = Client(monkeypatch)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "schema": schema}
    client.create(extra_body={named: {"format": form} if named == "output_config" else form})
    wanted = client.generate.structured
    assert wanted is not None
    assert json.loads(wanted.text) == schema


def test_an_agent_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Command) -> list[Frame]:
        return [accepted(command), *said(command, "Hello"), committed(command, 3, RunFinished("Hello", 1, USAGE))]

    client = Client(monkeypatch, run)
    message = client.final(model="agent/demo")
    assert [block.text for block in message.content if block.type == "text"] == ["Hello"]
    assert (message.stop_reason, message.id) == ("end_turn", f"msg_{client.door.commands[0].id}")
    assert isinstance(client.door.asked, RunAgent)


def test_a_picture_is_shown_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    source = {"type": "url", "url": "https://example.com/cat.png"}
    parts = [{"type": "text", "text": "See"}, {"type": "image", "source": source}, {"type": "text", "text": "this"}]
    client.create(messages=[{"role": "user", "content": parts}])
    picture = Image(url="https://example.com/cat.png", rest=4)
    assert client.generate.messages == (Message("user", "Seethis", images=(picture,)),)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]}]},
            "messages[0].content",
        ),
        *(
            ({"messages": [{"role": "user", "content": [{**RESULT, "content": content}]}]}, "messages[0].content")
            for content in ([{"type": "text", "text": 5}], [{"text": "x"}], [5])
        ),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
        ({"tools": [{"type": "web_serach_20260209", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [*HOSTED, {"name": "look"}]}, "tools[3]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]},
            "messages[0].content",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], param: str
) -> None:
    client = Client(monkeypatch)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.create(**fields)
    body: Any = refused.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert body["error"]["message"].startswith(f"{param}:")
    assert body["error"]["param"] == param
    assert not client.door.commands


def test_a_picture_that_is_none_is_refused_by_the_place_of_its_message_and_not_of_what_that_became(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"no picture").decode()}
    told = [{"role": "user", "content": [{"type": "image", "source": source}]}]

    async def refuses(desk: Any, command: Command) -> Command:
        raise BadRequest(400, "messages[1].content: image_url: it is no picture", "messages[1].content", "bad_picture")

    client = Client(monkeypatch)
    monkeypatch.setattr(Bridge, "ready", refuses)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.create(system="Look.", messages=told)
    error: Any = refused.value.body["error"]  # type: ignore[index]
    assert error["message"] == "messages[0].content: image_url: it is no picture"
    assert error["param"] == "messages[0].content"


SEARCHED: Any = [{"type": "web_search_result", "title": "Tea", "url": "https://a.example/", "encrypted_content": "e"}]
READ: Any = {
    "type": "web_fetch_result",
    "url": "https://b.example/",
    "content": {"source": {"type": "text", "data": "It is."}},
}
RAN: Any = {"type": "bash_code_execution_result", "stdout": "4", "stderr": "", "return_code": 0}


def test_what_tools_came_to_elsewhere_is_told_where_it_is_words(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    call: Any = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "tea"}}
    came: Any = [
        ("web_search_tool_result", SEARCHED),
        ("web_fetch_tool_result", READ),
        ("bash_code_execution_tool_result", RAN),
        ("mcp_tool_result", [{"type": "text", "text": "Sunny."}]),
        ("web_search_tool_result", {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}),
        ("tool_search_tool_result", {"type": "tool_search_tool_search_result", "tool_references": []}),
    ]
    results: Any = [{"type": kind, "tool_use_id": "s1", "content": content} for kind, content in came]
    blocks: Any = [{"type": "text", "text": "I look. "}, call, *results, {"type": "text", "text": "Green."}]
    history = [*HI, {"role": "assistant", "content": blocks}, *HI]
    raw = client.sdk.messages.with_raw_response.create(model="m", max_tokens=9, messages=history)
    assert raw.headers["x-ostinato-left-out"] == "web_search_tool_result, tool_search_tool_result"
    assert client.generate.messages[1].content == (
        "I look. [the web was searched]\nTea: https://a.example/\n[https://b.example/ was read]\nIt is.\n"
        "[code was run]\n4\n[a tool answered]\nSunny.\nGreen."
    )


def test_a_refusal_is_the_client_s_own_error_and_names_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("unknown_model", "no such model", "model")
    client = Client(monkeypatch, lambda command: [Outcome(command.id, "refused", command.thread, problem)])
    for ask in (client.create, client.final):
        with pytest.raises(anthropic.NotFoundError) as refused:
            ask()
        assert "no such model" in str(refused.value)
        assert refused.value.request_id
        assert refused.value.type == "not_found_error"


def test_whatever_its_client_asks_for_the_request_is_named_as_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    assert client.create()._request_id
    for ask in (
        lambda: client.create(messages=[]),
        lambda: client.sdk.messages.count_tokens(model="agent/demo", messages=HI),
        lambda: client.sdk.models.retrieve("none"),
        client.sdk.messages.batches.list,
    ):
        with pytest.raises(anthropic.APIStatusError) as refused:
            ask()
        assert refused.value.request_id == refused.value.response.headers["x-request-id"]
    assert "request-id" not in client.door.http().get("/version").headers


def test_an_answer_that_breaks_off_is_an_error_in_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        monkeypatch, lambda command: [accepted(command), *said(command, "Hel"), returned(command, "Hel", "error")]
    )
    with pytest.raises(anthropic.APIStatusError) as broken:
        client.final()
    assert "broken off" in str(broken.value)


def test_who_asks_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(metadata={"user_id": "ada"})
    assert client.generate.note == {"user": "ada"}
