"""Processors of characters, prompts and answers."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.errors import CallFailed, DefinitionError
from actors.models.provider import ModelAnswer, ModelCall
from actors.processors.answers import SchemaValidator, StructuredOutput, SystemPromptScrubber
from actors.processors.guarded import Guarded
from actors.processors.processor import About, Processor, Tripped
from actors.processors.prompts import TokenLimiter, ToolCallFilter
from actors.processors.texts import BatchParts, UnicodeNormalizer
from actors.testing import ScriptedModel
from schemas.generation import Sampling
from schemas.messages import Message, ToolCall, Usage, misplaced_in
from tests.actors.processors.test_guarded import CALL, Heard, untimed

pytestmark = pytest.mark.anyio

INSTRUCTIONS = "You are the keeper of the lighthouse; never tell anybody that the lamp is out on Tuesdays."


def about(instructions: str = INSTRUCTIONS) -> About:
    messages = (Message("system", instructions), Message("user", "hi"))
    return About(ModelCall("e", "m", messages, (), Sampling(), "acme", "t1"))


def through(processor: Processor, pieces: list[str]) -> str:
    stream = processor.stream(about())
    assert stream is not None
    return "".join([*(stream.feed(piece) for piece in pieces), stream.end()])


@pytest.mark.parametrize(
    ("text", "form", "plain"),
    [
        ("e\u0301", "NFC", "é"),
        ("\uff21\uff22", "NFKC", "AB"),
        ("a\u200bb\u202ec\U000e0041d\x07e", "NFC", "abcde"),
        ("one\r\ntwo\tthree", "NFC", "one\ntwo\tthree"),
        ("👩\u200d💻", "NFC", "👩\u200d💻"),
        ("❤\ufe0f", "NFC", "❤\ufe0f"),
        ("a\u034f\u115f\u2064\u3164\uffa0b\ufff9c", "NFC", "abc"),
        ("a\u180eb\U0001d173c\U000e0fffd", "NFC", "abcd"),
        ("", "NFC", ""),
    ],
)
def test_characters_become_plain(text: str, form: Any, plain: str) -> None:
    normalizer = UnicodeNormalizer(form=form)
    assert normalizer.cleaned(text) == plain
    assert normalizer.cleaned(plain) == plain


@given(st.lists(st.text("ab .\n", max_size=20), max_size=8))
def test_batches_are_the_same_text_in_fewer_parts(pieces: list[str]) -> None:
    assert through(BatchParts(size=9), pieces) == "".join(pieces)


def test_watchers_hear_sentences() -> None:
    stream = BatchParts().stream(about())
    assert [stream.feed(word) for word in ("One", " two", ". Th", "ree")] == ["", "", "One two. ", ""]
    assert stream.end() == "Three"


@given(st.integers(0, 40), st.integers(40, 80), st.lists(st.integers(0, 300), max_size=9))
def test_no_run_of_the_instructions_gets_out(start: int, length: int, places: list[int]) -> None:
    leak = INSTRUCTIONS[start : start + length]
    text = f"I was told: {leak} And that is all."
    ends = sorted({0, len(text), *(place % len(text) for place in places)})
    out = through(SystemPromptScrubber(length=20), [text[first:last] for first, last in pairwise(ends)])
    assert not any(INSTRUCTIONS[at : at + 20] in out for at in range(len(INSTRUCTIONS) - 19))
    assert out.startswith("I was told:")
    assert out.endswith("that is all.")


def test_words_that_instructions_use_too_are_no_leak() -> None:
    assert (
        through(SystemPromptScrubber(), ["The keeper of the lighthouse sleeps."])
        == "The keeper of the lighthouse sleeps."
    )


@pytest.mark.parametrize("short", ["Never say Tuesday.", "  Never say Tuesday.\n"])
def test_instructions_that_are_short_do_not_get_out_as_a_whole(short: str) -> None:
    for pieces in (["It is: Never say Tuesday. Yes."], list("It is: Never say Tuesday. Yes.")):
        stream = SystemPromptScrubber().stream(about(short))
        assert stream is not None
        assert "".join([*(stream.feed(piece) for piece in pieces), stream.end()]) == "It is: […] Yes."
    assert SystemPromptScrubber().stream(about("Be kind.")) is None


async def test_older_turns_leave_the_prompt_and_the_instructions_stay() -> None:
    turns = [Message(role, "x" * 100) for _ in range(9) for role in ("user", "assistant")]
    shown = await TokenLimiter(tokens=200).prompt(
        (Message("system", "be kind"), *turns, Message("user", "now")), about()
    )
    assert (shown[0].content, shown[-1].content) == ("be kind", "now")
    assert len(shown) < 6


async def test_a_limiter_takes_what_is_empty_and_what_is_huge() -> None:
    called = Message("assistant", tool_calls=(ToolCall("k", "k", "x" * 2_000_000),))
    strange = [Message("user"), called, Message("tool", "", tool_call_id="k"), Message("user", "\u202e\u0301" * 9)]
    shown = await TokenLimiter(tokens=1).prompt(strange, about())
    assert [message.content for message in shown] == ["\u202e\u0301" * 9]
    assert await TokenLimiter().prompt([], about()) == ()
    for wrong in ({"tokens": 0}, {"rate": 0}, {"tokens": -5}):
        with pytest.raises(DefinitionError, match="give both from 1"):
            TokenLimiter(**wrong)


async def test_what_was_said_before_and_after_a_call_that_is_gone_is_one_message_for_turns_to_alternate() -> None:
    call = (ToolCall("k", "look", "{}"),)
    messages = [
        Message("user", "a"),
        Message("assistant", "let me see", call),
        Message("tool", "ok", tool_call_id="k"),
        Message("assistant", "it is 7"),
        Message("user", "b"),
    ]
    shown = await ToolCallFilter().prompt(messages, about())
    assert [(one.role, one.content) for one in shown] == [
        ("user", "a"),
        ("assistant", "let me see\n\nit is 7"),
        ("user", "b"),
    ]


async def test_tool_traffic_of_earlier_turns_leaves_the_prompt_and_what_is_under_way_stays() -> None:
    def step(name: str, said: str = "") -> list[Message]:
        return [Message("assistant", said, (ToolCall(name, name, "{}"),)), Message("tool", "ok", tool_call_id=name)]

    messages = [Message("user", "a"), *step("look", "let me see"), *step("mail"), Message("user", "b"), *step("look")]
    everything = await ToolCallFilter().prompt(messages, about())
    assert [message.content for message in everything] == ["a", "let me see", "b", "", "ok"]
    some = await ToolCallFilter(tools=["mail"]).prompt(messages, about())
    assert [call.name for message in some for call in message.tool_calls] == ["look", "look"]
    assert misplaced_in(everything) is None
    assert misplaced_in(some) is None


class Person(msgspec.Struct):
    name: str


async def test_an_answer_of_another_form_is_to_be_given_again_and_is_not_quoted() -> None:
    validator = SchemaValidator(type=Person)
    good = ModelAnswer('{"name": "Ann"}', "stop", Usage())
    assert await validator.result(good, about()) is good
    for text, why in (('{"name": 7}', r"fit the schema at `\$.name`"), ("secret", "no JSON")):
        with pytest.raises(Tripped, match=why) as tripped:
            await validator.result(ModelAnswer(text, "stop", Usage()), about())
        assert tripped.value.again
        assert "secret" not in tripped.value.reason


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError(f"secret {self.age}")


class Model(pydantic.BaseModel):
    age: int


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (Literal["a"], '"secret"', "at `$`"),
        (Strict, '{"age": 1, "secret": 2}', "at `$`"),
        (Strict, '{"age": -1}', "at `$`"),
        (Strict, "{}", "required field `age`"),
        (Model, '{"age": "secret"}', "at `$`"),
        (Model, '```json\n{"age": 1}\n```', "no JSON"),
    ],
)
async def test_why_an_answer_is_not_taken_tells_nothing_of_it(kind: Any, text: str, why: str) -> None:
    with pytest.raises(Tripped, match=re.escape(why)) as tripped:
        await SchemaValidator(type=kind).result(ModelAnswer(text, "stop", Usage()), about())
    assert "secret" not in tripped.value.reason


async def test_an_answer_may_be_of_a_pydantic_model() -> None:
    good = ModelAnswer('{"age": 1}', "stop", Usage())
    assert await SchemaValidator(type=Model).result(good, about()) is good


async def test_what_was_said_in_words_becomes_json_and_json_stays() -> None:
    person = StructuredOutput(type=Person)
    said = {"hi": "Her name is Ann.", "json": '{"name": "Ann"}', "fence": '```json\n{"name": "Ann"}\n```'}

    def script(call: ModelCall) -> str:
        if call.effect.endswith(".structured-output-form"):
            assert "Her name is Ann." in call.messages[0].content
            assert '"name"' in call.messages[0].content
            return '```json\n{"name":"Ann"}\n```'
        return said[call.messages[-1].content]

    model = ScriptedModel(script)
    for asked, text, calls in (("hi", '{"name":"Ann"}', 2), ("json", said["json"], 1), ("fence", said["json"], 1)):
        heard, before = Heard(), len(model.calls)
        call = replace(CALL, messages=(Message("user", asked),))
        answer = await Guarded(model, [person], first=True).call(call, heard)
        assert answer.text == heard.text == text
        assert len(model.calls) - before == calls
        changed = [(one.hook, one.reason) for one in untimed(answer.processed) if one.action == "changed"]
        assert changed == ([] if asked == "json" else [("result", "into JSON")])


async def test_what_becomes_no_json_is_to_be_said_again_and_nobody_hears_of_it() -> None:
    heard, model = Heard(), ScriptedModel(lambda _: "a secret")
    with pytest.raises(CallFailed, match="no JSON") as failed:
        await Guarded(model, [StructuredOutput(type=Person)], first=True).call(CALL, heard)
    assert (failed.value.problem.kind, failed.value.problem.retry_after_ms > 0) == ("tripwire", True)
    assert "secret" not in failed.value.problem.message
    assert heard.text == ""
    assert failed.value.usage.completion_tokens == 2


def test_a_scrubber_of_plain_words_is_refused() -> None:
    with pytest.raises(DefinitionError):
        SystemPromptScrubber(length=3)
