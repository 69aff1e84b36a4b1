"""Asking the user: what whoever answers sees, and what may be answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.built_in.asking import MOST_OPTIONS, ask_user
from actors.tools import Suspend, ToolContext

pytestmark = pytest.mark.anyio


def context(*answers: Any) -> ToolContext:
    return ToolContext("acme", "t1", "k", 0, {}, answers=answers)


async def asked(arguments: dict[str, Any], *answers: Any) -> Suspend:
    with pytest.raises(Suspend) as suspended:
        await ask_user().call(json.dumps(arguments), context(*answers))
    return suspended.value


async def test_a_question_waits_for_a_text() -> None:
    waits = await asked({"question": "Where to?"})
    assert (waits.payload, waits.schema) == ({"question": "Where to?"}, {"type": "string"})
    output = await ask_user().call('{"question": "Where to?"}', context("Rome"))
    assert output.content == "Rome"


async def test_an_answer_that_is_no_option_is_told_and_waited_for_anew() -> None:
    about = {"question": "Which?", "options": ["red", "blue"]}
    waits = await asked(about, "green")
    assert waits.payload == about
    assert waits.schema == {"enum": ["blue", "red"]}
    assert "green" in waits.problem
    assert (await ask_user().call(json.dumps(about), context("green", "blue"))).content == "blue"


async def test_several_options_may_be_chosen() -> None:
    about = {"question": "Which?", "options": ["red", "blue"], "several": True}
    assert (await asked(about)).schema == {"type": "array", "items": {"enum": ["blue", "red"]}}
    assert json.loads((await ask_user().call(json.dumps(about), context(["red", "blue"]))).content) == ["red", "blue"]


async def test_a_question_of_too_many_options_is_the_models_error() -> None:
    options = [str(number) for number in range(MOST_OPTIONS + 1)]
    with pytest.raises(ValueError, match="at most 50, not 51"):
        await ask_user().call(json.dumps({"question": "?", "options": options}), context())
