"""Calls of agents that an agent asked, in the streams of whoever asked the first: told there, answered there."""

from __future__ import annotations

from typing import Any

import pytest

from actors.agent.delegation import child_run, child_thread
from infra.bridge.agui.asking import answers as agui_answers
from infra.bridge.agui.asking import read_input
from infra.bridge.agui.events import AguiEncoder
from infra.bridge.agui.state import ThreadState
from infra.bridge.aisdk.asking import answers, read_chat
from infra.bridge.aisdk.events import UiEncoder
from infra.bridge.telling.below import Below, FromBelow, Heard
from schemas import codec
from schemas.commands import Approve, PostResult, Resume
from schemas.messages import ToolCall
from schemas.runs import (
    ApprovalDenied,
    ApprovalGiven,
    ApprovalRequested,
    ToolCalled,
    ToolFailed,
    ToolReturned,
)
from schemas.waits import ToolHandedOver, ToolSuspended
from tests.infra.bridge.test_telling import ASKED, COMMAND, END, Story, agui, check_agui, check_ui, told, ui

ASKING = ToolCall("c0", "worker", '{"message": "work"}')
CHILD = child_thread("acme", "t1", "r1-1-t0")
EFFECT = f"{child_run(CHILD)}-1-t0"
CALL = ToolCall("c0", "dig", '{"deep": true}')
"""Its id is that of the call that asked for its run."""


def delegated() -> Story:
    return Story().asks(1).returns("", (ASKING,)).then(ToolCalled("r1-1-t0", ASKING, "idempotent"))


class Child:
    """What comes from beneath the call of `delegated`."""

    def __init__(self) -> None:
        self._at = 0

    def says(self, *events: Any) -> list[Heard]:
        found = list[FromBelow]()
        for event in events:
            self._at += 1
            found.append(FromBelow((100, self._at), "r1-1-t0", CHILD, event))
        return [Below(tuple(found))]


def ended(story: Story) -> list[Heard]:
    """Give what a story goes on with when the other agent's run is over."""
    begun = len(story.frames)
    story.then(ToolReturned("r1-1-t0", "c0", "dug")).asks(2).returns("done").then(END)
    return list(story.frames[begun:])


@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_of_an_agent_that_was_asked_is_told_and_answered_as_one_of_the_first(approved: bool) -> None:
    story, child, first = delegated(), Child(), ui()
    before = [*story.frames, *child.says(ApprovalRequested(EFFECT, CALL))]
    paused = told(first, before)
    check_ui(paused)
    kinds = [chunk["type"] for chunk in paused]
    assert kinds[-8:] == [
        *("finish-step", "start-step", "tool-input-start", "tool-input-delta", "tool-input-available"),
        *("tool-approval-request", "finish-step", "finish"),
    ]
    assert paused[-4] == {
        "type": "tool-input-available",
        "toolCallId": EFFECT,
        "toolName": "dig",
        "input": {"deep": True},
    }
    part = {"type": "tool-dig", "toolCallId": EFFECT, "state": "approval-responded"}
    given = {"approval": {"id": paused[-3]["approvalId"], "approved": True}}
    chat = read_chat(codec.encode({"id": "c", "messages": [{"id": "a", "role": "assistant", "parts": [part | given]}]}))
    (wait,) = first.reader.waits
    assert wait.thread == CHILD
    assert answers(chat.messages[0], [wait]) == [Approve(EFFECT, CALL.arguments)]

    first.reader.expect([EFFECT])
    if approved:
        rest = child.says(
            ApprovalGiven(EFFECT, "me"), ToolCalled(EFFECT, CALL, "once"), ToolReturned(EFFECT, "c0", "gold")
        )
    else:
        rest = child.says(ApprovalDenied(EFFECT, "me", "no"), ToolFailed(EFFECT, "c0", "refused"))
    rest += ended(story)
    chunks = told(UiEncoder(COMMAND, first.reader), rest)
    check_ui(chunks, frozenset({"c0", EFFECT}))
    came = "tool-output-available" if approved else "tool-output-denied"
    assert [(chunk["type"], chunk.get("toolCallId")) for chunk in chunks[1:4]] == [
        ("tool-approval-response", None),
        (came, EFFECT),
        ("tool-output-available", "c0"),
    ]
    assert UiEncoder(COMMAND).retold([*before, *rest]) == [*paused[:-1], *chunks[1:]]
    check_agui(told(agui(), before))


def test_an_interrupt_of_an_agent_that_was_asked_is_answered_in_the_next_run() -> None:
    story, child, first = delegated(), Child(), agui()
    events = told(first, [*story.frames, *child.says(ApprovalRequested(EFFECT, CALL))])
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    assert (interrupt["id"], interrupt["toolCallId"], interrupt["reason"]) == (EFFECT, EFFECT, "tool_approval")
    resume = [{"interruptId": EFFECT, "status": "resolved", "payload": {"approved": True}}]
    asked = read_input(codec.encode({"threadId": "t1", "runId": "r", "messages": [], "resume": resume}))
    assert agui_answers(asked, "r1", first.reader.waits) == [Approve(EFFECT, CALL.arguments)]


def test_data_and_calls_of_the_client_s_are_given_to_an_agent_that_was_asked() -> None:
    child, first = Child(), ui()
    other = f"{child_run(CHILD)}-1-t1"
    said = child.says(
        ToolCalled(EFFECT, CALL, "once"),
        ToolSuspended(EFFECT, "c0", "how deep?", {"type": "integer"}),
        ToolHandedOver(other, ToolCall("c1", "look", "{}")),
    )
    chunks = told(first, [*delegated().frames, *said])
    check_ui([*chunks, {"type": "finish"}])
    shown = [(chunk["data"]["kind"], chunk["id"]) for chunk in chunks if chunk["type"] == "data-waiting"]
    assert shown == [("data", EFFECT), ("caller", other)]
    parts: list[dict[str, Any]] = [
        {"type": "tool-dig", "toolCallId": EFFECT, "state": "output-available", "output": 3},
        {"type": "tool-look", "toolCallId": other, "state": "output-available", "output": "sky"},
    ]
    chat = read_chat(codec.encode({"id": "c", "messages": [{"id": "a", "role": "assistant", "parts": parts}]}))
    given = answers(chat.messages[0], first.reader.waits)
    assert given == [Resume(EFFECT, 3), PostResult(other, "sky")]


def test_what_waits_beside_what_was_answered_is_told_when_it_goes_on() -> None:
    """It may have come a moment after the stream had ended with the first."""
    child, first = Child(), ui()
    other = f"{child_run(CHILD)}-1-t1"
    told(first, [*delegated().frames, *child.says(ApprovalRequested(EFFECT, CALL))])
    assert first.over
    first.reader.feed(*child.says(ApprovalRequested(other, ToolCall("c1", "look", "{}"))))
    first.reader.expect([EFFECT])
    encoder = UiEncoder(COMMAND, first.reader, first.reader.calls_below)
    rest = told(encoder, child.says(ApprovalGiven(EFFECT, "me"), ToolReturned(EFFECT, "c0", "gold")))
    assert [chunk["type"] for chunk in rest[:3]] == ["start", "tool-input-available", "tool-approval-request"]
    assert rest[2]["approvalId"] == other
    assert encoder.over


def test_a_call_that_somebody_else_answered_meanwhile_is_known_before_it_ends() -> None:
    """Its client gives up where the result comes of a call that it has never heard of."""
    child, first = Child(), ui()
    other = f"{child_run(CHILD)}-1-t1"
    told(first, [*delegated().frames, *child.says(ApprovalRequested(EFFECT, CALL))])
    first.reader.feed(*child.says(ApprovalRequested(other, ToolCall("c1", "look", "{}")), ApprovalGiven(other, "x")))
    first.reader.expect([EFFECT])
    encoder = UiEncoder(COMMAND, first.reader, first.reader.calls_below)
    rest = told(encoder, child.says(ToolReturned(other, "c1", "sky")))
    assert [(chunk["type"], chunk.get("toolCallId")) for chunk in rest] == [
        ("start", None),
        ("tool-input-available", other),
        ("tool-output-available", other),
    ]


def test_a_second_question_is_asked_in_the_stream_that_goes_on() -> None:
    child, first, theirs = Child(), ui(), agui()
    other = f"{child_run(CHILD)}-2-t0"
    before = [*delegated().frames, *child.says(ApprovalRequested(EFFECT, CALL))]
    told(first, before)
    told(theirs, before)
    more = child.says(ApprovalGiven(EFFECT, "me"), ToolReturned(EFFECT, "c0", "gold"))
    more += child.says(ApprovalRequested(other, ToolCall("c0", "look", "{}")))
    first.reader.expect([EFFECT])
    chunks = told(UiEncoder(COMMAND, first.reader), more)
    assert [chunk["type"] for chunk in chunks] == [
        *("start", "tool-approval-response", "tool-output-available", "start-step", "tool-input-start"),
        *("tool-input-delta", "tool-input-available", "tool-approval-request", "finish-step", "finish"),
    ]
    theirs.reader.expect([EFFECT])
    check_agui(told(AguiEncoder(COMMAND, ASKED, ThreadState(), theirs.reader), more))


def test_what_is_read_again_and_again_is_told_once() -> None:
    child, first = Child(), ui()
    frames, said = delegated().frames, child.says(ApprovalRequested(EFFECT, CALL), ApprovalGiven(EFFECT, "me"))
    chunks = told(first, [*frames, *said, *said])
    assert [chunk["type"] for chunk in chunks].count("tool-approval-request") == 1


def test_a_stream_goes_on_while_another_call_of_the_step_does() -> None:
    child, encoder = Child(), ui()
    other = ToolCall("c1", "look", "{}")
    story = Story().asks(1).returns("", (ASKING, other)).then(ToolCalled("r1-1-t0", ASKING, "idempotent"))
    told(encoder, [*story.frames, *child.says(ApprovalRequested(EFFECT, CALL))])
    assert not encoder.over
    begun = len(story.frames)
    story.then(ToolCalled("r1-1-t1", other, "pure"), ToolReturned("r1-1-t1", "c1", "sky"))
    told(encoder, story.frames[begun:])
    assert encoder.over


def test_a_call_beneath_one_that_has_ended_is_not_left_open() -> None:
    story, child, encoder = delegated(), Child(), ui()
    told(encoder, [*story.frames, *child.says(ApprovalRequested(EFFECT, CALL))])
    going_on = UiEncoder(COMMAND, encoder.reader)
    chunks = told(going_on, ended(story))
    ends = [chunk["toolCallId"] for chunk in chunks if chunk["type"] == "tool-output-error"]
    assert ends == [EFFECT]
    assert encoder.reader.waits == ()
    # what comes of it later, as of a task in the background, is nothing of the run's
    assert told(ui(), [*story.frames, *child.says(ApprovalRequested(EFFECT, CALL))])[-1]["type"] == "finish"
