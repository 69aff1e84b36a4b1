"""The tool by which a model writes its working memory, and how what it writes is merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.definition import Agent
from actors.agent.profiles import profile_of
from actors.errors import DefinitionError
from actors.memory.plan import Memory
from actors.memory.working import LONGEST, merged, working_tool
from actors.request_context import RequestContext
from actors.tools import ToolContext
from actors.toolsets import Surroundings
from schemas.commands import RunAgent
from schemas.memory import MemoryWrite, Working

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "pets": {"type": "array"}}}
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=2), below, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=2), values, max_size=3)


def context() -> ToolContext:
    return ToolContext("acme", "t1", "k", 0, {})


@pytest.mark.parametrize(
    ("there", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ("no object", {"a": 1}, {"a": 1}),
    ],
)
def test_a_patch_is_merged_as_the_standard_says(there: Any, patch: Any, result: Any) -> None:
    assert msgspec.json.decode(merged(*(msgspec.json.encode(one).decode() for one in (there, patch)))) == result


@given(objects, objects)
def test_merging_the_same_again_changes_nothing(there: Any, patch: Any) -> None:
    texts = [msgspec.json.encode(one).decode() for one in (there, patch)]
    once = merged(*texts)
    assert merged(once, texts[1]) == once


@pytest.mark.anyio
async def test_a_template_is_replaced_as_a_whole() -> None:
    made, about = working_tool(Working(template="- name:")), context()
    assert (await made.call('{"content": "- name: Ann"}', about)).content == "remembered"
    assert about.writes == [MemoryWrite(topic="", text="- name: Ann", scope="working")]


@pytest.mark.anyio
async def test_a_schema_is_what_the_model_is_shown_and_its_changes_are_merged() -> None:
    made, about = working_tool(Working(parameters=SCHEMA)), context()
    assert made.spec.parameters["properties"]["changes"]["properties"] == SCHEMA["properties"]
    await made.call('{"changes": {"name": "Ann", "pets": null}}', about)
    assert about.writes == [MemoryWrite(topic="", text='{"name":"Ann","pets":null}', scope="merge")]


@pytest.mark.anyio
async def test_too_much_is_refused_in_words_that_the_model_can_read() -> None:
    made = working_tool(Working())
    with pytest.raises(ValueError, match="say it in fewer words"):
        await made.call(msgspec.json.encode({"content": "x" * (LONGEST + 1)}).decode(), context())


@pytest.mark.anyio
async def test_changes_that_would_make_it_too_long_with_what_is_there_are_refused() -> None:
    made = working_tool(Working(parameters=SCHEMA))
    there = msgspec.json.encode({"name": "x" * (LONGEST - 20)}).decode()
    about = replace(context(), working=there)
    with pytest.raises(ValueError, match="say it in fewer words"):
        await made.call('{"changes": {"pets": ["a cat", "a dog"]}}', about)
    assert not about.writes
    await made.call('{"changes": {"name": "Ann", "pets": ["a cat", "a dog"]}}', about)
    assert about.writes


def test_a_patch_of_any_depth_is_merged_or_left() -> None:
    for depth in (1, 100, *range(900, 1010), 2700):
        deep = '{"a":' * depth + "1" + "}" * depth
        assert merged(deep, deep) in {deep, "{}"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"last": -1},
        {"tokens": -1},
        {"observe_timeout_s": 0},
        {"observe_timeout_s": float("nan")},
        {"observe_timeout_s": 1e9},
        {"working": "a", "schema": SCHEMA},
        {"schema": {"type": "string"}},
    ],
)
def test_a_memory_that_makes_no_sense_is_refused_where_it_is_written(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match="memory"):
        Memory(**wrong)


@pytest.mark.anyio
async def test_an_agent_that_is_copied_has_the_tool_once() -> None:
    agent = replace(Agent("demo", "", memory=Memory(working="")), name="other")
    around = Surroundings("acme", "t1", RequestContext(), None)
    profile = await profile_of(agent, RunAgent("other", "hi"), around, "m")
    assert [tool.name for tool in profile.tools] == ["update_working_memory"]
