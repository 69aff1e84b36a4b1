"""OpenAI's own client against the bridge's responses: streams, whole ones, and those that are asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from infra.bridge.responses.retelling import Retold, told_again
from schemas.answers import TokenTold
from schemas.commands import AbortRun, Command, Generate, RunAgent
from schemas.live import Delta, Frame, Outcome
from schemas.messages import Message, Thought, ToolCall
from schemas.runs import ModelFailed, Problem, RunFinished
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

TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}


def cut(command: Command) -> list[Frame]:
    return [accepted(command), *said(command, "Hel"), returned(command, "Hel", "length")]


def run(command: Command) -> list[Frame]:
    end = committed(command, 3, RunFinished("Hello", 1, USAGE))
    return [accepted(command), *said(command, "Hello"), returned(command, "Hello"), end]


class Client:
    """The client, and the bridge that it asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Script = plain) -> None:
        self.door = Scripted(monkeypatch, script)
        self.sdk = openai.OpenAI(
            api_key="k", base_url="http://door/v1", http_client=self.door.http(), max_retries=0
        ).responses

    def create(self, **fields: Any) -> Response:
        response: Response = self.sdk.create(**{"model": "m", "input": "hi", **fields})
        return response

    def events(self, **fields: Any) -> list[Any]:
        with self.sdk.stream(**{"model": "m", "input": "hi", **fields}) as stream:
            return list(stream)

    @property
    def generate(self) -> Generate:
        assert isinstance(self.door.asked, Generate)
        return self.door.asked


@pytest.mark.parametrize("script", [plain, everything])
def test_streamed_whole_and_asked_for_again_it_is_the_same(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    client = Client(monkeypatch, script)
    events = client.events()
    streamed = events[-1].response
    again = client.sdk.retrieve(streamed.id).to_dict()
    told = streamed.to_dict()
    for item in told["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert again == told
    whole = client.create().to_dict()
    assert [item["type"] for item in whole["output"]] == [item["type"] for item in told["output"]]


def test_items_have_one_id_each_wherever_they_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    events = Client(monkeypatch, everything).events()
    added = {event.output_index: event.item.id for event in events if event.type == "response.output_item.added"}
    done = {event.output_index: event.item.id for event in events if event.type == "response.output_item.done"}
    final = events[-1].response
    assert added == done == {at: item.id for at, item in enumerate(final.output)}
    named = {(event.output_index, event.item_id) for event in events if hasattr(event, "item_id")}
    assert named <= set(added.items())
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}


def test_events_are_numbered_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    events = list(Client(monkeypatch, everything).sdk.create(model="m", input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"


def test_thought_text_and_calls_are_items(monkeypatch: pytest.MonkeyPatch) -> None:
    response = Client(monkeypatch, everything).events(tools=[TOOL])[-1].response
    thinking, message, *calls = response.output
    assert thinking.content[0].text == "hmm"
    assert response.output_text == message.content[0].text == "I look."
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [
        ("c0", "look", {"at": "sky"}),
        ("c1", "look", {}),
    ]
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 5, 15)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (8, 2)


def test_an_answer_that_was_cut_off_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, cut)
    events = client.events()
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert client.create().output[0].status == "incomplete"  # type: ignore[union-attr]


def test_a_conversation_goes_on_from_an_earlier_response(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    first = client.create(instructions="Be brief.", tools=[TOOL])
    results = [{"type": "function_call_output", "call_id": name, "output": "blue"} for name in ("c0", "c1")]
    client.create(previous_response_id=first.id, input=results, instructions="Be long.")
    calls = (ToolCall("c0", "look", '{"at": "sky"}'), ToolCall("c1", "look", "{}"))
    assert client.generate.messages == (
        Message("system", "Be long."),
        Message("user", "hi"),
        Message("assistant", "I look.", calls, None, "hmm"),
        Message("tool", "blue", tool_call_id="c0"),
        Message("tool", "blue", tool_call_id="c1"),
    )


def test_the_same_goes_without_anything_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    first = client.create(store=False, include=["reasoning.encrypted_content"])
    history: list[Any] = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output)]
    results = [{"type": "function_call_output", "call_id": name, "output": "blue"} for name in ("c0", "c1")]
    client.create(store=False, input=[*history, *results])
    calls = (ToolCall("c0", "look", '{"at": "sky"}'), ToolCall("c1", "look", "{}"))
    assert client.generate.messages[1] == Message("assistant", "I look.", calls, None, "hmm")
    with pytest.raises(openai.NotFoundError):
        client.sdk.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as refused:
        client.create(previous_response_id=first.id)
    assert refused.value.param == "previous_response_id"


def test_what_a_provider_wants_back_of_its_thoughts_goes_through_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    thoughts = (Thought("claude", 3, "seal"),)

    def sealing(command: Command) -> list[Frame]:
        answer = returned(command, "So", reasoning="hmm", thoughts=thoughts)
        return [accepted(command), *thought(command, "hmm"), answer]

    client = Client(monkeypatch, sealing)
    first = client.create(store=False, include=["reasoning.encrypted_content"])
    client.create(input=[*(item.to_dict() for item in first.output), {"role": "user", "content": "on"}])
    assert client.generate.messages[0] == Message("assistant", "So", reasoning="hmm", thoughts=thoughts)


def test_an_agent_goes_on_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, run)
    first = client.create(model="agent/demo")
    assert first.output_text == "Hello"
    assert client.sdk.retrieve(first.id).output_text == "Hello"
    client.create(model="agent/demo", previous_response_id=first.id, input="on")
    one, other = client.door.commands
    assert other.thread == one.thread
    assert isinstance(other.data, RunAgent)
    assert [message.content for message in other.data.messages] == ["on"]
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.create(previous_response_id=first.id)


def test_one_in_the_background_is_told_of_at_once_and_ends_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, lambda command: [accepted(command)])
    begun = client.create(background=True)
    assert (begun.status, begun.output) == ("in_progress", [])
    assert client.sdk.retrieve(begun.id).status == "in_progress"
    assert not client.door.sent
    client.door.recorded.append(("generation", returned(client.door.commands[0], "Hello")))  # type: ignore[arg-type]
    done = client.sdk.retrieve(begun.id)
    assert (done.status, done.output_text) == ("completed", "Hello")


def test_one_under_way_is_cancelled_and_one_that_is_over_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, lambda command: [accepted(command)])
    begun = client.create(background=True)
    command = client.door.commands[0]
    problem = Problem("aborted", "a client cancelled it")
    ended = committed(command, 2, ModelFailed(f"{command.id}-1-m", problem))

    async def aborted(connection: object, sent: Command) -> None:
        client.door.sent.append(sent)
        client.door.recorded.append(("generation", ended))

    monkeypatch.setattr("infra.bridge.app.send_command", aborted)
    assert client.sdk.cancel(begun.id).status == "cancelled"
    (sent,) = client.door.sent
    assert (sent.kind, sent.thread, isinstance(sent.data, AbortRun)) == ("generation", command.id, True)
    assert client.sdk.cancel(begun.id).status == "cancelled"
    assert len(client.door.sent) == 1


def test_an_answer_that_breaks_off_is_a_failed_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(command: Command) -> list[Frame]:
        return [accepted(command), *said(command, "Hel"), returned(command, "Hel", "error")]

    client = Client(monkeypatch, broken_off)
    events = client.events()
    assert events[-1].type == "response.failed"
    assert "broken off" in events[-1].response.error.message
    assert client.sdk.retrieve(events[-1].response.id).status == "failed"


def test_what_nobody_takes_on_is_an_error_and_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("unknown_model", "no such model", "model")
    client = Client(monkeypatch, lambda command: [Outcome(command.id, "refused", command.thread, problem)])
    for ask in (client.create, client.events):
        with pytest.raises(openai.NotFoundError, match="no such model"):
            ask()


def test_an_answer_may_be_bound_to_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted: Any = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}}
    response = client.create(text=wanted)
    assert client.generate.structured is not None
    assert json.loads(client.generate.structured.text) == schema
    assert response.text is not None
    assert response.text.to_dict() == wanted


def test_what_was_made_of_tokens_is_told_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = TokenTold(7, b"Hello", -0.5, 1)

    def judged(command: Command) -> list[Frame]:
        delta = Delta(command.id, command.thread, f"{command.id}-1-m", 1, 0, "Hello", logprobs=(told,))
        return [accepted(command), delta, returned(command, "Hello", logprobs=(told,))]

    client = Client(monkeypatch, judged)
    response = client.create(include=["message.output_text.logprobs"], top_logprobs=2)
    assert client.generate.logprobs == 2
    (part,) = response.output[0].content  # type: ignore[union-attr,misc]
    assert [(one.token, one.logprob) for one in part.logprobs] == [("Hello", -0.5)]  # type: ignore[union-attr]


def test_a_choice_among_tools_is_one_among_those_that_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    tools = [TOOL, {**TOOL, "name": "listen"}]
    allowed = [{"type": "function", "name": "listen"}]
    client.create(tools=tools, tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed})
    assert [tool.name for tool in client.generate.tools] == ["listen"]
    assert client.generate.tool_choice == "required"
    client.create(tools=tools, tool_choice={"type": "function", "name": "look"}, parallel_tool_calls=False)
    assert (client.generate.tool, client.generate.parallel_tool_calls) == ("look", False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "websearch"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search_\u00e9\r\nx: y"}]}, "tools[0]"),
        ({"tools": [{"type": ["web_search"]}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}, TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"include": ["message.input_image.image_url"]}, "include"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"reasoning": {"effort": "ultra"}}, "reasoning.effort"),
        ({"model": "agent/demo", "text": {"verbosity": "low"}}, "text.verbosity"),
        ({"background": True, "store": False}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "u"}]}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c0", "output": "1"}]}, "input"),
        ({"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "u"}]}]}, "input[0]"),
        ({"model": "agent/demo", "top_logprobs": 1}, "include"),
        ({"previous_response_id": "chatcmpl-1"}, "previous_response_id"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], param: str
) -> None:
    client = Client(monkeypatch)
    with pytest.raises(openai.APIStatusError) as refused:
        client.create(**fields)
    assert refused.value.status_code in {400, 404}
    assert refused.value.param == param
    assert "messages" not in refused.value.message
    assert not client.door.commands


def again(client: Client, identity: str, **fields: Any) -> list[dict[str, Any]]:
    return [event.to_dict() for event in client.sdk.retrieve(identity, stream=True, **fields)]


@pytest.mark.parametrize("script", [plain, everything, cut])
def test_a_stream_is_told_again_as_it_was_from_any_event_on(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    client = Client(monkeypatch, script)
    told = [event.to_dict() for event in client.sdk.create(model="m", input="hi", stream=True)]
    identity = told[0]["response"]["id"]
    assert again(client, identity) == told
    for at in (0, 3, len(told) - 2, len(told) - 1):
        assert again(client, identity, starting_after=at) == told[at + 1 :]
    assert len(client.door.commands) == 1


@pytest.mark.parametrize("script", [plain, everything, run])
def test_what_another_bridge_streamed_is_told_anew_and_ends_the_same(
    monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    first = Client(monkeypatch, script)
    model = "agent/demo" if script is run else "m"
    streamed = first.events(model=model)[-1].response.to_dict()
    second = Client(monkeypatch, script)
    second.door.recorded = first.door.recorded
    events = again(second, streamed["id"])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["response"]["output"] == second.sdk.retrieve(streamed["id"]).to_dict()["output"]
    assert {event["response"]["id"] for event in events if "response" in event} == {streamed["id"]}
    with pytest.raises(openai.BadRequestError) as refused:
        again(second, streamed["id"], starting_after=2)
    assert refused.value.param == "starting_after"


def test_only_so_many_events_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    told = [event.to_dict() for event in client.sdk.create(model="m", input="hi", stream=True)]
    monkeypatch.setattr("infra.bridge.responses.retelling._MOST_EVENTS", len(told))
    assert again(client, told[0]["response"]["id"]) == told
    latest = [event.to_dict() for event in client.sdk.create(model="m", input="hi", stream=True)]
    assert again(client, latest[0]["response"]["id"], starting_after=2) == latest[3:]
    oldest = told[0]["response"]["id"]
    assert again(client, oldest)[-1]["response"]["output"] == told[-1]["response"]["output"]
    with pytest.raises(openai.BadRequestError):
        again(client, oldest, starting_after=2)


def test_a_response_that_failed_is_told_again_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: Command) -> list[Frame]:
        problem = Problem(kind="engine", message="broken")
        return [accepted(command), *said(command, "Hel"), committed(command, 2, ModelFailed("e", problem))]

    client = Client(monkeypatch, failing)
    told = [event.to_dict() for event in client.sdk.create(model="m", input="hi", stream=True)]
    assert told[-1]["type"] == "response.failed"
    assert again(client, told[0]["response"]["id"]) == told


def test_who_went_away_reads_the_rest_of_a_response_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, everything)
    begun = client.create(background=True)
    assert begun.status == "in_progress"
    events = again(client, begun.id)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    items = events[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["reasoning", "message", "function_call", "function_call"]
    assert items[2]["arguments"] == '{"at": "sky"}'
    assert again(client, begun.id, starting_after=1) == events[2:]


def test_a_response_that_is_deleted_is_shown_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    response = client.create()
    client.sdk.delete(response.id)
    for ask in (client.sdk.retrieve, client.sdk.cancel, client.sdk.delete, client.sdk.input_items.list):
        with pytest.raises(openai.NotFoundError):
            ask(response.id)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.create(previous_response_id=response.id)
    assert unknown.value.param == "previous_response_id"
    other = Client(monkeypatch)
    other.door.recorded = client.door.recorded
    with pytest.raises(openai.NotFoundError):
        other.sdk.retrieve(response.id)
    agents = Client(monkeypatch, run)
    identity = agents.create(model="agent/demo").id
    with pytest.raises(openai.BadRequestError):
        agents.sdk.delete(identity)


def test_what_a_response_was_asked_with_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    first = client.create(input="Hello", instructions="Be brief.")
    given: Any = [
        {"role": "user", "content": "Look!"},
        {"type": "function_call", "call_id": "c0", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c0", "output": "blue"},
    ]
    second = client.create(input=given, previous_response_id=first.id, tools=[TOOL])
    (only,) = client.sdk.input_items.list(first.id).data
    assert only.to_dict()["content"] == [{"type": "input_text", "text": "Hello"}]
    ordered = client.sdk.input_items.list(second.id, order="asc").data
    assert [item.type for item in ordered] == ["message", "function_call", "function_call_output"]
    assert [item.id for item in client.sdk.input_items.list(second.id, limit=1)] == [item.id for item in ordered[::-1]]
    with pytest.raises(openai.BadRequestError):
        client.sdk.input_items.list(second.id, after="nobody")


def test_what_vllm_has_besides_is_heeded_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    client.create(
        extra_body={"top_k": 5, "min_p": 0.1, "structured_outputs": {"choice": ["a", "b"]}, "cache_salt": "s"}
    )
    asked = client.generate
    assert (asked.top_k, asked.min_p, asked.cache_salt) == (5, 0.1, "s")
    assert asked.structured is not None
    for name, value in {"n": 2, "max_tokens": 4, "echo": True, "request_id": "r", "top_k": -9}.items():
        with pytest.raises(openai.BadRequestError) as refused:
            client.create(extra_body={name: value})
        assert refused.value.param == name
    for fields in ({"service_tier": "gold"}, {"prompt_cache_retention": "24h"}, {"moderation": {"model": "m"}}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.create(extra_body=fields)
        assert [refused.value.param] == list(fields)
    client.create(extra_body={"ostinato_more": {"messages": [{"role": "user", "content": "another"}]}})
    assert [message.content for message in client.generate.messages] == ["hi"]
    told = client.create(safety_identifier="s1", prompt_cache_key="k1", service_tier="auto")
    assert (told.safety_identifier, told.prompt_cache_key) == ("s1", "k1")


def test_a_chat_is_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch)
    with openai.OpenAI(api_key="k", base_url="http://door/v1", http_client=client.door.http()) as sdk:
        chat = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], user="ada")
    with pytest.raises(openai.NotFoundError):
        client.sdk.retrieve(chat.id.replace("chatcmpl-", "resp_"))


def test_whoever_reads_slowly_misses_nothing_that_comes_meanwhile() -> None:
    async def read() -> list[int]:
        command = Command("g1", "acme", "generation", "g1", "generate", Generate(model="m", note={"created": 1}))
        frames, told = everything(command), Retold(command)
        for frame in frames[:3]:
            told.feed(frame)

        async def nobody(command: Command) -> AsyncGenerator[Frame]:
            raise AssertionError("somebody else hears of it")
            yield

        numbers, left = [], iter(frames[3:])
        async for event in told_again(told, -1, lambda: True, nobody):
            numbers.append(event["sequence_number"])
            for frame in islice(left, 1):
                told.feed(frame)
        assert told.events is not None
        assert numbers == list(range(len(told.events)))
        return numbers

    assert len(asyncio.run(read())) > 10
