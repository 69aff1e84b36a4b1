"""Agents whose clients carry tools out and instruct them, by the official SDKs: one run, several requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import pytest

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from schemas.messages import ToolCall
from tests.system.conftest import UpProcess, ask, chat, records

pytestmark = [pytest.mark.servers, pytest.mark.anyio, pytest.mark.deadline(120)]

AGENT = "agent/receptive"
SUM = "What is 12 times 34?"
ABOUT = "Work out an arithmetic expression."
SHAPE = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
FUNCTION: Any = {"type": "function", "function": {"name": "calculator", "description": ABOUT, "parameters": SHAPE}}
RESULT = "77"


class Called(NamedTuple):
    """A call that a client is to carry out, and what takes its result back."""

    identity: str
    name: str
    arguments: str
    answer: Callable[[str], str]


def by_chat(up: UpProcess) -> Called:
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1", max_retries=0) as client:
        asked: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
        first = client.chat.completions.create(model=AGENT, messages=asked, tools=[FUNCTION])
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    assert first.usage is not None
    assert first.usage.completion_tokens > 0
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"

    def answer(content: str) -> str:
        results = [choice.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": content}]
        with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1", max_retries=0) as client:
            told = client.chat.completions.create(model=AGENT, messages=[*asked, *results], tools=[FUNCTION])
        assert told.choices[0].finish_reason == "stop"
        assert told.id != first.id
        return str(told.choices[0].message.content)

    return Called(call.id, call.function.name, call.function.arguments, answer)


def by_stream(up: UpProcess) -> Called:
    asked: list[Any] = [{"role": "user", "content": SUM}]

    def streamed(messages: list[Any]) -> Any:
        with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1", max_retries=0) as client:
            about: Any = {"model": AGENT, "messages": messages, "tools": [FUNCTION]}
            with client.chat.completions.stream(**about) as stream:
                return stream.get_final_completion().choices[0]

    choice = streamed(asked)
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls

    def answer(content: str) -> str:
        said = choice.message.to_dict()
        said["tool_calls"] = [{**one, "function": _bare(one["function"])} for one in said["tool_calls"]]
        result = {"role": "tool", "tool_call_id": call.id, "content": content}
        return str(streamed([*asked, said, result]).message.content)

    return Called(call.id, call.function.name, call.function.arguments, answer)


def _bare(function: dict[str, Any]) -> dict[str, Any]:
    return {name: function[name] for name in ("name", "arguments")}


def by_messages(up: UpProcess) -> Called:
    tool: Any = {"name": "calculator", "description": ABOUT, "input_schema": SHAPE}
    about: Any = {"model": AGENT, "max_tokens": 200, "tools": [tool], "system": "Be brief."}
    asked: list[Any] = [{"role": "user", "content": SUM}]
    with anthropic.Anthropic(api_key="k", base_url=up.url, max_retries=0) as client:
        first = client.messages.create(**about, messages=asked)
    assert first.stop_reason == "tool_use"
    call = next(block for block in first.content if block.type == "tool_use")

    def answer(content: str) -> str:
        result = {"type": "tool_result", "tool_use_id": call.id, "content": content}
        history = [*asked, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        again = anthropic.Anthropic(api_key="k", base_url=up.url, max_retries=0)
        with again, again.messages.stream(**about, messages=history) as stream:
            return "".join(block.text for block in stream.get_final_message().content if block.type == "text")

    return Called(call.id, call.name, json.dumps(call.input), answer)


def by_responses(up: UpProcess, *, stateless: bool = False) -> Called:
    tool: Any = {"type": "function", "name": "calculator", "description": ABOUT, "parameters": SHAPE, "strict": False}
    about: Any = {"model": AGENT, "tools": [tool], "instructions": "Be brief."}
    asked: list[Any] = [{"role": "user", "content": SUM}]
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1", max_retries=0) as client:
        first = client.responses.create(**about, input=asked)
        assert (first.status, first.instructions) == ("completed", "Be brief.")
        assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    call = next(item for item in first.output if item.type == "function_call")

    def answer(content: str) -> str:
        output = {"type": "function_call_output", "call_id": call.call_id, "output": content}
        given: Any = {"input": [output], "previous_response_id": first.id}
        if stateless:
            given = {"input": [*asked, *(item.to_dict() for item in first.output), output]}
        with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1", max_retries=0) as client:
            told = client.responses.create(**about, **given)
            if content != RESULT:
                return told.output_text  # told again, it is none that is kept under a name of its own
            assert client.responses.retrieve(told.id).to_dict() == told.to_dict()
            (item,) = client.responses.input_items.list(told.id).data[-1:]
            if not stateless:
                assert (item.type, item.call_id) == ("function_call_output", call.call_id)
            # the earlier one is what it was
            assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
        return told.output_text

    return Called(call.call_id, call.name, call.arguments, answer)


def by_stateless_responses(up: UpProcess) -> Called:
    return by_responses(up, stateless=True)


@pytest.mark.parametrize("door", [by_chat, by_stream, by_messages, by_responses, by_stateless_responses])
def test_a_client_s_tool_is_called_by_the_agent_and_its_result_told(
    stack: UpProcess, door: Callable[[UpProcess], Called]
) -> None:
    called = door(stack)
    assert (called.name, json.loads(called.arguments)) == ("calculator", {"expression": "12 * 34"})
    first = called.answer(RESULT)
    assert RESULT in first
    _, effect, thread = called.identity.split("_")
    run = f"{stack.url}/api/threads/{thread}/runs/{effect.rsplit('-', 2)[0]}/events"
    told = httpx.get(run, timeout=30).text
    assert told.count("event: run.finished") == told.count("event: tool.handed_over") == 1
    # whoever lost the answer sends the same again: nothing is done twice
    assert called.answer("never mind") == first
    assert httpx.get(run, timeout=30).text == told


def test_results_that_nobody_waits_for_are_refused_and_not_sent_again(stack: UpProcess) -> None:
    call = {"id": "call_rnone-1-t0_tnone", "type": "function", "function": {"name": "calculator", "arguments": "{}"}}
    history = [{"role": "user", "content": SUM}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    body = {"model": AGENT, "messages": [*history, {"role": "tool", "tool_call_id": call["id"], "content": "4"}]}
    refused = chat(stack, body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_waiting")
    assert refused.headers["x-should-retry"] == "false"
    elsewhere = chat(stack, body, thread="tother")
    assert (elsewhere.status_code, elsewhere.json()["error"]["param"]) == (400, "X-Ostinato-Thread")
    mixed = [*body["messages"], {"role": "tool", "tool_call_id": "call_rnone-1-t0_tmore", "content": "5"}]
    assert chat(stack, {**body, "messages": mixed}).status_code == 400


def test_calls_of_other_servers_are_history(stack: UpProcess) -> None:
    call = {"id": "call_abc123", "type": "function", "function": {"name": "calculator", "arguments": "{}"}}
    history = [{"role": "user", "content": SUM}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    told = chat(stack, {"model": AGENT, "messages": [*history, {"role": "tool", "tool_call_id": "call_abc123"}]})
    assert told.status_code == 200, told.text


def profile_of(up: UpProcess, thread: str) -> dict[str, Any]:
    shown = records(up.cli("replay", "show", thread, "--json"))
    (started,) = [line for line in shown if line["kind"] == "run.started"]
    profile: dict[str, Any] = started["data"]["profile"]
    return profile


def test_what_a_client_instructs_comes_behind_the_agent_s_own_where_it_is_open_to_that(stack: UpProcess) -> None:
    messages = [{"role": "system", "content": "Speak of whales."}, {"role": "user", "content": "Hello!"}]
    more = {"top_p": 0.9, "stop": ["END"], "reasoning_effort": "low", "presence_penalty": 0.1, "max_tokens": 8}
    told = chat(stack, {"model": AGENT, "messages": messages, **more})
    assert told.status_code == 200, told.text
    assert "x-ostinato-left-out" not in told.headers
    profile = profile_of(stack, told.headers["x-ostinato-thread"])
    assert profile["instructions"].endswith("Speak of whales.")
    assert profile["instructions"].index("demo assistant") < profile["instructions"].index("whales")
    assert (profile["stop"], profile["reasoning_effort"]) == (["END"], "low")
    assert (profile["sampling"]["top_p"], profile["sampling"]["presence_penalty"]) == (0.9, 0.1)


WHALES = {"role": "developer", "content": "Of whales."}


@pytest.mark.parametrize("path", ["chat", "responses", "messages"])
def test_where_it_is_not_the_answer_says_that_it_was_left_out(stack: UpProcess, path: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "Hello!"}]
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": [WHALES, *asked], "reasoning_effort": "low"}),
        "responses": ("/v1/responses", {"instructions": "Of whales.", "input": asked, "reasoning": {"effort": "low"}}),
        "messages": (
            "/v1/messages",
            {"system": "Of whales.", "messages": asked, "max_tokens": 8, "output_config": {"effort": "low"}},
        ),
    }
    route, body = bodies[path]
    told = httpx.post(f"{stack.url}{route}", json={"model": "agent/demo", **body}, timeout=60)
    assert told.status_code == 200, told.text
    assert told.headers["x-ostinato-left-out"] == "system, reasoning_effort"
    assert told.json().get("instructions") is None
    assert "whales" not in json.dumps(profile_of(stack, told.headers["x-ostinato-thread"]))


def test_what_an_answer_is_to_look_like_is_the_client_s_to_say(stack: UpProcess) -> None:
    schema = {"type": "object", "properties": {"name": {"enum": ["Ann", "Bob"]}}, "required": ["name"]}
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "who", "schema": {**schema, "additionalProperties": False}},
    }
    told = chat(stack, ask("Who?", model="agent/plain", response_format=wanted))
    assert told.status_code == 200, told.text
    assert json.loads(told.json()["choices"][0]["message"]["content"])["name"] in {"Ann", "Bob"}


# a model that the test itself is


def script(call: ModelCall) -> Say:
    """Call what there is; then say what came of it, and what was said last."""
    last = call.messages[-1]
    if last.role == "tool":
        return " and ".join(one.content for one in call.messages if one.role == "tool")
    if call.agent == "sender":
        return ToolCall("k1", "fetcher", '{"message": "go"}')
    if call.agent == "fetcher":
        return ToolCall("k1", "fetch", '{"what": "it"}')
    own = ToolCall("k1", "calculator", '{"expression": "5 + 6"}')
    theirs = tuple(ToolCall(f"k{at}", "fetch", f'{{"what": "{at}"}}') for at in (2, 3))
    return (own, *theirs) if last.content == "Go." else f"says {last.content}"


@pytest.fixture
async def model(stack: UpProcess) -> AsyncIterator[ScriptedModel]:
    scripted = ScriptedModel(script)
    async with await Connection.open(stack.nats_url, "scripted") as connection:
        await offer_model(connection, "scripted", "1.0.0", scripted)
        yield scripted


FETCH: Any = {"type": "function", "function": {"name": "fetch", "description": "Fetches.", "parameters": SHAPE}}


async def test_some_results_leave_the_others_waited_for_and_what_is_said_besides_is_heard(
    stack: UpProcess, model: ScriptedModel
) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{stack.url}/v1", max_retries=0) as client:
        about: Any = {"model": "agent/carrier", "tools": [FETCH]}
        history: list[Any] = [{"role": "user", "content": "Go."}]
        first = (await client.chat.completions.create(**about, messages=history)).choices[0].message
        calls = first.tool_calls or []
        assert [call.function.arguments for call in calls] == ['{"what": "2"}', '{"what": "3"}']
        history += [first.to_dict(), {"role": "tool", "tool_call_id": calls[0].id, "content": "two"}]
        second = (await client.chat.completions.create(**about, messages=history)).choices[0].message
        assert [call.id for call in second.tool_calls or ()] == [calls[1].id]
        again = (await client.chat.completions.create(**about, messages=history)).choices[0].message
        assert again == second
        history += [second.to_dict(), {"role": "tool", "tool_call_id": calls[1].id, "content": "three"}]
        history.append({"role": "user", "content": "And thanks."})
        last = (await client.chat.completions.create(**about, messages=history)).choices[0].message
    # what was said besides came before the model was asked again
    assert last.content == "says And thanks."
    asked = model.calls[-1].messages
    assert [one.content for one in asked if one.role == "tool"] == ["11", "two", "three"]


async def test_a_call_of_an_agent_that_it_asked_is_its_client_s_to_carry_out(
    stack: UpProcess, model: ScriptedModel
) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{stack.url}/v1", max_retries=0) as client:
        history: list[Any] = [{"role": "user", "content": "Go."}]
        first = (await client.chat.completions.create(model="agent/sender", messages=history)).choices[0].message
        (call,) = first.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "fetch"
        history += [first.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "bone"}]
        last = (await client.chat.completions.create(model="agent/sender", messages=history)).choices[0].message
    assert "bone" in (last.content or "")
