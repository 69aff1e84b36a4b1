"""Tools: what a signature becomes, what a model's arguments may be, and what a function is told."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest
from pydantic import BaseModel, Field

from actors.errors import BadArguments, BadResult, DefinitionError
from actors.tools import Suspend, Tool, ToolContext, client_tool, tool
from schemas.memory import MemoryWrite

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


GOOGLE = """Order.

Args:
    what: The thing to order,
        by its name.
    count: How many of it.
"""
NUMPY = """Order.

Parameters
----------
what : str
    The thing to order, by its name.
count : int
    How many of it.
"""
SPHINX = """Order.

:param what: The thing to order, by its name.
:param count: How many of it.
"""


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_parameters(docstring: str) -> None:
    def order(what: str, count: Annotated[int, msgspec.Meta(description="as the type says")] = 1) -> str:
        return what * count

    order.__doc__ = docstring
    made = tool(order)
    assert made.description == "Order."
    assert made.parameters["properties"]["what"]["description"] == "The thing to order, by its name."
    assert made.parameters["properties"]["count"]["description"] == "as the type says"


@dataclass
class Place:
    """Where."""

    city: str
    street: str = "Main"


class Guest(BaseModel):
    """Who comes."""

    name: str
    home: Home
    age: int = Field(ge=0)


class Home(BaseModel):
    """Where somebody lives."""

    city: str


async def test_arguments_may_be_dataclasses_and_models_of_pydantic() -> None:
    @tool
    def invite(guest: Guest, to: Place) -> str:
        """Invite somebody."""
        assert isinstance(guest, Guest)
        assert isinstance(to, Place)
        return f"{guest.name} of {guest.home.city} to {to.street}, {to.city}"

    schema = invite.parameters
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"guest": {"name": "Ann", "home": {"city": "Rome"}, "age": 5}, "to": {"city": "Bern"}}
    jsonschema.validate(good, schema)
    assert (await invite.call(json.dumps(good), context())).content == "Ann of Rome to Main, Bern"
    for wrong, named in (({**good, "guest": {"name": "Ann", "home": {}, "age": -1}}, "home.city"), ({}, "guest")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
        with pytest.raises(BadArguments, match=named):
            await invite.call(json.dumps(wrong), context())


async def test_a_result_is_what_the_function_promises_or_says_what_is_wrong_with_it() -> None:
    @tool
    def guests(how: str) -> list[Guest]:
        """List guests."""
        ann = Guest(name="Ann", home=Home(city="Rome"), age=5)
        return [ann] if how == "well" else [{"name": "Ann"}]  # type: ignore[list-item]

    well = await guests.call('{"how": "well"}', context())
    assert well.content == '[{"name":"Ann","home":{"city":"Rome"},"age":5}]'
    with pytest.raises(BadResult, match=r"'guests' returned something else than it promises.*age"):
        await guests.call('{"how": "badly"}', context())


async def test_the_model_may_read_something_else_than_the_function_returned() -> None:
    @tool(to_model_output=lambda place: f"in {place.city}")
    def where() -> Place:
        """Where."""
        return Place("Rome")

    output = await where.call("{}", context())
    assert (output.content, output.result) == ("in Rome", {"city": "Rome", "street": "Main"})


async def test_approval_may_depend_on_the_arguments_and_what_does_not_fit_needs_none() -> None:
    @tool(needs_approval=lambda amount: amount > 100)
    def pay(to: str, amount: int) -> str:
        """Pay."""
        return f"{amount} to {to}"

    assert pay.binding.approval
    assert not await pay.needs_approval('{"to": "ann", "amount": 5}')
    assert await pay.needs_approval('{"to": "ann", "amount": 500}')
    with pytest.raises(BadArguments, match="amount"):
        await pay.needs_approval('{"to": "ann"}')


async def test_a_suspended_function_is_called_again_and_goes_on_with_data_of_the_type_it_asked_for() -> None:
    @tool
    def book(context: ToolContext) -> str:
        """Book."""
        try:
            place = context.suspend("where?", Place)
            seats = context.suspend({"place": place.city})
        except Exception:  # noqa: BLE001  as tools are written
            return "swallowed"
        return f"{seats} in {place.city}"

    async def called(*answers: Any) -> Any:
        given = context()
        given.answers = answers
        return await book.call("{}", given)

    with pytest.raises(Suspend) as asked:
        await called()
    assert (asked.value.payload, asked.value.schema["required"]) == ("where?", ["city"])
    with pytest.raises(Suspend) as asked:
        await called({"town": "Rome"})
    assert "city" in asked.value.problem
    with pytest.raises(Suspend) as asked:
        await called({"town": "Rome"}, {"city": "Rome"})
    assert asked.value.payload == {"place": "Rome"}
    assert (await called({"town": "Rome"}, {"city": "Rome"}, 2)).content == "2 in Rome"


def test_a_tool_of_the_callers_has_a_schema_of_its_own() -> None:
    made = client_tool("where", "Tell where you are.", Place)
    assert made.binding.place == "client"
    assert made.binding.spec == made.spec
    assert made.parameters["required"] == ["city"]
    assert client_tool("where", "Tell.").parameters == {"type": "object", "properties": {}}
    with pytest.raises(DefinitionError):
        client_tool("two words", "Tell.")
