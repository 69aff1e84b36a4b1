"""Answers read token by token: what a special token says, and how many tokens were thought."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Plain

from engine.text.answers import AnswerReader
from engine.text.formats import HARMONY, HERMES
from engine.text.parsers import NOTHING, Thinking, Wanted
from engine.text.parts import Part, joined
from engine.text.tokenizer import Tokenizer
from schemas.generation import Sampling
from tests.engine.text.test_tokenizer import trained

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>", *dict.fromkeys(HARMONY.marks()))
THINK = Thinking("think", "<think>", "</think>")


def made() -> Tokenizer:
    plain = trained()
    plain.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return Tokenizer(plain, ())


TOKENIZER = made()


def wanted(**more: Any) -> Wanted:
    return Wanted(**{"format": HERMES, "thinking": THINK, "schemas": {"add": {}}, **more}).hearing(TOKENIZER.special)


def read(text: str, how: Wanted, stop: tuple[str, ...] = ()) -> AnswerReader:
    answer = AnswerReader(TOKENIZER, how, stop)
    for token in TOKENIZER.encode(text):
        answer.read([token])
    answer.finish()
    return answer


def test_special_tokens_are_tags_and_their_text_spelled_out_is_text() -> None:
    answer = read(f"<think>well</think>Yes. {CALL}", wanted())
    assert (answer.reasoning, answer.text) == ("well", "Yes.")
    assert [(call.name, call.arguments) for call in answer.calls] == [("add", '{"a": 1}')]
    spelled = read(TOKENIZER.quoted(f"Yes. {CALL}"), wanted())
    assert (spelled.text, spelled.calls) == (f"Yes. {CALL}", [])


def test_tokens_that_were_thought_are_counted_with_their_tags() -> None:
    encode = TOKENIZER.encode
    assert read("<think>hello there</think>the end", wanted()).reasoning_tokens == 2 + len(encode("hello there"))
    assert read("hello there</think>the end", wanted(begun=True)).reasoning_tokens == 1 + len(encode("hello there"))
    assert read("hello there the end", wanted()).reasoning_tokens == 0
    assert read("hello there the end", wanted(begun=True)).reasoning_tokens == len(encode("hello there the end"))


def test_harmony_s_channels_are_told_apart_by_their_tokens() -> None:
    text = (
        "<|channel|>analysis<|message|>hello<|end|><|start|>assistant"
        '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
    )
    answer = read(text, wanted(format=HARMONY, thinking=None))
    assert (answer.reasoning, answer.text, len(answer.calls)) == ("hello", "", 1)
    assert 1 <= answer.reasoning_tokens <= len(TOKENIZER.encode(text.partition("<|start|>")[0]))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.sampled_from([*MARKS, CALL, "hello", " the", "\n", "é", "{", '"', "STOP", "ST"]), max_size=9),
    st.sampled_from([HERMES, HARMONY]),
    st.booleans(),
    st.data(),
)
def test_how_many_tokens_come_at_once_changes_nothing(texts: list[str], format_: Any, begun: bool, data: Any) -> None:
    how = wanted(format=format_, thinking=THINK if format_ is HERMES else None, begun=begun)
    tokens = TOKENIZER.encode("".join(texts))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=5)))
    found: list[list[Part]] = []
    for ends in ([len(tokens)], [*cuts, len(tokens)], [*range(len(tokens) + 1)]):
        answer = AnswerReader(TOKENIZER, how, ("STOP",))
        parts = [part for a, b in zip([0, *ends], ends, strict=False) for part in answer.read(tokens[a:b])]
        found.append(joined([*parts, *answer.finish()]))
    assert found[0] == found[1] == found[2]


def heard(text: str, stop: tuple[str, ...] = (), **more: Any) -> AnswerReader:
    answer = AnswerReader(TOKENIZER, Wanted(), stop, Sampling(**more))
    for token in TOKENIZER.encode(text):
        answer.read([token])
    answer.finish()
    return answer


def test_a_text_that_ends_an_answer_belongs_to_it_where_that_is_wanted() -> None:
    assert heard("hello STOP the end", ("STOP",)).text == "hello "
    kept = heard("hello STOP the end", ("STOP",), include_stop_str_in_output=True)
    assert (kept.text, kept.stopped, kept.met) == ("hello STOP", True, "STOP")


def test_it_is_told_which_text_ended_an_answer() -> None:
    assert heard("hello STOP the end", ("end", "STOP")).met == "STOP"
    assert heard("hello STO", ("end", "STOP")).met == ""


def test_a_stop_text_that_comes_too_early_is_text() -> None:
    least = len(TOKENIZER.encode("hello STOP"))
    early = heard("hello STOP the STOP end", ("STOP",), min_tokens=least)
    assert (early.text, early.stopped) == ("hello STOP the ", True)
    assert heard("hello STOP", ("STOP",), min_tokens=least).text == "hello STOP"
    assert heard("hello STOP the", ("STOP",), min_tokens=least - 1).text == "hello "
    assert heard("hello STOP the", ("STOP there", "STOP"), min_tokens=least).text == "hello STOP the"


def test_special_tokens_have_between_them_what_the_tokenizer_puts_there_unless_it_is_not_wanted() -> None:
    plain = Plain(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    plain.add_special_tokens(["<|x|>", "<|y|>"])
    tokenizer, tokens = Tokenizer(plain, ()), [2, 3, 2]

    def said(**sampling: Any) -> str:
        answer = AnswerReader(tokenizer, NOTHING, (), Sampling(**sampling))
        answer.read(tokens)
        answer.finish()
        return answer.text

    assert said(skip_special_tokens=False) == plain.decode(tokens, skip_special_tokens=False) == "<|x|> <|y|> <|x|>"
    assert said(skip_special_tokens=False, spaces_between_special_tokens=False) == "<|x|><|y|><|x|>"
    assert not said()
    # those of a vocabulary of bytes have nothing there anyway
    assert TOKENIZER.between == ""


def test_an_answer_that_is_to_have_no_text_has_none() -> None:
    answer = heard("hello STOP the end", detokenize=False)
    assert (answer.text, answer.reasoning, answer.calls, answer.stopped) == ("", "", [], False)


def test_special_tokens_can_be_read_but_for_the_one_that_ends_the_answer() -> None:
    text = "hello<|start|> the<|end|>"
    assert heard(text).text == "hello the"
    end = TOKENIZER.special["<|end|>"]
    assert heard(text, skip_special_tokens=False, stop_tokens=(end,)).text == "hello<|start|> the"
