"""OpenAI's dialect: what a request may say, and frames that every client understands."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bridge.chat import ChatEncoder
from infra.bridge.logprobs import by_id
from infra.bridge.openai import BadRequest, command_data, read_request, refusal, retry_headers
from schemas import codec
from schemas.answers import Alternative, CallTold, TokenTold
from schemas.commands import Generate, RunAgent
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import Image, Message, ToolCall, Usage
from schemas.runs import ErrorKind, Event, ModelFailed, ModelReturned, Problem, RetryScheduled, RunFailed, RunFinished


def committed(version: int, event: Event) -> Committed:
    return Committed(
        id=f"{version}-0",
        type=codec.tag(event),
        subject="r1",
        thread="t1",
        time="",
        tenant="acme",
        cause="",
        version=version,
        data=codec.payload(event),
    )


def bare() -> ChatEncoder:
    return ChatEncoder("g1", "m", 7, "model.returned")


def agent() -> ChatEncoder:
    return ChatEncoder("r1", "agent/demo", 7, "run.finished")


def fed(encoder: ChatEncoder, *frames: Frame) -> list[dict[str, Any]]:
    return [chunk for frame in frames for chunk in encoder.feed(frame)]


def deltas(effect: str, *pieces: str) -> list[Frame]:
    offsets = [sum(map(len, pieces[:at])) for at in range(len(pieces))]
    return [Delta("r1", "t1", effect, 2, at, text) for at, text in zip(offsets, pieces, strict=True)]


def returned(text: str = "", *calls: ToolCall, finish: Any = None, effect: str = "g1-1-m") -> Committed:
    reason = finish or ("tool_calls" if calls else "stop")
    return committed(3, ModelReturned(effect, text, reason, Usage(10, 5, 8), calls))


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_stream_opens_with_the_role_and_ends_with_the_reason() -> None:
    chunks = fed(bare(), *deltas("g1-1-m", "Hel", "lo"), returned("Hello"))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_every_chunk_carries_the_same_head() -> None:
    chunks = fed(bare(), *deltas("g1-1-m", "a", "b"), returned("ab"))
    head = {"id": "chatcmpl-g1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    assert all({key: chunk[key] for key in head} == head for chunk in chunks)
    assert all(chunk["choices"][0]["index"] == 0 for chunk in chunks)


def test_an_answer_without_text_still_has_a_role() -> None:
    chunks = fed(bare(), returned(""))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]


def test_tool_calls_come_with_id_and_name_once_and_indexes_from_zero() -> None:
    calls = (ToolCall("c1", "add", '{"a":1}'), ToolCall("c2", "mul", ""))
    chunks = fed(bare(), returned("", *calls))
    tools = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
    assert tools == [
        None,
        [{"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a":1}'}}],
        [{"index": 1, "id": "c2", "type": "function", "function": {"name": "mul", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": ""}}],
        None,
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_comes_last_with_no_choices() -> None:
    encoder = bare()
    fed(encoder, returned("hi"))
    chunk = encoder.usage_chunk()
    assert chunk["choices"] == []
    assert msgspec.to_builtins(chunk["usage"]) == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {
            "cached_tokens": 8,
            "cache_write_tokens": 0,
            "recomputed_tokens": 0,
            "preemptions": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def thought(effect: str, *pieces: str) -> list[Frame]:
    offsets = [sum(map(len, pieces[:at])) for at in range(len(pieces))]
    told = zip(offsets, pieces, strict=True)
    return [Delta("r1", "t1", effect, 2, 0, "", reasoning=text, reasoning_offset=at) for at, text in told]


def told(text: str) -> tuple[TokenTold, ...]:
    """A token for each character."""
    return tuple(TokenTold(ord(char), char.encode(), -float(at), 1) for at, char in enumerate(text, 1))


TOLD = told("<two and>four.!")
"""What is thought, and its tags, what is said, and an end that has no text."""


def telling(kind: str, text: str, offset: int, until: int, before: int) -> Delta:
    tokens = {"token_offset": before, "logprobs": TOLD[before:until], "token_ids": tuple(range(before, until))}
    if kind == "reasoning":
        return Delta("r1", "t1", "g1-1-m", 2, 0, "", 0, text, offset, **tokens)
    return Delta("r1", "t1", "g1-1-m", 2, offset, text, **tokens)


PIECES = [
    telling("reasoning", "two ", 0, 5, 0),
    telling("reasoning", "and", 4, 8, 5),
    telling("text", "fo", 0, 11, 8),
    telling("text", "", 2, 12, 11),
    telling("text", "ur", 2, 13, 12),
]
ANSWER = ModelReturned(
    *("g1-1-m", "four.", "stop", Usage(10, 5, 8)),
    reasoning="two and",
    logprobs=TOLD,
    token_ids=tuple(range(len(TOLD))),
)


def tokens_of(chunks: list[dict[str, Any]]) -> list[str]:
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    return ["".join(entry["token"] for entry in one["content"]) if one else "" for one in found]


def test_each_token_of_an_answer_without_a_text_has_a_chunk() -> None:
    encoder = ChatEncoder("g1", "m", 7, "model.returned", texts=False)
    chunks = fed(encoder, *(telling("text", "", 0, at + 1, at) for at in range(3)))
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks] == [None, [0], [1], [2]]


def test_tokens_may_be_called_by_their_ids() -> None:
    encoder = ChatEncoder("g1", "m", 7, "model.returned", naming=by_id)
    whole = encoder.whole(fed(encoder, *PIECES, committed(3, ANSWER)))
    entries = whole["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == [f"token_id:{one.token}" for one in TOLD]
    assert [bytes(entry["bytes"]) for entry in entries] == [one.piece for one in TOLD]


@pytest.mark.parametrize("heard", [0, 2])
def test_an_answer_begins_with_what_is_to_be_echoed(heard: int) -> None:
    encoder = ChatEncoder("g1", "m", 7, "model.returned", echo="Once upon")
    frames = deltas("g1-1-m", " a", " time")[:heard]
    chunks = fed(encoder, *frames, returned(" a time"))
    assert chunks[1]["choices"][0]["delta"] == {"content": "Once upon"}
    assert text_of(chunks) == encoder.whole(chunks)["choices"][0]["message"]["content"] == "Once upon a time"


def test_what_is_echoed_is_the_last_message_if_it_is_the_assistant_s() -> None:
    said = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Once"}]
    asked = {"model": "m", "messages": said, "echo": True, "logprobs": True, "top_logprobs": 2}
    request = read_request(json.dumps(asked).encode())
    data = command_data(request, None)
    assert isinstance(data, Generate)
    assert (request.echoed(), data.prompt_logprobs) == ("Once", 2)
    assert not read_request(json.dumps({**asked, "messages": said[:1]}).encode()).echoed()
    assert not read_request(json.dumps({**asked, "echo": False}).encode()).echoed()


def test_each_chunk_carries_the_logprobs_of_its_tokens() -> None:
    chunks = fed(bare(), *PIECES, committed(3, ANSWER))
    assert tokens_of(chunks) == ["", "<two ", "and", ">fo", "ur", ".!", ""]
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks][1:4] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}


@pytest.mark.parametrize("heard", range(len(PIECES) + 1))
@pytest.mark.parametrize("reasoning", [True, False])
def test_whatever_was_heard_of_it_a_streamed_answer_tells_each_token_once(heard: int, reasoning: bool) -> None:
    encoder = ChatEncoder("g1", "m", 7, "model.returned", reasoning=reasoning)
    chunks = fed(encoder, *PIECES[:heard], committed(3, ANSWER))
    assert "".join(tokens_of(chunks)) == "<two and>four.!"
    alone = ChatEncoder("g1", "m", 7, "model.returned", reasoning=reasoning)
    whole, streamed = alone.whole(fed(alone, committed(3, ANSWER))), encoder.whole(chunks)
    assert streamed == whole
    assert whole["choices"][0]["token_ids"] == list(range(len(TOLD)))
    assert [entry["logprob"] for entry in whole["choices"][0]["logprobs"]["content"]] == [one.logprob for one in TOLD]


def test_tokens_of_calls_that_were_not_heard_come_with_their_arguments() -> None:
    call = ToolCall("c1", "f", "{}")
    answer = msgspec.structs.replace(ANSWER, text="four", tool_calls=(call,), finish_reason="tool_calls")
    chunks = fed(bare(), *PIECES, committed(3, answer))
    assert tokens_of(chunks)[-4:] == ["ur", "", ".!", ""]


def test_a_call_that_was_brought_to_its_end_for_want_of_tokens_is_a_call() -> None:
    chunks = fed(bare(), returned("", ToolCall("c1", "f", "{}"), finish="length"))
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert fed(bare(), returned("cut", finish="length"))[-1]["choices"][0]["finish_reason"] == "length"


def test_reasoning_comes_under_both_its_names_beside_the_text() -> None:
    encoder = bare()
    answer = ModelReturned("g1-1-m", "four", "stop", Usage(10, 5, 8, reasoning_tokens=3), reasoning="two and two")
    chunks = fed(encoder, *thought("g1-1-m", "two ", "and"), *deltas("g1-1-m", "fo"), committed(3, answer))
    told = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("reasoning") for delta in told] == [None, "two ", "and", None, " two", None, None]
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in told)
    assert text_of(chunks) == "four"
    whole = encoder.whole(chunks)
    message = whole["choices"][0]["message"]
    assert message["content"] == "four"
    assert message["reasoning"] == message["reasoning_content"] == "two and two"
    assert whole["usage"].completion_tokens_details == {"reasoning_tokens": 3}


def test_reasoning_that_is_not_wanted_is_not_told_and_each_answer_has_its_own() -> None:
    quiet = ChatEncoder("g1", "m", 7, "model.returned", reasoning=False)
    answer = ModelReturned("g1-1-m", "four", "stop", Usage(10, 5, 8), reasoning="hm")
    for chunk in fed(quiet, *thought("g1-1-m", "h"), committed(3, answer)):
        assert "reasoning" not in chunk["choices"][0]["delta"]
    encoder = bare()
    both = msgspec.structs.replace(answer, more=(Alternative("4", "stop", reasoning="well"),))
    done = encoder.whole(fed(encoder, committed(3, both)))["choices"]
    assert [choice["message"]["reasoning"] for choice in done] == ["hm", "well"]


def test_what_an_agent_thinks_in_several_steps_stands_in_paragraphs() -> None:
    encoder = agent()
    chunks = fed(encoder, *thought("r1-1-m", "first"), *thought("r1-2-m", "then"))
    assert "".join(chunk["choices"][0]["delta"].get("reasoning", "") for chunk in chunks) == "first\n\nthen"


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_streamed_calls_are_whole_with_arguments_that_join_up_to_json(calls: int) -> None:
    given = [ToolCall(f"c{at}", "add", json.dumps({"a": at})) for at in range(calls)]
    chunks = fed(bare(), returned("", *given))
    told: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            one = told.setdefault(call["index"], {"arguments": ""})
            one |= {name: call[name] for name in ("id", "type") if name in call}
            one["arguments"] += call["function"]["arguments"]
    assert sorted(told) == list(range(calls))
    assert [json.loads(one["arguments"]) for one in told.values()] == [{"a": at} for at in range(calls)]
    assert [one["id"] for one in told.values()] == [f"c{at}" for at in range(calls)]


def arguing(call: ToolCall, index: int, *pieces: str, effect: str = "g1-1-m") -> list[Frame]:
    told, offsets = CallTold(index, call.id, call.name), [sum(map(len, pieces[:at])) for at in range(len(pieces))]
    return [
        Delta("r1", "t1", effect, 2, 0, "", call=told, arguments=text, arguments_offset=at)
        for at, text in zip(offsets, pieces, strict=True)
    ]


TWO = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "say", '{"text": "hi there"}'))


@pytest.mark.parametrize("heard", range(7))
@pytest.mark.parametrize("cut", [False, True])
def test_a_tool_call_is_streamed_as_it_comes_whatever_was_heard_of_it(heard: int, cut: bool) -> None:
    frames = [
        *deltas("g1-1-m", "Well."),
        *arguing(TWO[0], 0, '{"a"', ": 1}"),
        *arguing(TWO[1], 1, '{"te', 'xt": "hi', ' there"}'),
    ]
    if cut:
        last = committed(3, ModelReturned("g1-1-m", "Well.", "length", Usage(10, 5, 8), cut_off=TWO))
    else:
        last = returned("Well.", *TWO)
    encoder = bare()
    chunks = fed(encoder, *frames[:heard], last)
    assert encoder.whole(chunks) == (alone := bare()).whole(fed(alone, last))
    told = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
    for index, call in enumerate(TWO):
        first, *rest = [one for one in told if one["index"] == index]
        assert first == {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        assert "".join(one["function"]["arguments"] for one in rest) == call.arguments
        assert all(one["function"]["arguments"] and "id" not in one for one in rest)
    assert chunks[-1]["choices"][0]["finish_reason"] == ("length" if cut else "tool_calls")


@pytest.mark.parametrize("cost", [0.25, None])
def test_what_a_run_cost_is_told_with_its_usage_and_a_bare_answer_tells_none(cost: float | None) -> None:
    encoder = agent()
    chunks = fed(encoder, committed(9, RunFinished("x", 1, Usage(20, 7), "stop", cost=cost)))
    told = [json.loads(codec.encode(one))["usage"] for one in (encoder.whole(chunks), encoder.usage_chunk())]
    assert [(one["total_tokens"], one["cost"]) for one in told] == [(27, cost)] * 2
    assert b"cost" not in codec.encode(bare().usage_chunk())


def test_what_an_agent_calls_is_not_streamed() -> None:
    chunks = fed(agent(), *arguing(TWO[0], 0, '{"a"', ": 1}", effect="r1-1-m"), returned("", TWO[0], effect="r1-1-m"))
    assert not any("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks)


def test_arguments_that_stream_bring_the_tokens_that_they_are_of() -> None:
    (first, second) = arguing(TWO[0], 0, '{"a"', ": 1}")
    frames = [
        msgspec.structs.replace(first, token_ids=(1, 2)),
        msgspec.structs.replace(second, token_offset=2, token_ids=(3,)),
    ]
    chunks = fed(bare(), *frames)
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks] == [None, None, [1, 2], [3]]


def test_text_that_no_delta_brought_comes_with_the_result() -> None:
    assert text_of(fed(bare(), *deltas("g1-1-m", "Hel"), returned("Hello"))) == "Hello"
    assert text_of(fed(bare(), returned("Hello"))) == "Hello"


def test_what_an_agent_says_in_several_steps_stands_in_paragraphs() -> None:
    finished = committed(9, RunFinished("four", 2, Usage(20, 7, 1)))
    encoder = agent()
    chunks = fed(
        encoder,
        *deltas("r1-1-m", "let me", " see"),
        returned("let me see", ToolCall("c1", "add", "{}"), effect="r1-1-m"),
        *deltas("r1-2-m", "four"),
        returned("four", effect="r1-2-m"),
        finished,
    )
    assert text_of(chunks) == "let me see\n\nfour"
    assert not any("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks)
    assert sum(chunk["choices"][0]["finish_reason"] is not None for chunk in chunks) == 1
    assert encoder.usage == Usage(20, 7, 1)


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_run_says_why_it_ended(reason: Any) -> None:
    chunks = fed(agent(), committed(9, RunFinished("x", 1, Usage(), reason)))
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("reason", ["abort", "error", "timeout"])
def test_an_answer_broken_off_is_an_error_and_no_reason_that_clients_do_not_know(reason: str) -> None:
    encoder = bare()
    chunks = fed(encoder, returned("half", finish=reason))
    assert encoder.problem is not None
    assert encoder.problem.kind == ("timeout" if reason == "timeout" else "engine")
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


@pytest.mark.parametrize(
    "frame",
    [
        committed(9, RunFailed(Problem("tool", "no"), 1)),
        committed(9, ModelFailed("e", Problem("tool", "no"))),
        Outcome("r1", "refused", "t1", Problem("tool", "no")),
        Outcome("r1", "dead", "t1", Problem("tool", "no")),
    ],
)
def test_what_went_wrong_is_kept(frame: Frame) -> None:
    encoder = agent()
    assert encoder.feed(frame) == []
    assert encoder.problem == Problem("tool", "no")


def test_a_failure_after_which_the_model_is_asked_again_is_none() -> None:
    encoder = agent()
    failed = committed(3, ModelFailed("r1-1-m", Problem("overloaded", "busy")))
    again = committed(4, RetryScheduled("r1-1-r2", 2, 1_250_000, "overloaded", 1_000_000, 7))
    ended = committed(9, RunFinished("four", 1, Usage()))
    chunks = fed(encoder, failed, again, returned("four", effect="r1-1-m2"), ended)
    assert encoder.problem is None
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_encoding_the_same_frames_again_gives_the_same_bytes() -> None:
    frames = [*deltas("g1-1-m", "a", "b"), returned("ab", ToolCall("c", "f", "{}"))]
    assert codec.encode(fed(bare(), *frames)) == codec.encode(fed(bare(), *frames))


pieces = st.lists(st.text(min_size=1, max_size=6), max_size=5)
calls = st.lists(st.builds(ToolCall, st.text(min_size=1, max_size=3), st.just("f"), st.text(max_size=8)), max_size=3)


@given(st.lists(st.tuples(pieces, st.integers(0, 5), calls), min_size=1, max_size=3), st.booleans())
def test_a_stream_and_a_whole_answer_agree(steps: list[tuple[list[str], int, list[ToolCall]]], is_agent: bool) -> None:
    """Whatever deltas were lost at the end of each step."""
    encoder = agent() if is_agent else bare()
    frames: list[Frame] = []
    for number, (words, heard, wanted) in enumerate(steps if is_agent else steps[:1], 1):
        effect = f"x-{number}-m"
        frames += deltas(effect, *words)[:heard]
        frames.append(returned("".join(words), *wanted, effect=effect))
    if is_agent:
        frames.append(committed(99, RunFinished("end", len(steps), Usage(1, 2, 0))))
    chunks = fed(encoder, *frames)
    whole = encoder.whole(chunks)
    message = whole["choices"][0]["message"]
    said = steps if is_agent else steps[:1]
    expected = "\n\n".join(text for text in ("".join(words) for words, _, _ in said) if text)
    assert (message["content"] or "") == expected == text_of(chunks)
    assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"]
    assert whole["object"] == "chat.completion"
    assert whole["id"] == chunks[0]["id"]
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks].count("assistant") == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    if not is_agent:
        given = [(call.id, call.name, call.arguments) for call in steps[0][2]]
        got = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
        assert got == given
        assert (message["content"] is None) == (not expected and bool(given))


def body(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def chat(*messages: dict[str, Any]) -> bytes:
    return body(messages=list(messages))


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

BAD = {
    "not JSON": (b"{nope", None),
    "not UTF-8": (b'{"model":"\xff","messages":[]}', None),
    "endless": (b'{"model":"m","messages":[],"tool_choice":' + b"[" * 9999, None),
    "no model": (b'{"messages":[]}', "model"),
    "no messages": (b'{"model":"m"}', "messages"),
    "empty messages": (body(messages=[]), "messages"),
    "no role": (chat({"content": "hi"}), "messages[0].role"),
    "a bad role": (chat({"role": "king", "content": "hi"}), "messages[0].role"),
    "an image without an address": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
        "messages[0].content[0].image_url.url",
    ),
    "an image of the system's": (
        chat({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}),
        "messages[0].content",
    ),
    "temperature": (body(temperature=3), "temperature"),
    "temperature type": (body(temperature="hot"), "temperature"),
    "top_p": (body(top_p=0), "top_p"),
    "max_tokens": (body(max_tokens=0), "max_tokens"),
    "max_tokens past 31 bits": (body(max_tokens=1 << 31), "max_tokens"),
    "max_completion_tokens": (body(max_completion_tokens=1 << 31), "max_completion_tokens"),
    "seed": (body(seed=1 << 63), "seed"),
    "n": (body(n=16_385), "n"),
    "n of an agent": (body(model="agent/demo", n=2), "n"),
    "logprobs of an agent": (body(model="agent/demo", logprobs=True), "logprobs"),
    "top_logprobs": (body(logprobs=True, top_logprobs=21), "top_logprobs"),
    "top_logprobs without logprobs": (body(top_logprobs=2), "top_logprobs"),
    "repetition_detection": (body(repetition_detection={"min_count": 2}), "repetition_detection.max_pattern_size"),
    "response_format": (body(response_format={"type": "xml"}), "response_format"),
    "tool_choice": (body(tool_choice="sometimes"), "tool_choice"),
    "tool_choice object": (body(tool_choice={"type": "function", "name": "f"}), "tool_choice"),
    "tool_choice of another type": (body(tool_choice={"type": "tool", "function": {"name": "f"}}), "tool_choice"),
    "chat_template_kwargs": (body(chat_template_kwargs=[1]), "chat_template_kwargs"),
    "tool_choice of an agent": (body(model="agent/demo", tool_choice="required"), "tool_choice"),
    "tools of an agent": (
        body(model="agent/demo", tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]),
        "tools",
    ),
    "bias of an agent": (body(model="agent/demo", logit_bias={"7": 1}), "logit_bias"),
    "template of an agent": (body(model="agent/demo", chat_template_kwargs={"a": 1}), "chat_template_kwargs"),
    "presence_penalty": (body(presence_penalty=3), "presence_penalty"),
    "logit_bias": (body(logit_bias={"7": 101}), "logit_bias[...]"),
    "logit_bias of no token": (body(logit_bias={"-7": 1}), "logit_bias"),
    "bad_words": (body(bad_words=[""]), "bad_words[0]"),
    "min_p": (body(min_p=1.5), "min_p"),
    "stream_interval": (body(stream_interval=0), "stream_interval"),
    "stream_interval of an agent": (body(model="agent/demo", stream_interval=2), "stream_interval"),
    "an empty stop": (body(stop=["a", ""]), "stop"),
    "a result without a call": (
        chat({"role": "tool", "content": "4", "tool_call_id": "c1"}),
        "messages[0].tool_call_id",
    ),
    "a call without a result": (
        chat({"role": "assistant", "tool_calls": [CALL]}, {"role": "user", "content": "?"}),
        "messages[1].role",
    ),
}


@pytest.mark.parametrize(("data", "param"), BAD.values(), ids=BAD.keys())
def test_a_request_that_cannot_be_served_names_its_field(data: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as error:
        read_request(data)
    assert error.value.status == 400
    assert error.value.body.error.param == param
    assert error.value.body.error.type == "invalid_request_error"
    assert error.value.body.error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"parallel_tool_calls": True, "include_reasoning": True, "reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True},
        {"stop": "x"},
        {"stop": ["x", "y"]},
        {"stop": None},
        {"n": 3},
        {"logprobs": True, "top_logprobs": 5, "prompt_logprobs": 0, "return_token_ids": True},
        {"repetition_detection": {"max_pattern_size": 20, "min_count": 4}},
        {"user": "someone", "frequency_penalty": 0.5},
        {"response_format": {"type": "text"}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_interval": 4},
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
            ]
        },
    ],
)
def test_what_clients_usually_send_is_read(fields: dict[str, Any]) -> None:
    assert read_request(body(**fields)).model == "m"


FUNCTION = {"type": "function", "function": {"name": "f", "strict": True}}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, ("auto", "")),
        ("auto", ("auto", "")),
        ("none", ("none", "")),
        ("required", ("required", "")),
        ({"type": "function", "function": {"name": "f"}}, ("required", "f")),
    ],
)
def test_a_choice_of_tools_goes_with_the_command(choice: Any, wanted: tuple[str, str]) -> None:
    request = read_request(body(tools=[FUNCTION], tool_choice=choice, parallel_tool_calls=False))
    data = command_data(request, None)
    assert isinstance(data, Generate)
    assert (data.tool_choice, data.tool) == wanted
    assert not data.parallel_tool_calls
    assert data.tools[0].strict


def test_what_a_template_is_told_goes_with_the_command() -> None:
    request = read_request(
        body(
            messages=[
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "reasoning_content": "c"},
                {"role": "assistant", "content": "d", "reasoning": "e"},
            ],
            chat_template="t",
            chat_template_kwargs={"enable_thinking": False},
            reasoning_effort="low",
            documents=[{"text": "d"}],
            add_generation_prompt=False,
            continue_final_message=True,
        )
    )
    data = command_data(request, None)
    assert isinstance(data, Generate)
    assert [message.reasoning for message in data.messages] == ["", "c", "e"]
    assert data.chat_template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}
    assert (data.chat_template, data.documents) == ("t", ({"text": "d"},))
    assert (data.add_generation_prompt, data.continue_final_message) == (False, True)


def test_a_model_gets_the_parameters_of_choosing_and_an_agent_those_that_change_nothing() -> None:
    wanted = {
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {"7": -100},
        "top_k": -1,
        "min_p": 0.1,
        "min_tokens": 3,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "allowed_token_ids": [1, 2],
        "bad_words": ["no"],
        "priority": -2,
        "prompt_logprob_token_ids": [[1, 2], [], [3]],
        "prompt_logprob_start": 2,
        "spaces_between_special_tokens": False,
        "detokenize": False,
        "trace_decode_token_ids": [5, 6],
    }
    data = json.loads(msgspec.json.encode(command_data(read_request(body(**wanted)), None)))
    assert {name: data[name] for name in wanted} == wanted
    silent = ("spaces_between_special_tokens", "detokenize", "trace_decode_token_ids")
    for name in ("prompt_logprob_start", "prompt_logprob_token_ids", *silent):
        with pytest.raises(BadRequest, match=f"{name}: an agent samples as its model does"):
            read_request(body(model="agent/demo", **{name: wanted[name]}))
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "top_k": 0, "logit_bias": {}, "bad_words": []}
    assert isinstance(command_data(read_request(body(model="agent/demo", **neutral)), None), RunAgent)


def test_a_model_gets_the_request_as_it_is() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "c1"},
    ]
    data = command_data(
        read_request(body(messages=messages, tools=tools, stop="END", seed=3, max_completion_tokens=9, max_tokens=8)),
        None,
    )
    assert isinstance(data, Generate)
    assert [message.role for message in data.messages] == ["system", "user", "assistant", "tool"]
    assert data.messages[2].tool_calls == (ToolCall("c1", "f", "{}"),)
    assert data.messages[3] == Message("tool", "4", (), "c1")
    assert (data.stop, data.seed, data.max_tokens, data.tools[0].name) == (("END",), 3, 9, "f")


def test_an_agent_gets_the_history_in_a_new_thread_and_only_what_is_new_in_an_old_one() -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    request = read_request(body(model="agent/demo", messages=messages))
    new, old = command_data(request, None), command_data(request, "t1")
    assert isinstance(new, RunAgent)
    assert isinstance(old, RunAgent)
    assert [message.content for message in new.messages] == ["one", "two", "three"]
    assert [message.content for message in old.messages] == ["three"]
    assert (new.agent, new.thread, old.thread) == ("demo", "any", "existing")


def test_an_agent_gets_what_its_author_may_open_and_its_client_s_tools() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "developer", "content": "Be brief."},
    ]
    wanted = {"top_p": 0.5, "presence_penalty": 0.5, "reasoning_effort": "low", "parallel_tool_calls": False}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    more = {"stop": "END", "tools": [FUNCTION], "response_format": schema, "messages": messages}
    data = command_data(read_request(body(model="agent/demo", **wanted, **more)), None)
    assert isinstance(data, RunAgent)
    assert {name: getattr(data, name) for name in wanted} == wanted
    assert [message.content for message in data.messages] == ["one"]
    assert (data.system, data.stop, [tool.name for tool in data.tools]) == ("Be kind.\n\nBe brief.", ("END",), ["f"])
    assert data.structured is not None
    assert data.structured.kind == "json_schema"
    without = command_data(read_request(body(model="agent/demo", tools=[FUNCTION], tool_choice="none")), None)
    assert isinstance(without, RunAgent)
    assert not without.tools
    neutral = {"top_p": 1, "top_k": -1, "min_p": 0, "presence_penalty": 0, "repetition_penalty": 1}
    closed = command_data(read_request(body(model="agent/demo", **neutral)), None)
    assert closed == command_data(read_request(body(model="agent/demo")), None)


@pytest.mark.parametrize("kind", ErrorKind.__args__)  # type: ignore[attr-defined]
def test_every_problem_has_a_status(kind: ErrorKind) -> None:
    error = refusal(Problem(kind=kind, message="m", field="f"))
    assert 400 <= error.status < 600
    assert error.body.error.param == "f"
    assert (error.body.error.type == "server_error") == (error.status >= 500)


@pytest.mark.parametrize(
    ("field", "param"),
    [("agent", "model"), ("thread", "X-Ostinato-Thread"), ("messages[0].role", "messages[0].role"), (None, None)],
)
def test_a_problem_names_the_field_as_the_request_calls_it(field: str | None, param: str | None) -> None:
    assert refusal(Problem("invalid", "m", field)).body.error.param == param


@pytest.mark.parametrize(
    ("status", "wait", "headers"),
    [
        (503, 0, {"retry-after-ms": "1000", "Retry-After": "1"}),
        (503, 2001, {"retry-after-ms": "2001", "Retry-After": "3"}),
        (500, 250, {"retry-after-ms": "250", "Retry-After": "1"}),
        (500, 0, {}),
        (400, 0, {}),
    ],
)
def test_a_client_is_told_when_to_try_again(status: int, wait: int, headers: dict[str, str]) -> None:
    assert retry_headers(status, wait) == headers
    assert BadRequest(status, "m", retry_after_ms=wait).headers == headers


def test_an_overloaded_server_s_own_time_reaches_the_client() -> None:
    error = refusal(Problem("overloaded", "m", None, 5000))
    assert error.status == 503
    assert error.headers == {"retry-after-ms": "5000", "Retry-After": "5"}


@pytest.mark.parametrize(
    ("frame", "accepted"),
    [
        (Outcome("r1", "accepted", "t1"), True),
        (Outcome("r1", "refused", "t1", Problem("unknown_thread", "no", "thread")), False),
        (Outcome("r1", "dead", "t1", Problem("invalid", "no")), False),
        (committed(9, RunFailed(Problem("tool", "no"), 1)), True),
        (deltas("r1-1-m", "a")[0], True),
    ],
)
def test_a_thread_is_known_to_exist_once_its_command_was_taken_on(frame: Frame, accepted: bool) -> None:
    encoder = agent()
    encoder.feed(frame)
    assert encoder.accepted is accepted


def token(number: int, piece: bytes, logprob: float | None, *top: tuple[int, bytes, float]) -> TokenTold:
    return TokenTold(number, piece, logprob, 0 if logprob is None else 1, top)


def test_several_answers_are_choices_of_one_object_and_their_deltas_do_not_mix() -> None:
    encoder = bare()
    more = (Alternative("red wine", "length"), Alternative("", "tool_calls", (ToolCall("c2", "f", "{}"),)))
    first, second = Delta("g1", "t1", "g1-1-m", 2, 0, "white", 0), Delta("g1", "t1", "g1-1-m", 2, 0, "red", 1)
    whole = committed(3, ModelReturned("g1-1-m", "white wine", "stop", Usage(10, 9, 0), more=more))
    chunks = fed(encoder, first, second, whole)
    by_choice = {
        index: [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index] for index in range(3)
    }
    assert [part["delta"].get("role") for part in by_choice[1]] == ["assistant", None, None, None]
    assert "".join(part["delta"].get("content") or "" for part in by_choice[1]) == "red wine"
    done = encoder.whole(chunks)["choices"]
    assert [choice["index"] for choice in done] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in done] == ["white wine", "red wine", None]
    assert [choice["finish_reason"] for choice in done] == ["stop", "length", "tool_calls"]
    assert done[2]["message"]["tool_calls"][0]["id"] == "c2"


def test_tokens_come_with_what_the_model_made_of_them_in_openai_s_shape() -> None:
    encoder = bare()
    half = token(7, b"\xe2\x82", -0.5, (7, b"\xe2\x82", -0.5), (3, b" a", -1.5))
    answer = ModelReturned(
        "g1-1-m",
        "\u20ac",
        "stop",
        Usage(3, 2, 0),
        logprobs=(half, token(8, b"\xac", -0.25)),
        prompt_logprobs=(token(1, b"<s>", None), token(2, b"Hi", -2.0, (5, b"Yo", -1.0), (2, b"Hi", -2.0))),
        token_ids=(7, 8),
        prompt_token_ids=(1, 2),
    )
    chunks = fed(encoder, *deltas("g1-1-m", "\u20ac"), committed(3, answer))
    whole = encoder.whole(chunks)
    choice = whole["choices"][0]
    assert choice["token_ids"] == [7, 8]
    assert whole["prompt_token_ids"] == [1, 2]
    assert choice["logprobs"]["content"][0] == {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -0.5,
        "bytes": [0xE2, 0x82],
        "top_logprobs": [
            {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xE2, 0x82]},
            {"token": " a", "logprob": -1.5, "bytes": [32, 97]},
        ],
    }
    assert choice["logprobs"]["content"][1]["bytes"] == [0xAC]
    assert whole["prompt_logprobs"] == [
        None,
        {
            "2": {"logprob": -2.0, "rank": 1, "decoded_token": "Hi"},
            "5": {"logprob": -1.0, "rank": 1, "decoded_token": "Yo"},
        },
    ]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "\u20ac", None, None]


@pytest.mark.parametrize(
    "said",
    [
        {"content": [{"type": "refusal", "refusal": "I will not."}]},
        {"content": None, "refusal": "I will not."},
        {"content": [{"type": "text", "text": "I will "}, {"type": "refusal", "refusal": "not."}]},
    ],
)
def test_what_an_assistant_refused_is_part_of_what_was_said(said: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Do it."}, {"role": "assistant", **said}, {"role": "user", "content": "?"}]
    data = command_data(read_request(body(messages=messages)), None)
    assert isinstance(data, Generate)
    assert data.messages[1] == Message("assistant", "I will not.")


@pytest.mark.parametrize("model", ["m", "agent/demo"])
def test_pictures_are_part_of_what_the_user_says_each_in_its_place(model: str) -> None:
    first, second = ({"url": f"https://example.com/{name}", "detail": "low"} for name in "ab")
    parts = [
        {"type": "image_url", "image_url": first},
        {"type": "text", "text": "or"},
        {"type": "image_url", "image_url": second},
    ]
    data = command_data(read_request(body(model=model, messages=[{"role": "user", "content": parts}])), None)
    assert isinstance(data, RunAgent | Generate)
    shown = (
        Image(url="https://example.com/a", detail="low", rest=2),
        Image(url="https://example.com/b", detail="low"),
    )
    assert data.messages == (Message("user", "or", images=shown),)


@pytest.mark.parametrize(("kind", "mend"), [("input_audio", "hears"), ("file", "files")])
def test_what_no_model_here_takes_in_is_refused_with_what_to_do(kind: str, mend: str) -> None:
    part = {"type": kind, kind: {"url": "u"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(BadRequest) as refused:
        read_request(json.dumps(body).encode())
    error = refused.value.body.error
    assert error.param == "messages[0].content[0].type"
    assert mend in error.message
