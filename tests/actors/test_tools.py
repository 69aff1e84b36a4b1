"""Tools: what a signature becomes, what a model's arguments may be, and what a function is told."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal

import msgspec
import pytest

from actors.errors import BadArguments, DefinitionError
from actors.tools import Tool, ToolContext, tool
from schemas.runs import MemoryWrite

pytestmark = pytest.mark.anyio


class Item(msgspec.Struct):
    """A thing to order."""

    name: str
    count: int = 1


class Unknown:
    """A type JSON knows nothing of."""


def context() -> ToolContext:
    return ToolContext(tenant="acme", thread="t1", key="r1-1-t0", now=5, notes={"colour": "blue"})


@tool
def order(
    items: list[Item],
    speed: Literal["slow", "fast"] = "slow",
    note: str | None = None,
    amount: Annotated[int, msgspec.Meta(ge=1, description="how many")] = 1,
) -> dict[str, Any]:
    """Order some items.

    Nobody tells the model this.
    """
    return {"items": [item.name for item in items], "speed": speed, "note": note, "amount": amount}


def test_a_signature_becomes_a_schema() -> None:
    assert order.description == "Order some items."
    assert order.parameters == {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
            "speed": {"enum": ["fast", "slow"], "default": "slow"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "amount": {"type": "integer", "minimum": 1, "description": "how many", "default": 1},
        },
        "required": ["items"],
        "$defs": {
            "Item": {
                "title": "Item",
                "description": "A thing to order.",
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer", "default": 1}},
                "required": ["name"],
            }
        },
    }


async def test_arguments_are_read_as_the_types_say_and_the_rest_has_its_defaults() -> None:
    content = await order.call('{"items":[{"name":"tea"},{"name":"milk","count":2}],"amount":3}', context())
    assert content.content == '{"items":["tea","milk"],"speed":"slow","note":null,"amount":3}'


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("{}", "`items`"),
        ('{"items":[{"name":5}]}', "$.items[0].name"),
        ('{"items":[],"speed":"warp"}', "$.speed"),
        ('{"items":[],"amount":0}', "$.amount"),
        ('{"items":[],"colour":"red"}', "`colour`"),
        ('{"items":', "truncated"),
        ("[]", "object"),
    ],
)
async def test_arguments_that_do_not_fit_name_the_field_and_the_parameters(arguments: str, names: str) -> None:
    with pytest.raises(BadArguments) as error:
        await order.call(arguments, context())
    assert names in str(error.value)
    assert "parameters: items, speed, note, amount" in str(error.value)


async def test_the_context_is_given_by_the_system_and_hidden_from_the_model() -> None:
    @tool
    async def remember(topic: str, told: ToolContext) -> str:
        """Remember."""
        told.write_note(topic, told.notes["colour"])
        return told.key

    assert list(remember.parameters["properties"]) == ["topic"]
    given = context()
    assert (await remember.call('{"topic":"a"}', given)).content == "r1-1-t0"
    assert given.writes == [MemoryWrite(topic="a", text="blue")]
    with pytest.raises(BadArguments, match="`told`"):
        await remember.call('{"topic":"a","told":{}}', context())


async def test_a_plain_function_does_not_run_in_the_event_loops_thread() -> None:
    @tool
    def where() -> str:
        """Where."""
        return str(threading.get_ident())

    assert (await where.call("", context())).content != str(threading.get_ident())
    assert where.parameters == {"type": "object", "properties": {}}


async def test_a_function_that_raises_stop_iteration_comes_back() -> None:
    @tool
    def empty() -> str:
        """Nothing."""
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await empty.call("{}", context())


@pytest.mark.parametrize(("value", "content"), [("as is", "as is"), (None, "null"), ([1, 2], "[1,2]"), (0.5, "0.5")])
async def test_what_a_tool_returns_is_text_for_the_model(value: object, content: str) -> None:
    @tool
    def give() -> object:
        """Give."""
        return value

    assert (await give.call("{}", context())).content == content


def test_a_tool_runs_once_unless_it_says_otherwise() -> None:
    @tool(effect="pure", name="other-name")
    def pure() -> str:
        """Pure."""
        return ""

    assert (order.name, order.effect) == ("order", "once")
    assert (pure.name, pure.effect) == ("other-name", "pure")
    assert pure.binding.effect == "pure"


def test_the_digest_of_a_binding_follows_what_the_model_sees() -> None:
    def made(description: str) -> Tool:
        def same(a: int) -> str:
            return str(a)

        same.__doc__ = description
        return tool(same)

    assert made("One.").binding == made("One.").binding
    assert made("One.").binding.digest != made("Two.").binding.digest


def undocumented(a: int) -> str:
    return str(a)


def untyped(a) -> str:  # type: ignore[no-untyped-def]
    """Say."""
    return str(a)


def strange(a: Unknown) -> str:
    """Say."""
    return str(a)


def variadic(*a: int) -> str:
    """Say."""
    return str(a)


def keywords(**a: int) -> str:
    """Say."""
    return str(a)


def positional(a: int, /) -> str:
    """Say."""
    return str(a)


def unresolved(a: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Say."""
    return str(a)


def shared(a: list[int] = [1]) -> str:  # noqa: B006
    """Say."""
    return str(a)


@pytest.mark.parametrize(
    "function",
    [undocumented, untyped, strange, variadic, keywords, positional, unresolved, shared],
    ids=lambda function: function.__name__,
)
def test_what_cannot_be_a_tool_is_refused_where_it_is_defined(function: Any) -> None:
    with pytest.raises(DefinitionError, match=function.__name__):
        tool(function)


@pytest.mark.parametrize(
    "settings",
    [{"effect": "checkable"}, {"check": lambda context: None}, {"timeout_s": 0}, {"timeout_s": -1.0}],
    ids=["checkable without a check", "a check without an effect", "no time", "less than no time"],
)
def test_settings_that_do_not_fit_are_refused_where_the_tool_is_defined(settings: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(settings))):
        tool(**settings)


@pytest.mark.parametrize("name", ["", "two words", "a.b", "x" * 65, "é"])
def test_a_name_that_models_may_not_use_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError):
        tool(name=name)(untyped)
