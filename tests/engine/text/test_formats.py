"""Every format's answers come to the same pieces wherever they are cut."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.formats import FORMATS, HARMONY, HERMES, Format
from engine.text.parsers import OutputParser, Wanted
from engine.text.parts import Content, joined
from engine.text.source import SPECIAL
from tests.engine.text.answers import ANSWERS, SCHEMAS, THINK, Answer, contents, pieces

SHORT = 90
"""Answers of at most so many characters are cut at every pair of places."""


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.format.name}: {answer.text[:30]!r}")
def test_an_answer_comes_to_what_it_holds(answer: Answer) -> None:
    found = pieces([answer.text], answer.wanted, answer.stop)
    assert contents(found) == (answer.said, answer.calls, answer.thought)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.format.name}: {answer.text[:30]!r}")
def test_where_an_answer_is_cut_changes_nothing(answer: Answer) -> None:
    text, wanted, stop = answer.text, answer.wanted, answer.stop
    whole = pieces([text], wanted, stop)
    assert pieces(list(text), wanted, stop) == whole
    for cut in range(len(text)):
        assert pieces([text[:cut], text[cut:]], wanted, stop) == whole
    for one, two in itertools.combinations(range(len(text)), 2) if len(text) <= SHORT else ():
        assert pieces([text[:one], text[one:two], text[two:]], wanted, stop) == whole


def marks(format_: Format) -> list[str]:
    return [*dict.fromkeys(format_.marks())]


FRAGMENTS = ["add", "say", "{", "}", "[", "]", '"', "\\", "\n", " ", ",", ":", "=", "(", ")", "1", "é", "x", "'", ";"]
WHOLE = ['{"a": 1}', '{"name": "add", "arguments": {"a": 1}}', "add(a=1)", "<think>", "</think>", "STOP", "ST"]


@pytest.mark.parametrize("format_", FORMATS.values(), ids=lambda format_: format_.name)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_where_anything_at_all_is_cut_changes_nothing(format_: Format, data: st.DataObject) -> None:
    known = [answer.text for answer in ANSWERS if answer.format is format_]
    parts = st.sampled_from([*FRAGMENTS, *WHOLE, *marks(format_)]) | st.sampled_from([*known, "x"]).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda end: text[:end])
    )
    text = "".join(data.draw(st.lists(parts, max_size=9)))
    stop = data.draw(st.sampled_from([(), ("STOP",), ("ST", "x\n"), ("<", "]"), (" ",)]))
    begun = data.draw(st.booleans())
    wanted = Wanted(format_, data.draw(st.sampled_from([None, THINK])), begun, schemas=SCHEMAS)
    whole = pieces([text], wanted, stop)
    assert pieces(list(text), wanted, stop) == whole
    for call, arguments in contents(whole)[1]:
        assert call
        assert isinstance(json.loads(arguments), dict)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert pieces([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], wanted, stop) == whole


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.format.name}: {answer.text[:30]!r}")
def test_marks_that_are_special_tokens_are_none_where_they_are_spelled_out(answer: Answer) -> None:
    special = frozenset(answer.format.marks())
    wanted = Wanted(answer.format, None, schemas=SCHEMAS, special=special)
    said, calls, thought = contents(pieces([answer.text], wanted))
    if not any(opener.fresh for opener in answer.format.openers):
        assert (said, calls, thought) == (answer.text, (), "")


def test_special_tokens_are_marks_and_plain_text_where_they_are_not() -> None:
    wanted = Wanted(HARMONY, schemas=SCHEMAS, special=frozenset(HARMONY.marks()))
    text = "<|channel|>final<|message|>Write <|channel|>analysis<|message|>.<|return|>"
    marked = text.replace("<|", f"{SPECIAL}<|", 2).replace("<|return|>", f"{SPECIAL}<|return|>")
    assert contents(pieces(list(marked), wanted))[0] == "Write <|channel|>analysis<|message|>."
    broken = f"{SPECIAL}<tool_call>{{"
    assert contents(pieces([broken], Wanted(HERMES, special=frozenset({"<tool_call>"}))))[0] == "<tool_call>{"


def test_calls_that_are_not_wanted_are_text() -> None:
    for answer in ANSWERS:
        if answer.format is not HARMONY and answer.thinking is None and not answer.stop:
            assert contents(pieces([answer.text], Wanted(answer.format, calls=False)))[:2] == (answer.text, ())
    text = '<|channel|>commentary to=functions.add json<|message|>{"a": 1}<|call|>'
    assert contents(pieces([text], Wanted(HARMONY, calls=False)))[:2] == ('{"a": 1}', ())


def test_the_last_call_that_is_wanted_ends_the_answer() -> None:
    for answer in ANSWERS:
        if len(answer.calls) > 1 and not answer.stop:
            wanted = Wanted(answer.format, answer.thinking, answer.begun, most_calls=1, schemas=SCHEMAS)
            parser = OutputParser((), wanted)
            for part in answer.text:
                parser.feed(part)
            assert parser.stopped
            assert [(call.name, call.arguments) for call in parser.calls] == [*answer.calls[:1]]


def test_a_value_may_hold_what_ends_values_but_not_without_end() -> None:
    wanted = Wanted(FORMATS["qwen3_coder"], schemas=SCHEMAS)
    begin, end = "<tool_call><function=say><parameter=text>", "</parameter></function></tool_call>"
    (some,) = contents(pieces([begin + "</parameter>" * 9 + end], wanted))[1]
    assert json.loads(some[1]) == {"text": "</parameter>" * 9}
    endless = begin + "</parameter>" * 99 + end
    assert contents(pieces(list(endless), wanted))[:2] == (endless, ())


def test_reasoning_is_told_while_it_is_written() -> None:
    parser = OutputParser((), Wanted(HERMES, THINK, begun=True))
    assert parser.reasoning
    parser.feed("hm")
    assert parser.reasoning
    parser.feed("</think>")
    assert not parser.reasoning


def test_an_object_that_cannot_become_a_call_is_not_held_back() -> None:
    parser = OutputParser((), Wanted(FORMATS["llama3_json"], schemas=SCHEMAS))
    assert parser.feed('{"answer": [1, 2,') != []


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("glm", "<tool_call>say<arg_key>text</arg_key><arg_value>"),
        ("qwen3_coder", "<tool_call><function=say><parameter=text>"),
        ("olmo3", "<function_calls>say(text='''"),
    ],
)
def test_calls_that_are_opened_again_and_again_are_looked_through_once(name: str, opened: str) -> None:
    parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
    text = opened * 24_000
    begun = time.process_time()
    parts = [*parser.feed(text), *parser.finish()]
    assert time.process_time() - begun < 3
    assert joined(parts) == [Content(text)]
