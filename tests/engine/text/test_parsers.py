"""What a model wrote is parsed the same wherever it is cut."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.parsers import NOTHING, OutputParser
from engine.text.parts import CallArguments, Content, ParsedCall

PIECES = (
    "<tool_call>",
    "</tool_call>",
    '{"name": "add", "arguments": {"a": 1}}',
    '{"name": "say", "arguments": {"text": "</tool_call> \\" STOP <tool_call>"}}',
    '{"name": "add", "arguments": "{\\"a\\": 1}"}',
    '{"name": "add"}',
    '{"name": 1}',
    '"',
    "\\",
    "\n",
    " ",
    "{",
    "é",
    "hello",
    "STOP",
    "STO",
    "<stop",
    "</",
    "ool_c",
)
STOPS = ("STOP", "<stop>", "ool", "\n\n\n")


def parsed(pieces: list[str], stop: tuple[str, ...] = ()) -> tuple[str, list[ParsedCall], bool]:
    parser = OutputParser(stop)
    found = [piece for part in pieces for piece in parser.feed(part)]
    found += parser.finish()
    content = "".join(piece.text for piece in found if isinstance(piece, Content))
    return content, parser.calls, parser.stopped


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=9), stop=st.sets(st.sampled_from(STOPS)), data=st.data())
def test_what_comes_out_does_not_depend_on_the_cuts(pieces: list[str], stop: set[str], data: st.DataObject) -> None:
    text, stops = "".join(pieces), tuple(sorted(stop))
    whole = parsed([text], stops)
    assert parsed(list(text), stops) == whole
    for cut in range(1, len(text)):
        assert parsed([text[:cut], text[cut:]], stops) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    assert parsed([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], stops) == whole


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(pieces=st.lists(st.sampled_from([*PIECES[5:], "<tool_call", "tool_call>"]), max_size=9))
def test_text_without_calls_or_stop_strings_is_not_changed(pieces: list[str]) -> None:
    text = "".join(pieces)
    content, calls, stopped = parsed(list(text))
    assert calls or content == text
    assert not stopped


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = ParsedCall("add", '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", 1),
        (f"hi {CALL} bye", "hi bye", 1),
        (f"hi{CALL} bye", "hi bye", 1),
        (f"hi\n\n{CALL}\n{CALL} bye", "hi\n\nbye", 2),
        (f"hi{CALL}\n{CALL}bye", "hi\nbye", 2),
        (f"hi{CALL}bye", "hibye", 1),
        (f"\n{CALL}\n\nbye ", "bye ", 1),
        (f"hi {CALL}\n", "hi", 1),
        (f"a {CALL} b {CALL} c", "a b c", 2),
        (" hi ", " hi ", 0),
        (CALL[: -len("</tool_call>")], "", 1),
        (CALL[:-22], CALL[:-22], 0),
    ],
)
def test_white_space_beside_calls_goes_but_for_what_parts_the_text(text: str, content: str, calls: int) -> None:
    assert parsed(list(text)) == (content, [ADD] * calls, False)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "arguments": {"b": [1,  2]}}', '{"b": [1,  2]}'),
        ('{"arguments": {}, "name": "f"}', "{}"),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "arguments": null, "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"t": "</tool_call>"}}', '{"t": "</tool_call>"}'),
        ('{"name": "f", "arguments": {"t": "\\\\"}}', '{"t": "\\\\"}'),
        ('{"name": "f", "arguments": {"t": "\\"</tool_call>"}}', '{"t": "\\"</tool_call>"}'),
    ],
)
def test_arguments_are_told_as_they_were_written(body: str, arguments: str) -> None:
    text = f"<tool_call>{body}</tool_call>!"
    assert parsed(list(text)) == ("!", [ParsedCall("f", arguments)], False)


@pytest.mark.parametrize(
    "body",
    [
        "{bad}",
        '{"name": 1}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{bad"}',
        '{"name": "f',
        '{"name": "f", "arguments": ' + "[" * 5000,
        '{"name": "", "arguments": {}}',
        "\ud800",
    ],
)
def test_what_is_no_call_is_text(body: str) -> None:
    text = f"a <tool_call>{body}</tool_call> b"
    assert parsed([text]) == (text, [], False)


def test_a_call_after_one_that_is_none_is_read() -> None:
    assert parsed([f'<tool_call>{{"oops {CALL}']) == ('<tool_call>{"oops', [ADD], False)


def test_a_stop_string_ends_content_but_not_a_call() -> None:
    assert parsed(["x STOP y"], ("STOP",)) == ("x ", [], True)
    assert parsed(["x STO"], ("STOP",)) == ("x STO", [], False)
    assert parsed(["xaXY"], ("aXYZ", "XY")) == ("xa", [], True)
    text = '<tool_call>{"name": "f", "arguments": {"t": "STOP"}}</tool_call>'
    assert parsed([text], ("STOP",)) == ("", [ParsedCall("f", '{"t": "STOP"}')], False)
    assert parsed([f"{text} STOP {text}"], ("STOP", ""))[1:] == ([ParsedCall("f", '{"t": "STOP"}')], True)
    assert parsed(["a <tool_call> b STOP c"], ("STOP",)) == ("a <tool_call> b ", [], True)


def test_content_is_passed_on_as_soon_as_it_is_certain() -> None:
    parser = OutputParser(("STOP",))
    assert [parser.feed(piece) for piece in ("hi", " the", "re S", "T", "x <tool", "_box", "<tool_call>{", "x")] == [
        [Content("hi")],
        [Content(" the")],
        [Content("re")],
        [],
        [Content(" STx")],
        [Content(" <tool_box")],
        [],
        [Content("<tool_call>{x")],
    ]


def test_a_long_call_is_read_once() -> None:
    parser = OutputParser()
    parser.feed('<tool_call>{"name": "f", "arguments": {"t": "')
    begun = time.process_time()
    for _ in range(20_000):
        assert parser.feed('abc\\"[') == [CallArguments(0, 'abc\\"[')]
    parser.feed('"}}</tool_call>')
    assert time.process_time() - begun < 2
    assert len(parser.calls[0].arguments) == len('{"t": ""}') + 20_000 * len('abc\\"[')


def test_stop_strings_and_marks_that_begin_alike_do_not_depend_on_the_cuts() -> None:
    for stop in (("<tool",), ("<tool_call>{",), ("<", "<tool_call")):
        for text in ("a <tool_call>{} b", "a <tool_call", "a <tool b", f"a {CALL} b"):
            assert parsed(list(text), stop) == parsed([text], stop)


PLAIN_PIECES = ("STOP", "STO", "TOP", "OP!", "x", "<tool_call>", "\n", " ", "é")
PLAIN_STOPS = ("STOP", "OP!x", "T", "\n\n")


def read(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    text = OutputParser(stops, NOTHING)
    found = [part for piece in pieces for part in text.feed(piece)] + text.finish()
    assert all(isinstance(part, Content) for part in found)
    return "".join(part.text for part in found if isinstance(part, Content)), text.stopped


@given(st.lists(st.sampled_from(PLAIN_PIECES), max_size=8), st.sets(st.sampled_from(PLAIN_STOPS)), st.data())
def test_what_follows_on_a_raw_prompt_is_text_up_to_the_first_stop_string(
    pieces: list[str], stops: set[str], data: st.DataObject
) -> None:
    text, given = "".join(pieces), tuple(sorted(stops))
    found = [at for at in (text.find(stop) for stop in given) if at >= 0]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read([text], given)
    assert read(parts, given) == read(list(text), given) == whole
    assert whole[1] == bool(found)
    assert whole[0] == text[: min(found)] if found else whole[0] == text


def test_what_looks_like_a_call_after_a_raw_prompt_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call> '
    assert read([text], ()) == (text, False)


def test_white_space_without_end_is_read_once() -> None:
    parser = OutputParser()
    parser.feed("a")
    begun = time.process_time()
    for _ in range(50_000):
        assert parser.feed(" " * 8) == []
    assert time.process_time() - begun < 2
    assert parser.feed("b") == [Content(" " * 400_000 + "b")]


def least(parts: list[str], stops: tuple[str, ...], many: int) -> tuple[str, bool]:
    """Read parts of which the first `many` hold no end."""
    parser = OutputParser(stops)
    found = []
    for at, part in enumerate(parts):
        parser.unstoppable += len(part) if at < many else 0
        found += parser.feed(part)
    found += parser.finish()
    return "".join(part.text for part in found if isinstance(part, Content)), parser.stopped


@pytest.mark.parametrize(
    ("parts", "stops", "said", "stopped"),
    [
        # that it is the shorter one is only known later
        (["ab", " c", " d"], ("abc", "ab"), "ab c d", False),
        (["ab", "c", " d"], ("abc", "ab"), "", True),
        (["ab", "c", " d"], ("ab", "abc"), "", True),
        (["ab", "x", "ab"], ("ab", "abc"), "abx", True),
        # the one that counts begins inside of the one that does not
        (["xab", "c", " d"], ("ab", "bc"), "xa", True),
        (["ab", "ab"], ("ab",), "ab", True),
        (["a", "b"], ("ab",), "", True),
        # a call that is none is read again
        (["<tool_call>{ab", " c", "}", " ab"], ("ab",), "<tool_call>{ab c} ", True),
        (['<tool_call>{"ab', " c", '"}', " ab d"], ("abc", "ab"), '<tool_call>{"ab c"} ', True),
        (["<tool_call>", '{"ab', " c", '"}', " d"], ("abc", "ab"), '<tool_call>{"', True),
        ([f"{CALL}ab", " c"], ("abc", "ab"), "ab c", False),
    ],
)
def test_a_stop_string_counts_if_it_ends_after_the_least_there_is(
    parts: list[str], stops: tuple[str, ...], said: str, stopped: bool
) -> None:
    assert least(parts, stops, 1) == (said, stopped)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    pieces=st.lists(st.sampled_from([*PIECES, "a", "b", "c"]), max_size=9),
    stops=st.permutations(["ab", "abc", "bca", "a", "STOP", "ool", "<tool", "OP", "l_c"]).map(lambda all_: all_[:4]),
    many=st.integers(0, 12),
)
def test_how_much_of_the_least_there_is_comes_at_once_changes_nothing(
    pieces: list[str], stops: list[str], many: int
) -> None:
    text, given = "".join(pieces), tuple(stops)
    whole = least([text[:many], text[many:]], given, 1)
    assert least(list(text), given, many) == whole
    for cut in range(many, len(text)):
        assert least([text[:many], text[many:cut], text[cut:]], given, 1) == whole
    if "<tool_call>" not in text:
        ends = [
            (at, -given.index(stop))
            for stop in given
            for at in range(len(text))
            if text.startswith(stop, at) and at + len(stop) > many
        ]
        assert whole == ((text[: min(ends)[0]], True) if ends else (text, False))
