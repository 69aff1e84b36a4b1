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
from engine.text.parts import CallArguments, CallBegun, CallEnded, Content, joined
from engine.text.source import SPECIAL, Broken, Source
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
    assert all(name for name, _ in contents(whole)[1])
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
    # of a text it is told as it comes; what would be read again if it were no call after all has bounds
    (more,) = contents(pieces([begin + "</parameter>" * 99 + end], wanted))[1]
    assert json.loads(more[1]) == {"text": "</parameter>" * 99}
    endless = begin.replace("text", "loud") + "</parameter>" * 99 + end
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
        ("glm", "<tool_call>say<arg_key>to</arg_key><arg_value>"),
        ("qwen3_coder", "<tool_call><function=say><parameter=loud>"),
        ("olmo3", "<function_calls>say(to=['"),
    ],
)
def test_calls_that_are_opened_again_and_again_are_looked_through_once(name: str, opened: str) -> None:
    parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
    text = opened * 24_000
    begun = time.process_time()
    parts = [*parser.feed(text), *parser.finish()]
    assert time.process_time() - begun < 3
    assert joined(parts) == [Content(text)]


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("glm", "<tool_call>say<arg_key>text</arg_key><arg_value>", "</arg_value></tool_call>"),
        ("qwen3_coder", "<tool_call><function=say><parameter=text>\n", "\n</parameter></function></tool_call>"),
        ("hermes", '<tool_call>{"name": "say", "arguments": {"text": "', '"}}</tool_call>'),
        ("mistral", '[TOOL_CALLS]say[ARGS]{"text": "', '"}'),
        ("mistral", '[TOOL_CALLS][{"name": "say", "arguments": {"text": "', '"}}]'),
        ("llama3_json", '{"name": "say", "parameters": {"text": "', '"}}'),
        ("deepseek_v31", '<｜tool▁call▁begin｜>say<｜tool▁sep｜>{"text": "', '"}<｜tool▁call▁end｜>'),  # noqa: RUF001
        ("kimi_k2", '<|tool_call_begin|>functions.say:0<|tool_call_argument_begin|>{"text": "', '"}<|tool_call_end|>'),
        ("harmony", '<|channel|>commentary to=functions.say <|constrain|>json<|message|>{"text": "', '"}<|call|>'),
    ],
)
def test_a_call_is_told_while_it_is_written(name: str, begin: str, end: str) -> None:
    """Its name before its first argument, and of a long text in it what is there, character by character."""
    parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
    told = joined(part for char in begin for part in parser.feed(char))
    assert told == [CallBegun(0, "say"), CallArguments(0, '{"text": "')]
    for char in "a long é text":
        assert parser.feed(char) == [CallArguments(0, char)]
    assert not parser.calls
    for char in end:
        parser.feed(char)
    parser.finish()
    assert [(call.name, json.loads(call.arguments)) for call in parser.calls] == [("say", {"text": "a long é text"})]


@pytest.mark.parametrize("name", ["pythonic", "olmo3"])
def test_a_call_as_python_writes_it_is_told_argument_by_argument(name: str) -> None:
    parser = OutputParser((), Wanted(FORMATS[name], schemas=SCHEMAS))
    written = ("[" if name == "pythonic" else "<function_calls>", "say(text='a b'", ", to=[1", ", 2]", ", loud=True)")
    assert [joined(parser.feed(piece)) for piece in written] == [
        [],
        [CallBegun(0, "say"), CallArguments(0, '{"text": "a b"')],
        [],
        [CallArguments(0, ', "to": [1, 2]')],
        [CallArguments(0, ', "loud": true}'), CallEnded(0)],
    ]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.format.name}: {answer.text[:30]!r}")
def test_what_was_told_of_a_call_is_never_taken_back_and_may_always_become_json(answer: Answer) -> None:
    parser = OutputParser(answer.stop, answer.wanted)
    told: dict[int, str] = {}
    for char in answer.text:
        for part in parser.feed(char):
            match part:
                case CallBegun(index):
                    assert index == len(told)
                    told[index] = ""
                case CallArguments(index, text):
                    assert index == len(told) - 1
                    told[index] += text
                case _:
                    pass
        assert all(may_become_json(text) for text in told.values() if text)
    parser.finish()
    assert len(parser.calls) == len(told)
    assert all(call.arguments.startswith(told[at]) for at, call in enumerate(parser.calls))


def may_become_json(text: str) -> bool:
    """Say whether something can follow on a text that makes it a JSON value."""
    source = Source()
    source.text = text
    try:
        for _ in source.value():
            return True
    except Broken:
        return False
    return True
