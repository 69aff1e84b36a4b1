"""Messages that are put together from chunks, as clients of the AI SDK do it."""

from __future__ import annotations

from typing import Any

import pytest

from infra.bridge.aisdk.stored import GrowingMessage

Chunk = dict[str, Any]


def part(what: str, kind: str, identity: str, text: str = "") -> Chunk:
    return {"type": f"{kind}-{what}", "id": identity} | ({"delta": text} if what == "delta" else {})


def grown(*chunks: Chunk) -> GrowingMessage:
    message = GrowingMessage()
    for chunk in chunks:
        message.take(chunk)
    return message


def test_parts_that_grow_in_turn_each_have_their_own_text() -> None:
    message = grown(
        {"type": "start-step"},
        part("start", "reasoning", "1"),
        part("start", "text", "1"),
        part("delta", "reasoning", "1", "12 times "),
        part("delta", "text", "1", "It "),
        {"type": "tool-input-available", "toolCallId": "k1", "toolName": "sum", "input": {}},
        part("delta", "reasoning", "1", "34"),
        part("delta", "text", "1", "is 408."),
        part("end", "text", "1"),
        part("end", "reasoning", "1"),
        part("start", "text", "2"),
        part("delta", "text", "2", "Really."),
    )
    assert [(one["type"], one.get("text")) for one in message.parts] == [
        ("step-start", None),
        ("reasoning", "12 times 34"),
        ("text", "It is 408."),
        ("tool-sum", None),
        ("text", "Really."),
    ]


def test_a_step_that_begins_again_has_nothing_of_what_was_written_before() -> None:
    begun = (part("start", "text", "1"), part("delta", "text", "1", "He"))
    message = grown({"type": "start-step"}, *begun, {"type": "reset-step"}, *begun)
    assert [one.get("text") for one in message.parts] == [None, "He"]


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (part("delta", "text", "9", "x"), "'9' goes on that was not begun"),
        (part("end", "reasoning", "1"), "'1' goes on that was not begun"),
        (
            {"type": "tool-output-available", "toolCallId": "k9", "output": 1},
            "call 'k9', of which nothing was told",
        ),
    ],
)
def test_what_follows_on_nothing_says_so(chunk: Chunk, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        grown(part("start", "text", "1"), chunk)
