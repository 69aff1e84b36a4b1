"""Answers cut into pieces: each token goes out once, with the text that it is of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.models.provider import Piece
from actors.serving import cutting
from actors.serving.cutting import Cutter
from actors.serving.told import Telling
from engine.text.answers import AnswerReader
from engine.text.formats import HERMES, NONE
from engine.text.parsers import Thinking, Wanted
from engine.text.tokenizer import Tokenizer
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.answers import TokenTold
from schemas.generation import Sampling, TokenLogprobs

TOKENIZER = Tokenizer.load(EMBEDDED_CHECKPOINT)
END = min(TOKENIZER.stop_tokens)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
PLAIN = Wanted(NONE, calls=False)
KINDS = ("text", "reasoning", "call")
CALLING = Wanted(HERMES, Thinking("think", "<think>", "</think>"), schemas={"add": {}})


def cut(
    tokens: list[int], wanted: Wanted = PLAIN, stop: tuple[str, ...] = (), *, interval: int = 1, most: int = 1
) -> tuple[list[Piece], AnswerReader, list[TokenTold]]:
    """Read an answer, at most so many tokens at once; give the pieces, the answer, and what is to be told in all."""
    logprobs, named = list[TokenLogprobs](), list[int]()
    telling = Telling(TOKENIZER, Sampling(logprobs=1), logprobs, named)
    answer, cutter, pieces = AnswerReader(TOKENIZER, wanted, stop), Cutter(interval, telling), list[Piece]()
    for at in range(0, len(tokens), most):
        some = tokens[at : at + most]
        named += some
        logprobs += [TokenLogprobs((token, 7), (-float(token), -0.5), 1) for token in some]
        for token in some:
            cutter.take(answer.read((token,)), answer.shown)
        pieces += cutter.cut(answer.count)
    cutter.take(answer.finish(), answer.shown)
    pieces += cutter.rest()
    told, ids = telling.between(0, len(tokens))
    assert ids == tuple(tokens)
    return pieces, answer, list(told)


def written(told: tuple[TokenTold, ...]) -> str:
    return b"".join(one.piece for one in told).decode()


def texts(pieces: list[Piece]) -> list[tuple[str, str]]:
    return [(piece.text, written(piece.logprobs)) for piece in pieces]


def test_of_an_answer_without_a_text_each_token_goes_out_when_it_comes() -> None:
    silent, named = Sampling(detokenize=False), list[int]()
    telling = Telling(TOKENIZER, silent, [], named)
    answer, cutter, pieces = AnswerReader(TOKENIZER, PLAIN, (), silent), Cutter(1, telling), list[Piece]()
    for token in (40, 50, 60):
        named.append(token)
        cutter.take(answer.read((token,)), answer.shown)
        pieces += cutter.cut(answer.count)
    assert [(piece.text, piece.token_ids, piece.before) for piece in pieces] == [
        ("", (40,), 0),
        ("", (50,), 1),
        ("", (60,), 2),
    ]


def test_a_piece_has_the_tokens_whose_text_it_is() -> None:
    tokens = TOKENIZER.encode("The quick brown fox jumps over 12 lazy dogs.")
    pieces, answer, told = cut(tokens)
    assert len(pieces) > 8
    assert all(text == wrote for text, wrote in texts(pieces))
    assert [one for piece in pieces for one in piece.logprobs] == told
    assert [token for piece in pieces for token in piece.token_ids] == tokens
    assert "".join(piece.text for piece in pieces) == answer.text


def test_half_a_character_goes_out_with_the_rest_of_it() -> None:
    tokens = TOKENIZER.encode("so ☂ and 🦊.")
    pieces, _, _ = cut(tokens)
    assert max(len(piece.token_ids) for piece in pieces) > 1
    assert all(text == wrote for text, wrote in texts(pieces))


def test_what_is_held_back_goes_out_with_the_tokens_that_it_is_of() -> None:
    """Perhaps a stop string begins there: its tokens wait until it has turned out to be none."""
    tokens = TOKENIZER.encode("The quick brown fox jumps over 12 lazy dogs.")
    pieces, answer, _ = cut(tokens, stop=(" quick brown cow",))
    assert answer.text == "The quick brown fox jumps over 12 lazy dogs."
    assert len(pieces) < len(tokens)
    assert all(text == wrote for text, wrote in texts(pieces))


def test_tokens_of_no_text_that_is_shown_are_left_for_the_end() -> None:
    tokens = TOKENIZER.encode("The quick brown fox jumps")
    pieces, answer, told = cut([*tokens, END], stop=(" fox",))
    heard = [one for piece in pieces for one in piece.logprobs]
    assert (answer.text, written(tuple(heard))) == ("The quick brown", "The quick brown")
    assert heard == told[: len(heard)]
    assert written(tuple(told[len(heard) :])).startswith(" fox")


def test_tokens_of_tags_and_calls_go_out_with_what_they_are_of_or_what_follows() -> None:
    tokens = TOKENIZER.encode(f"<think>two and two</think>Four. {CALL} And more. {CALL}")
    pieces, answer, told = cut([*tokens, END], CALLING)
    assert len(answer.calls) == 2
    said = {kind: "".join(written(piece.logprobs) for piece in pieces if piece.kind == kind) for kind in KINDS}
    assert said["reasoning"] == "<think>two and two"
    assert said["text"].startswith("</think>Four.")
    assert said["text"].rstrip().endswith(" And more.")
    assert "".join(piece.text for piece in pieces if piece.kind == "call") == '{"a": 1}' * 2
    for piece in pieces:
        if piece.kind == "call":
            assert piece.text.strip() in written(piece.logprobs)
    heard = [one for piece in pieces for one in piece.logprobs]
    assert heard == told[: len(heard)]


def test_pieces_come_at_an_interval_but_for_the_first_and_the_last() -> None:
    tokens = TOKENIZER.encode("The-quick-brown-fox-jumps-over-12-lazy-dogs.")
    pieces, answer, _ = cut(tokens, interval=4)
    counts = [len(piece.token_ids) for piece in pieces]
    assert counts == [1, *[4] * ((len(tokens) - 1) // 4), *([left] if (left := (len(tokens) - 1) % 4) else [])]
    assert "".join(piece.text for piece in pieces) == answer.text
    assert all(text == wrote for text, wrote in texts(pieces))


def test_many_tokens_at_once_go_out_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MOST_TOLD", 8)
    tokens = TOKENIZER.encode("The quick brown fox jumps over 12 lazy dogs.")
    pieces, answer, told = cut(tokens, most=1000)
    assert all(len(piece.logprobs) <= 4 for piece in pieces)
    assert [piece.text for piece in pieces if piece.text] == [answer.text]
    assert [one for piece in pieces for one in piece.logprobs] == told


WORDS = [
    "a",
    " fox",
    "<think>",
    "</think>",
    CALL,
    CALL[:40],
    CALL.replace("1", "[1, x"),
    "<tool",
    "_call>",
    "{",
    "\n",
    " ☂",
    "🦊",
    "STOP",
    " and so on",
]


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=12),
    interval=st.integers(1, 6),
    most=st.integers(1, 9),
    stops=st.booleans(),
)
def test_however_an_answer_is_cut_nothing_is_lost_or_told_twice(
    words: list[str], interval: int, most: int, stops: bool
) -> None:
    tokens = [*TOKENIZER.encode("".join(words)), END]
    stop = ("STOP", "fox and") if stops else ()
    pieces, answer, told = cut(tokens, CALLING, stop, interval=interval, most=most)
    heard = [one for piece in pieces for one in piece.logprobs]
    assert heard == told[: len(heard)]
    # one without tokens of its own comes before none
    assert [piece.before for piece in pieces] == [
        sum(len(before.logprobs) for before in pieces[:at]) if piece.logprobs else 0 for at, piece in enumerate(pieces)
    ]
    calls = [(f"call-{at}", call.arguments) for at, call in enumerate(answer.calls)]
    for kind, whole in (("text", answer.text), ("reasoning", answer.reasoning), *calls):
        said = ""
        for piece in (piece for piece in pieces if kind == (piece.call.id if piece.call else piece.kind)):
            assert piece.offset == len(said)
            said += piece.text
        assert said == whole


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(["a", " fox", " ☂", "🦊", "ST", "O", " and so on", "\n"]), max_size=12))
def test_no_text_is_out_before_the_token_that_it_begins_with(words: list[str]) -> None:
    tokens = TOKENIZER.encode("".join(words))
    pieces, _, told = cut(tokens, stop=("STOP",))
    said, heard = "", list[TokenTold]()
    for piece in pieces:
        said += piece.text
        heard += piece.logprobs
        assert b"".join(one.piece for one in heard).startswith(said.encode())
        before = b"".join(one.piece for one in heard[:-1])
        assert len(before) < len(said.encode())
    assert heard == told[: len(heard)]
