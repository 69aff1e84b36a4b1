"""Streams of every format become the same few things, however their bytes are cut, broken off or repeated."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ProviderFailed
from actors.models.provider import ModelAnswer, Piece
from actors.models.remote import UNREADABLE
from actors.models.wires.formats import WIRES
from schemas.answers import TokenTold
from tests.actors.models import recorded_responses
from tests.actors.models.calls import asking, reached
from tests.actors.models.double import amazon_event, event
from tests.actors.models.recorded import ALL as RECORDED
from tests.actors.models.recorded import ANTHROPIC, BEDROCK, GEMINI, OPENAI, Recorded

ALL = {**RECORDED, **recorded_responses.ALL}
NAMES = sorted(ALL)


def heard(recorded: Recorded, parts: list[bytes]) -> tuple[list[Piece], ModelAnswer]:
    model = reached(f"{recorded.provider}/m")
    reader = WIRES[recorded.wire].reader(asking(), model)
    pieces = [piece for part in parts for piece in reader.feed(part)]
    return pieces, reader.end()


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_says_what_it_says(name: str) -> None:
    recorded = ALL[name]
    pieces, answer = heard(recorded, list(recorded.parts))
    assert answer.text == recorded.text
    assert answer.reasoning == recorded.reasoning
    assert answer.tool_calls == recorded.calls
    assert answer.finish_reason == recorded.finish
    assert answer.usage == recorded.usage
    assert answer.thoughts == recorded.thoughts
    assert answer.engine == f"{recorded.provider}/m"
    for kind, whole in (("text", answer.text), ("reasoning", answer.reasoning)):
        said = ""
        for piece in pieces:
            if piece.kind == kind:
                assert piece.offset == len(said)
                said += piece.text
        assert said == whole


def test_anthropic_says_which_text_ended_an_answer() -> None:
    ended = re.compile(rb'"stop_reason": ?"tool_use", ?"stop_sequence": ?null')
    told = b'"stop_reason": "stop_sequence", "stop_sequence": "Human:"'
    said, count = ended.subn(told, ANTHROPIC.whole)
    assert count == 1
    assert heard(ANTHROPIC, [said])[1].stopped_at == "Human:"
    assert heard(ANTHROPIC, [ANTHROPIC.whole])[1].stopped_at == ""
    before, last, after = said.rpartition(b"event: message_stop")
    usage = b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":9}}\n\n'
    assert heard(ANTHROPIC, [before + usage + last + after])[1].stopped_at == "Human:"


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_it_is_the_same_however_its_bytes_are_cut(name: str, data: st.DataObject) -> None:
    recorded = ALL[name]
    whole = recorded.whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert heard(recorded, parts) == heard(recorded, [whole])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_byte_by_byte(name: str) -> None:
    recorded = ALL[name]
    assert heard(recorded, [bytes([byte]) for byte in recorded.whole]) == heard(recorded, [recorded.whole])


@pytest.mark.parametrize("name", NAMES)
def test_one_that_breaks_off_is_no_answer_and_may_be_asked_for_again(name: str) -> None:
    recorded = ALL[name]
    ends = {
        "chat": b'"finish_reason": "',
        "anthropic": b"stop_reason",
        "gemini": b"finishReason",
        "bedrock": b"stopReason",
        "responses": b'"incomplete_details"',
    }
    last = next(
        index
        for index, part in enumerate(recorded.parts)
        if ends[recorded.wire] in part and b'"message_start"' not in part
    )
    for kept in range(last + 1):
        parts = [*recorded.parts[:kept], recorded.parts[kept][: len(recorded.parts[kept]) // 3]]
        with pytest.raises(ProviderFailed) as failed:
            heard(recorded, parts)
        assert failed.value.elsewhere
        assert failed.value.problem.retry_after_ms > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_that_is_told_twice_is_heard_once(name: str) -> None:
    recorded = ALL[name]
    _, once = heard(recorded, [recorded.whole])
    _, twice = heard(recorded, [recorded.whole, recorded.whole])
    assert twice == once


@pytest.mark.parametrize("name", NAMES)
@given(noise=st.binary(min_size=1, max_size=60), at=st.integers(0, 4))
def test_a_stream_with_something_else_in_it_fails_as_a_provider_fails_or_is_the_same(
    name: str, noise: bytes, at: int
) -> None:
    recorded = ALL[name]
    damaged = [*recorded.parts[:at], noise + b"\n\n", *recorded.parts[at:]]
    # anything else that a reader raises is taken for the same where it is called
    with contextlib.suppress(ProviderFailed, *UNREADABLE):
        heard(recorded, damaged)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("recorded", [OPENAI, ANTHROPIC, GEMINI], ids=lambda recorded: recorded.wire)
def test_lines_may_end_in_any_of_the_three_ways(recorded: Recorded, line_end: bytes) -> None:
    other = recorded.whole.replace(b"\r\n", b"\n").replace(b"\n", line_end)
    assert heard(recorded, [other]) == heard(recorded, [recorded.whole])


def test_an_event_may_come_without_a_space_with_several_lines_and_with_a_mark_before_it() -> None:
    odd = b'\xef\xbb\xbfdata:{"choices":[{"index":0,\ndata:"delta":{"content":"x"},"finish_reason":"stop"}]}'
    _, answer = heard(OPENAI, [odd])
    assert (answer.text, answer.finish_reason) == ("x", "stop")


@pytest.mark.parametrize(
    ("recorded", "told", "kind"),
    [
        (
            OPENAI,
            event({"error": {"message": "The server is overloaded", "type": "server_error", "code": 503}}),
            "overloaded",
        ),
        (OPENAI, event({"error": {"message": "Provider returned error", "code": 502}}), "engine"),
        (OPENAI, event({"error": {"message": "maximum context length is 8192", "code": 400}}), "too_long"),
        (
            ANTHROPIC,
            event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"),
            "overloaded",
        ),
        (ANTHROPIC, event({"type": "error", "error": {"type": "api_error", "message": "oops"}}, "error"), "engine"),
        (GEMINI, event({"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}), "overloaded"),
        (
            BEDROCK,
            amazon_event(
                "", {"message": "slow down"}, **{":message-type": "exception", ":exception-type": "throttlingException"}
            ),
            "overloaded",
        ),
        (
            BEDROCK,
            amazon_event(
                "",
                {"message": "input is too long"},
                **{":message-type": "exception", ":exception-type": "validationException"},
            ),
            "too_long",
        ),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_told(recorded: Recorded, told: bytes, kind: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        heard(recorded, [*recorded.parts[:3], told])
    assert failed.value.problem.kind == kind
    assert failed.value.elsewhere == (kind != "too_long")


@pytest.mark.parametrize(
    ("provider", "wire", "told"),
    [
        ("openai", "chat", event({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]})),
        (
            "openai",
            "chat",
            event({"choices": [{"index": 0, "delta": {"refusal": "No."}}]})
            + event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        ),
        ("anthropic", "anthropic", event({"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {}})),
        ("google", "gemini", event({"candidates": [{"finishReason": "SAFETY", "index": 0}]})),
        ("google", "gemini", event({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})),
        ("bedrock", "bedrock", amazon_event("messageStop", {"stopReason": "guardrail_intervened"})),
    ],
)
def test_an_answer_that_is_withheld_is_a_refusal_that_no_retry_mends(provider: str, wire: str, told: bytes) -> None:
    with pytest.raises(ProviderFailed) as failed:
        heard(Recorded(provider, wire, ()), [told])  # type: ignore[arg-type]
    assert failed.value.problem.kind == "invalid"
    assert not failed.value.elsewhere


def test_calls_without_ids_get_ids_that_are_the_same_in_every_attempt() -> None:
    told = event(
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}] * 2}, "finishReason": "STOP"}]}
    )
    first, second = (heard(GEMINI, [told])[1].tool_calls for _ in range(2))
    assert first == second
    assert len({call.id for call in first}) == 2
    assert [call.arguments for call in first] == ["{}", "{}"]


def _openai(text: str, *told: tuple[str, float, list[int] | None, list[tuple[str, float]]]) -> bytes:
    """A chunk as OpenAI writes it where logprobs are asked for."""
    content = [
        {
            "token": token,
            "logprob": logprob,
            "bytes": spelled,
            "top_logprobs": [
                {"token": other, "logprob": chance, "bytes": list(other.encode())} for other, chance in top
            ],
        }
        for token, logprob, spelled, top in told
    ]
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": content, "refusal": None}}
    return event({"choices": [{**choice, "finish_reason": None}]})


def test_openai_s_tokens_are_told_with_their_text_and_a_part_of_a_character_with_the_next() -> None:
    model = reached("openai/m")
    reader = WIRES["chat"].reader(asking(), model)
    parts = [
        event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None}]}),
        _openai("Hi", ("Hi", -0.5, [72, 105], [("Yo", -0.25), ("Hi", -0.5)])),
        _openai("", ("\\xe2", -0.1, [0xE2, 0x82], [])),
        _openai("€", ("\\xac", -0.2, [0xAC], [])),
        _openai("!", ("!", -0.3, None, [])),
        event({"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]}),
    ]
    pieces = [piece for part in parts for piece in reader.feed(part)]
    told = [(piece.text, piece.before, len(piece.logprobs)) for piece in pieces]
    assert told == [("Hi", 0, 1), ("€", 1, 2), ("!", 3, 1)]
    answer = reader.end()
    assert answer.logprobs == tuple(one for piece in pieces for one in piece.logprobs)
    assert answer.logprobs[0] == TokenTold(0, b"Hi", -0.5, 2, ((0, b"Yo", -0.25), (0, b"Hi", -0.5)))
    assert b"".join(one.piece for one in answer.logprobs).decode() == answer.text


def test_gemini_s_tokens_are_told_with_their_ids() -> None:
    reader = WIRES["gemini"].reader(asking(), reached("google/m"))
    chosen = [{"token": "Hi", "tokenId": 7, "logProbability": -0.5}, {"token": "!", "logProbability": -0.1}]
    top = [{"candidates": [{"token": "Yo", "tokenId": 8, "logProbability": -0.25}, chosen[0]]}]
    told = {"chosenCandidates": chosen, "topCandidates": top}
    parts = {"content": {"parts": [{"text": "Hi!"}]}, "finishReason": "STOP", "logprobsResult": told}
    (piece,) = reader.feed(event({"candidates": [parts]}))
    first = TokenTold(7, b"Hi", -0.5, 2, ((8, b"Yo", -0.25), (7, b"Hi", -0.5)))
    assert piece.logprobs == reader.end().logprobs == (first, TokenTold(0, b"!", -0.1, 1))


@pytest.mark.parametrize("told", [{"content": [{"token": 3}]}, {"content": 7}, {"content": [{"token": "a"}]}])
def test_logprobs_that_are_none_are_a_failure_of_the_provider_s(told: object) -> None:
    reader = WIRES["chat"].reader(asking(), reached("openai/m"))
    with pytest.raises((ProviderFailed, *UNREADABLE)):
        reader.feed(event({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": told}]}))
