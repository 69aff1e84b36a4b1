"""OpenAI's completions: raw prompts to generations, frames to choices."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from infra.bridge.completions import CompletionEncoder, generations, read_completion
from infra.bridge.openai import BadRequest
from schemas import codec
from schemas.answers import Alternative, TokenTold
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import Usage
from schemas.runs import Event, ModelFailed, ModelReturned, Problem


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "Once", **fields}).encode()


def committed(event: Event) -> Committed:
    return Committed("1-0", codec.tag(event), "g1", "g1", "", "acme", "", 3, codec.payload(event))


def returned(text: str, reason: Any = "stop") -> Committed:
    return committed(ModelReturned("g1-1-m", text, reason, Usage(4, 2, 1)))


def delta(text: str, offset: int = 0, choice: int = 0) -> Delta:
    return Delta("g1", "g1", "g1-1-m", 2, offset, text, choice=choice)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("Once", ["Once"]),
        (["Once", "Twice"], ["Once", "Twice"]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_every_prompt_becomes_a_generation(given: Any, prompts: list[Any]) -> None:
    wanted = generations(read_completion(body(prompt=given, stop="END", seed=3, top_k=5)))
    assert [data.prompt for data in wanted] == prompts
    assert {(data.messages, data.max_tokens, data.stop, data.seed, data.top_k) for data in wanted} == {
        ((), 16, ("END",), 3, 5)
    }


def test_an_answer_whose_tokens_are_given_is_as_long_as_they_are() -> None:
    given = list(range(40))
    (data,) = generations(read_completion(body(trace_decode_token_ids=given)))
    assert (data.trace_decode_token_ids, data.max_tokens) == (tuple(given), None)
    (cut,) = generations(read_completion(body(trace_decode_token_ids=given, max_tokens=3)))
    assert cut.max_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"model": "agent/demo"}, "model"),
        ({"n": 0}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_is_not_served_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_completion(body(**fields))
    assert refused.value.status == 400
    assert (refused.value.body.error.param or "").startswith(param)


def encoder(**fields: Any) -> CompletionEncoder:
    return CompletionEncoder("g1", read_completion(body(**fields)), 7)


def test_a_stream_and_a_whole_answer_agree_and_look_as_openai_s() -> None:
    made = encoder(prompt=["a", "b"])
    frames: list[tuple[int, Frame]] = [
        (1, delta("b")),
        (0, delta("a")),
        (0, returned("aa", "length")),
        (1, returned("b")),
    ]
    chunks = [chunk for index, frame in frames for chunk in made.feed(frame, index)]
    head = {"id": "cmpl-g1", "object": "text_completion", "created": 7, "model": "m"}
    assert all({key: chunk[key] for key in head} == head for chunk in chunks)
    assert [(c["choices"][0]["index"], c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        (1, "b", None),
        (0, "a", None),
        (0, "a", None),
        (0, "", "length"),
        (1, "", "stop"),
    ]
    whole = msgspec.to_builtins(made.whole(chunks))
    assert whole["choices"] == [
        {"index": 0, "text": "aa", "logprobs": None, "finish_reason": "length"},
        {"index": 1, "text": "b", "logprobs": None, "finish_reason": "stop"},
    ]
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (8, 4)
    assert made.usage_chunk()["choices"] == []


@pytest.mark.parametrize(
    "frame",
    [
        committed(ModelFailed("e", Problem("aborted", "no"))),
        Outcome("g1", "refused", "g1", Problem("invalid", "no")),
        returned("half", "timeout"),
    ],
)
def test_an_answer_that_is_none_is_a_problem(frame: Frame) -> None:
    made = encoder()
    made.feed(frame)
    assert made.problem is not None


def token(piece: bytes, logprob: float | None, *top: tuple[bytes, float]) -> TokenTold:
    return TokenTold(1, piece, logprob, 1, tuple((1, other, number) for other, number in top))


def test_several_answers_to_several_prompts_are_numbered_through() -> None:
    made = encoder(prompt=["a", "b"], n=2)
    answer = ModelReturned("g1-1-m", "x", "stop", Usage(4, 2, 1), more=(Alternative("yy", "length"),))
    frames = [(0, delta("y", choice=1)), (1, committed(answer)), (0, committed(answer))]
    chunks = [chunk for index, frame in frames for chunk in made.feed(frame, index)]
    found = [(one["index"], one["text"], one["finish_reason"]) for one in made.whole(chunks)["choices"]]
    assert found == [(0, "x", "stop"), (1, "yy", "length"), (2, "x", "stop"), (3, "yy", "length")]


def test_tokens_may_be_called_by_their_ids() -> None:
    made = encoder(logprobs=1, return_tokens_as_token_ids=True)
    told = (TokenTold(5, b"a", -1.5, 2, ((7, b"b", -0.5),)),)
    made_of = committed(ModelReturned("g1-1-m", "a", "stop", Usage(1, 1), logprobs=told))
    logprobs = made.whole(made.feed(made_of))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:5"]
    assert logprobs["top_logprobs"] == [{"token_id:7": -0.5, "token_id:5": -1.5}]


def test_a_prompt_is_given_back_with_the_logprobs_of_its_tokens() -> None:
    made = encoder(prompt="a ☂", echo=True, logprobs=1, max_tokens=0)
    (asked,) = generations(read_completion(body(prompt="a ☂", echo=True, logprobs=1, max_tokens=0)))
    assert (asked.max_tokens, asked.logprobs, asked.prompt_logprobs) == (1, 1, 1)
    before = (token(b"a ", None), token(b"\xe2\x98", -1.5, (b"b", -0.5)), token(b"\x82", -0.25, (b"\x82", -0.25)))
    answer = ModelReturned(
        "g1-1-m", "left out", "length", Usage(3, 1), logprobs=(token(b"left", -2.0),), prompt_logprobs=before
    )
    (choice,) = made.whole([*made.feed(delta("left")), *made.feed(committed(answer))])["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a ☂", "length")
    assert choice["logprobs"] == {
        "tokens": ["a ", "bytes:\\xe2\\x98", "bytes:\\x82"],
        "token_logprobs": [None, -1.5, -0.25],
        "top_logprobs": [None, {"b": -0.5, "bytes:\\xe2\\x98": -1.5}, {"bytes:\\x82": -0.25}],
        "text_offset": [0, 2, 2],
    }


def cut(at: int, until: int, text: str, offset: int) -> Delta:
    told = {"token_offset": at, "logprobs": TOLD[at:until], "token_ids": tuple(range(at, until))}
    return Delta("g1", "g1", "g1-1-m", 2, offset, text, **told)


TOLD = (
    token(b"a", -1.0, (b"b", -0.5)),
    token(b"\xe2\x98", -1.5),
    token(b"\x82", -0.25),
    token(b" end", -2.0),
    token(b"", -3.0),
)
PIECES = [cut(0, 1, "a", 0), cut(1, 3, "☂", 1), cut(3, 4, " end", 2)]


@pytest.mark.parametrize("heard", range(len(PIECES) + 1))
@pytest.mark.parametrize("echo", [True, False])
def test_each_chunk_of_a_stream_has_its_tokens_and_all_of_them_are_those_of_the_answer(heard: int, echo: bool) -> None:
    answer = ModelReturned(
        *("g1-1-m", "a☂ end", "stop", Usage(3, 1)),
        logprobs=TOLD,
        token_ids=(0, 1, 2, 3, 4),
        prompt_logprobs=(token(b"Once", None),),
        prompt_token_ids=(9,),
    )
    made, alone = (encoder(logprobs=1, return_token_ids=True, echo=echo) for _ in range(2))
    chunks = [chunk for piece in PIECES[:heard] for chunk in made.feed(piece)] + made.feed(committed(answer))
    assert made.whole(chunks) == alone.whole(alone.feed(committed(answer)))
    if not echo:
        told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        assert [one["text_offset"] for one in told[:heard]] == [[0], [1, 1], [2]][:heard]
        assert [chunk["choices"][0]["token_ids"] for chunk in chunks[:heard]] == [[0], [1, 2], [3]][:heard]
        assert told[-1]["tokens"] == ([""] if heard == len(PIECES) else [])
        assert [name for one in told for name in one["tokens"]] == ["a", "bytes:\\xe2\\x98", "bytes:\\x82", " end", ""]


def test_token_ids_are_given_back_as_text_before_the_answer() -> None:
    made = encoder(prompt=[4, 5], echo=True, return_token_ids=True)
    before = (token(b"a", None), token(b"b", -1.5))
    answer = ModelReturned(
        "g1-1-m", "c", "stop", Usage(), prompt_logprobs=before, token_ids=(6,), prompt_token_ids=(4, 5)
    )
    (choice,) = made.whole(made.feed(committed(answer)))["choices"]
    assert (choice["text"], choice["logprobs"]) == ("abc", None)
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([6], [4, 5])
