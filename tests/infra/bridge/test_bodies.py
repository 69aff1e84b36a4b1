"""Bodies within bounds: how deep JSON goes is found without going down into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.bridge.bodies import again, bounded, refuse_deep, whole_body
from infra.bridge.openai import BadRequest

JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 4), st.booleans())
def test_what_is_deeper_than_it_may_be_is_refused_and_nothing_else(value: Any, most: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth(value) > most:
        with pytest.raises(BadRequest):
            refuse_deep(body, most)
    else:
        refuse_deep(body, most)


def test_brackets_in_texts_do_not_count() -> None:
    refuse_deep(json.dumps(["[" * 100, '\\"[[[[[[', "\\"]).encode(), 3)


def test_what_is_too_deep_is_named() -> None:
    body = json.dumps({"model": "m", "tools": [{"deep": [[[]]]}], "after": 1}).encode()
    with pytest.raises(BadRequest, match="tools is nested more than 3 deep") as deep:
        refuse_deep(body, 3)
    assert deep.value.body.error.param == "tools"


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0)

    return receive


def piece(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.anyio
async def test_a_body_is_taken_whole_and_given_again_once() -> None:
    receive = receiver(piece(b"ab", True), piece(b"c", False), {"type": "http.disconnect"})
    body = await whole_body(receive, 3, 5)
    told = again(body, receive)
    assert [(await told())["type"] for _ in range(2)] == ["http.request", "http.disconnect"]
    assert body == b"abc"


@pytest.mark.anyio
async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    with pytest.raises(BadRequest) as large:
        await whole_body(receiver(piece(b"abcd", True)), 3, 5)
    assert large.value.status == 413
    passed = bounded(receiver(piece(b"ab", True), piece(b"cd", True)), 3)
    assert (await passed())["body"] == b"ab"
    with pytest.raises(BadRequest):
        await passed()


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> Any:
        raise TimeoutError

    with pytest.raises(BadRequest) as late:
        await whole_body(never, 3, 5)
    assert late.value.status == 408
