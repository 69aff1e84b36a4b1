"""Conversations that a provider would refuse are mended; those that it would not stay as they are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models.history import (
    OPENING,
    UNANSWERED,
    answered,
    joined,
    opened,
    parted,
    renamed,
    repaired,
    spoken,
)
from schemas.messages import Message, Thought, ToolCall, misplaced_in
from tests.actors.models.calls import REGISTRY

USER, SAID = Message("user", "What is the weather?"), Message("assistant", "It rains.")
LONG = ToolCall("call_" + "x" * 60, "weather", '{"city": "Brest"}')
CALLED = Message("assistant", "", (LONG,), thoughts=(Thought("google", seal="s", call_id=LONG.id),))
RESULT = Message("tool", "rain", tool_call_id=LONG.id)


def test_a_result_without_its_call_goes_and_a_call_without_its_result_gets_one() -> None:
    orphan = Message("tool", "old", tool_call_id="gone")
    assert answered([orphan, USER, CALLED, SAID]) == [
        USER,
        CALLED,
        Message("tool", UNANSWERED, tool_call_id=LONG.id),
        SAID,
    ]


def test_results_are_in_the_order_of_their_calls_and_each_is_told_once() -> None:
    one, two = ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")
    both = Message("assistant", "", (one, two))
    first, second = Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b")
    assert answered([USER, both, second, first, first]) == [USER, both, first, second]


def test_a_turn_that_says_nothing_is_left_out() -> None:
    assert spoken([USER, Message("assistant", " \n"), CALLED, RESULT, Message("user", "")]) == [USER, CALLED, RESULT]


def test_turns_of_one_speaker_become_one_where_they_must_alternate() -> None:
    assert joined([USER, USER, SAID, SAID, CALLED, RESULT]) == [
        Message("user", "What is the weather?\n\nWhat is the weather?"),
        Message("assistant", "It rains.\n\nIt rains."),
        CALLED,
        RESULT,
    ]


def test_the_user_begins() -> None:
    system = Message("system", "Be kind.")
    assert opened([system, SAID]) == [system, Message("user", OPENING), SAID]
    assert opened([system, USER, SAID]) == [system, USER, SAID]


def test_what_the_system_says_later_is_said_as_the_user_and_marked() -> None:
    system, turns = parted([Message("system", "A"), Message("system", "B"), USER, Message("system", "C")])
    assert system == "A\n\nB"
    assert turns == [USER, Message("user", "<system>\nC\n</system>")]


@pytest.mark.parametrize(
    ("provider", "form"),
    [("openai", r".{1,40}"), ("anthropic", r"[a-zA-Z0-9_-]{1,64}"), ("mistral", r"[a-zA-Z0-9]{9}")],
)
def test_ids_of_calls_have_the_form_that_a_provider_wants_and_still_belong_together(provider: str, form: str) -> None:
    odd = ToolCall("call|1.π", "f", "{}")
    history = [USER, CALLED, RESULT, Message("assistant", "", (odd,)), Message("tool", "x", tool_call_id=odd.id)]
    mended = renamed(history, REGISTRY.named(provider).tool_ids)
    assert misplaced_in(mended) is None
    ids = [call.id for message in mended for call in message.tool_calls]
    assert all(re.fullmatch(form, identity) for identity in ids)
    assert len(set(ids)) == 2
    assert mended[1].thoughts[0].call_id == ids[0]
    assert mended == renamed(history, REGISTRY.named(provider).tool_ids)


messages = st.lists(
    st.one_of(
        st.builds(Message, role=st.sampled_from(["user", "assistant", "system"]), content=st.sampled_from(["", "hi"])),
        st.builds(
            Message,
            role=st.just("assistant"),
            tool_calls=st.lists(
                st.builds(ToolCall, st.sampled_from("abc"), st.just("f"), st.just("{}")), max_size=3
            ).map(tuple),
        ),
        st.builds(Message, role=st.just("tool"), content=st.just("r"), tool_call_id=st.sampled_from("abc")),
    ),
    max_size=8,
)


@given(history=messages, provider=st.sampled_from(["openai", "anthropic", "mistral", "perplexity", "google"]))
def test_whatever_a_conversation_is_it_is_one_afterwards_and_mending_it_again_changes_nothing(
    history: list[Message], provider: str
) -> None:
    mended = repaired(history, REGISTRY.named(provider))
    assert misplaced_in(mended) is None
    assert all(message.content.strip() or message.tool_calls for message in mended)
    assert repaired(mended, REGISTRY.named(provider)) == mended


def test_a_conversation_that_is_well_stays_as_it_is() -> None:
    short = ToolCall("abcdefghi", "f", "{}")
    well = [
        Message("system", "Be kind."),
        USER,
        Message("assistant", "Let me look.", (short,)),
        Message("tool", "rain", tool_call_id=short.id),
        SAID,
    ]
    for name in REGISTRY:
        assert repaired(well, REGISTRY.named(name)) == well
