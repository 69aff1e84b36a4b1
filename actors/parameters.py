"""What a tool's function takes and gives: its signature as types that arguments are read into, and as a JSON Schema.

A parameter is described by its docstring (Google, numpy or Sphinx style) unless its type says more. Arguments may be
anything that JSON can carry, msgspec structs, dataclasses, and models of pydantic.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec
from docstring_parser import ParseError, parse

from actors.errors import BadArguments, BadResult, DefinitionError
from schemas import codec

_FENCED = re.compile(r"```(?:json)?\s(.*)```", re.DOTALL)
_BY_NAME = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})
_PROMISES_NOTHING = (inspect.Signature.empty, Any, object, None, type(None))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one function, but for the one that the system fills in."""

    function: str
    arguments: type[msgspec.Struct]
    schema: dict[str, Any]
    hidden: str | None
    """Name of the parameter that the system fills in."""
    returns: Any
    """What the function promises to return; `Any` promises nothing."""

    def read(self, name: str, arguments: str) -> dict[str, Any]:
        """Read a model's JSON arguments, of the tool that goes by `name`.

        Raises:
            BadArguments: they do not fit; the message names the field.
        """
        try:
            parsed = msgspec.json.decode(arguments or "{}", type=self.arguments, dec_hook=_read_foreign)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            wanted = ", ".join(self.schema.get("properties", {})) or "none"
            raise BadArguments(f"arguments of {name!r} do not fit: {error} (parameters: {wanted})") from error
        return {field: getattr(parsed, field) for field in self.arguments.__struct_fields__}

    def checked(self, name: str, result: Any) -> Any:
        """Return a result as plain JSON values.

        Raises:
            BadResult: it is not what the function promises; the message names the field.
        """
        try:
            plain = plain_value(result)
            if self.returns is not Any:
                msgspec.convert(plain, self.returns, dec_hook=_read_foreign)
        except (msgspec.ValidationError, TypeError) as error:
            raise BadResult(f"{name!r} returned something else than it promises: {error}") from error
        return plain


def parameters_of(function: Callable[..., Any], name: str, hidden: type[Any]) -> Parameters:
    """Read a function's signature.

    Args:
        function: typed.
        name: of the tool, for errors.
        hidden: the type of the parameter that the system fills in.

    Raises:
        DefinitionError: a parameter has no type, or one that JSON cannot carry.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"tool {name!r}: {error} (types must be known where the tool is defined)") from error
    filled: str | None = None
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _BY_NAME:
            raise DefinitionError(f"tool {name!r}: parameter {parameter.name!r} cannot be given by name")
        if parameter.name not in hints:
            raise DefinitionError(f"tool {name!r}: parameter {parameter.name!r} has no type")
        kind = hints[parameter.name]
        if kind is hidden:
            filled = parameter.name
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    returns = hints.get("return", Any)
    try:
        arguments = msgspec.defstruct(f"{name}_arguments", fields, forbid_unknown_fields=True, kw_only=True)
        schema = _described(schema_of(arguments), function)
        promised = Any if returns in _PROMISES_NOTHING else returns
        schema_of(promised)
    except TypeError as error:
        raise DefinitionError(f"tool {name!r}: {error}") from error
    return Parameters(name, arguments, schema, filled, promised)


def description_of(function: Callable[..., Any]) -> str:
    """Give a docstring's first paragraph, in one line."""
    return inspect.cleandoc(function.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")


def schema_of(kind: Any) -> dict[str, Any]:
    """Give the JSON Schema of a type: an object's is inline, nested definitions are kept, noise is dropped.

    Raises:
        TypeError: JSON cannot carry it.
    """
    (schema,), components = msgspec.json.schema_components(
        [kind], schema_hook=_foreign_schema, ref_template="#/$defs/{name}"
    )
    if "$ref" in schema:
        own = components.pop(schema["$ref"].rsplit("/", 1)[1])
        schema = {"type": "object", "properties": own.get("properties", {})} if own.get("type") == "object" else own
        if own.get("required"):
            schema["required"] = own["required"]
    definitions = {**components, **_hoisted(schema), **_hoisted(components)}
    return {**schema, "$defs": definitions} if definitions else schema


def fitted(data: Any, kind: Any) -> Any:
    """Read plain JSON values as a type.

    Raises:
        ValidationError: of msgspec: they do not fit; the message names the field.
    """
    return msgspec.convert(data, kind, dec_hook=_read_foreign)


def read_json(text: str, kind: Any) -> Any:
    """Read what a model wrote as JSON of a type.

    Raises:
        DecodeError: of msgspec: it is no JSON; a ValidationError where it is, and does not fit.
    """
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=_read_foreign)
    except (UnicodeError, RecursionError) as error:
        raise msgspec.DecodeError("it is no JSON") from error


def unfenced(text: str) -> str:
    """Take JSON out of the fence that models like to write around it."""
    found = _FENCED.fullmatch(text.strip())
    return found[1].strip() if found else text.strip()


def plain_value(value: Any) -> Any:
    """Make anything plain JSON values.

    Raises:
        TypeError: JSON cannot carry it.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain_foreign)


def text_of(plain: Any) -> str:
    """Write plain values as what a model reads."""
    return plain if isinstance(plain, str) else codec.encode(plain).decode()


def chosen(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of named values, those that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(values)
    return {parameter.name: values[parameter.name] for parameter in parameters if parameter.name in values}


def _described(schema: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Add what the docstring says of each parameter, where its type says nothing."""
    try:
        told = parse(function.__doc__ or "").params
    except ParseError:
        return schema
    for parameter in told:
        field = schema["properties"].get(parameter.arg_name)
        if field is not None and parameter.description:
            field.setdefault("description", " ".join(parameter.description.split()))
    return schema


def _hoisted(schema: Any) -> dict[str, Any]:
    """Take definitions out from where a foreign schema has them: references begin at the top."""
    found: dict[str, Any] = {}
    below = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for value in list(below):
        found |= _hoisted(value)
    if isinstance(schema, dict) and isinstance(schema.get("$defs"), dict):
        found |= schema.pop("$defs")
    return found


# pydantic is not ours to load: its models are known by what they can do
def _foreign_schema(kind: Any) -> dict[str, Any]:
    if hasattr(kind, "model_json_schema"):
        schema: dict[str, Any] = kind.model_json_schema(ref_template="#/$defs/{model}")
        return schema
    raise NotImplementedError


def _read_foreign(kind: Any, value: Any) -> Any:
    if not hasattr(kind, "model_validate"):
        raise NotImplementedError
    try:
        return kind.model_validate(value)
    except ValueError as error:
        problems: list[dict[str, Any]] = getattr(error, "errors", list)()
        told = "; ".join(f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in problems)
        raise ValueError(told or str(error)) from error


def _plain_foreign(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} is nothing that JSON can carry")
