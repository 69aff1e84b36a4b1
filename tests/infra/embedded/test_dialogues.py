"""Dialogues: the same seed gives the same ones, and training never meets what judging uses."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.dialogues import STANDARD, Conversation, held_out, training
from infra.embedded.evaluate import fault_in_answer, fault_in_calls, same_sum
from infra.embedded.memories import KINDS, LIST, Kind
from infra.embedded.phrasebook import FOLDER
from infra.embedded.toolbox import Toolbox
from infra.embedded.world import Call, split_of

TRAINING = list(islice(training(7, STANDARD), 1500))
HELD_OUT = held_out(300)


def called(conversations: list[Conversation], tool: str, argument: str) -> set[str]:
    return {
        call.arguments[argument]
        for conversation in conversations
        for turn in conversation.turns
        for call in turn.calls
        if call.name == tool
    }


def sentences(entry: Any, split: str) -> Iterator[str]:
    """Name every sentence of one split, whatever its case and punctuation."""
    if isinstance(entry, list):
        for each in entry:
            yield from sentences(each, split)
    elif isinstance(entry, dict) and split in entry:
        yield from (text.lower().strip(" .?!") for text in entry[split])
    elif isinstance(entry, dict):
        # topics are words, "3 + 4" and "3 plus 4" are how arithmetic is written: the sentences around them differ
        for name, each in entry.items():
            if name not in {"topics", "spoken"}:
                yield from sentences(each, split)


def test_a_seed_always_gives_the_same_dialogues() -> None:
    assert [c.messages() for c in islice(training(7, STANDARD), 50)] == [c.messages() for c in TRAINING[:50]]
    assert [c.messages() for c in held_out(50)] == [c.messages() for c in HELD_OUT[:50]]
    assert [c.messages() for c in islice(training(8, STANDARD), 50)] != [c.messages() for c in TRAINING[:50]]


def test_more_held_out_dialogues_begin_with_the_fewer() -> None:
    assert [c.messages() for c in held_out(20)] == [c.messages() for c in HELD_OUT[:20]]


def test_every_expression_belongs_to_one_split_by_its_hash() -> None:
    for conversations, split in ((TRAINING, "train"), (HELD_OUT, "held_out")):
        expressions = called(conversations, "calculator", "expression")
        # divisions by zero are split by what is divided
        assert all(split_of(text) == split for text in expressions if not text.endswith(" 0"))
        assert all(split_of(text.split()[0]) == split for text in expressions if text.endswith(" 0"))


def test_no_expression_and_no_fact_is_in_both_splits() -> None:
    assert not called(TRAINING, "calculator", "expression") & called(HELD_OUT, "calculator", "expression")
    assert not called(TRAINING, "save_note", "text") & called(HELD_OUT, "save_note", "text")


def test_no_moment_is_in_both_splits() -> None:
    days = [{c.world.toolbox.now.date() for c in conversations} for conversations in (TRAINING, HELD_OUT)]
    assert not days[0] & days[1]


def test_no_conversation_is_in_both_splits() -> None:
    trained = {tuple(turn.user.lower() for turn in c.turns) for c in TRAINING}
    assert not [c.seed for c in HELD_OUT if tuple(turn.user.lower() for turn in c.turns) in trained]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_no_sentence_for_judging_is_one_for_training(file: Path) -> None:
    book = tomllib.loads(file.read_text(encoding="utf-8"))
    assert set(sentences(book, "train")) & set(sentences(book, "held_out")) == set()


@pytest.mark.parametrize("kind", [*KINDS, LIST], ids=lambda kind: kind.topics.held_out[0])
def test_no_topic_for_judging_is_one_for_training(kind: Kind) -> None:
    assert not {*kind.topics.train} & {*kind.topics.held_out}


def test_results_in_a_dialogue_are_what_the_tools_return() -> None:
    for conversation in HELD_OUT:
        toolbox = Toolbox(conversation.world.toolbox.now, dict(conversation.notes))
        for turn in conversation.turns:
            assert tuple(toolbox.run(call.name, call.arguments) for call in turn.calls) == turn.results


def test_the_expected_answer_of_every_turn_is_judged_right() -> None:
    for conversation in (*HELD_OUT, *TRAINING):
        for turn in conversation.turns:
            assert fault_in_answer(turn, turn.answer) is None
            assert fault_in_calls(turn.calls, tuple(reversed(turn.calls))) is None


@pytest.mark.parametrize(
    ("expected", "made", "same"),
    [
        ("12 * 7", "7*12", True),
        ("12 * 7", "12 * 8", False),
        ("12 - 7", "7 - 12", False),
        ("240 * 15 / 100", "15 / 100 * 240", True),
        ("5 / 0", "5/0", True),
        ("5 / 0", "6 / 0", False),
    ],
)
def test_sums_are_compared_by_value_and_numbers(expected: str, made: str, same: bool) -> None:
    assert same_sum(expected, made) is same


def test_a_call_too_many_is_a_fault() -> None:
    call = Call("clock", {})
    assert fault_in_calls((call,), (call, call)) is not None
    assert fault_in_calls((), (None,)) is not None
