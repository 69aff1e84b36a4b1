"""Tools: typed Python functions that a model may call.

The signature becomes the JSON Schema, the docstring the description. A parameter annotated `ToolContext` is filled
in by the system and hidden from the model.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, get_args, get_type_hints, overload

import msgspec

from actors.errors import BadArguments, DefinitionError
from schemas import codec
from schemas.messages import ToolSpec
from schemas.runs import MemoryWrite, ToolBinding, ToolEffect

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_BY_NAME = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


@dataclass(slots=True)
class ToolContext:
    """What a tool may know of the call it serves, and the memory it may write."""

    tenant: str
    thread: str
    key: str
    """`<tenant>/<thread>/<effect id>`: the same for every attempt at this call, an idempotency key."""
    now: int
    """Microseconds since the Unix epoch."""
    notes: Mapping[str, str]
    """The thread's memory: topic to text."""
    writes: list[MemoryWrite] = field(default_factory=list)

    def write_note(self, topic: str, text: str) -> None:
        """Remember `text` under `topic`: written in the same commit as the tool's result."""
        self.writes.append(MemoryWrite(topic=topic, text=text))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function a model may call. Made by the `tool` decorator."""

    name: str
    description: str
    function: Callable[..., Any]
    effect: ToolEffect
    parameters: dict[str, Any]
    arguments: type[msgspec.Struct]
    context: str | None
    """Name of the parameter that takes the `ToolContext`."""
    approval: bool = False
    """Whether a person must agree to each call."""
    check: Callable[[ToolContext], Any] | None = None
    """Of a `checkable` tool: says whether an earlier attempt with the context's key took effect."""
    timeout_s: float | None = None
    """How long a call may take, seconds."""

    @property
    def spec(self) -> ToolSpec:
        """What the model is told."""
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)

    @property
    def binding(self) -> ToolBinding:
        """What a run records of the tool."""
        digest = blake2b(codec.encode(self.spec), digest_size=8).hexdigest()
        return ToolBinding(name=self.name, effect=self.effect, digest=digest, approval=self.approval)

    async def call(self, arguments: str, context: ToolContext) -> str:
        """Run the function on the model's JSON arguments and return what the model reads.

        Raises:
            BadArguments: they do not fit; the message names the field.
        """
        values = self._decoded(arguments)
        if self.context is not None:
            values[self.context] = context
        return _text(await _run(self.function, values))

    async def checked(self, context: ToolContext) -> str | None:
        """Ask whether an earlier attempt took effect; return what it returned, None if it did not."""
        assert self.check is not None, f"tool {self.name!r} cannot be checked"
        found = await _run(self.check, {next(iter(inspect.signature(self.check).parameters)): context})
        return None if found is None else _text(found)

    def _decoded(self, arguments: str) -> dict[str, Any]:
        try:
            parsed = msgspec.json.decode(arguments or "{}", type=self.arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            wanted = ", ".join(self.parameters.get("properties", {})) or "none"
            raise BadArguments(f"arguments of {self.name!r} do not fit: {error} (parameters: {wanted})") from error
        return {name: getattr(parsed, name) for name in self.arguments.__struct_fields__}


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    effect: ToolEffect = "once",
    approval: bool = False,
    check: Callable[[ToolContext], Any] | None = None,
    timeout_s: float | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effect: ToolEffect = "once",
    approval: bool = False,
    check: Callable[[ToolContext], Any] | None = None,
    timeout_s: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool.

    Args:
        function: typed, with a docstring.
        name: what the model calls it; the function's name by default.
        effect: what a second execution would do. `pure` and `idempotent` tools run again after a crash, `once`
            tools (the default) never do; `checkable` ones are asked first, by `check`.
        approval: a person must agree to each call: the run waits until somebody sends `approve` or `deny`.
        check: takes the `ToolContext` of an attempt that a crash cut off, and returns what the tool returned, or
            None if it did not take effect: then it runs again.
        timeout_s: how long a call may take, seconds; the model is told of one that takes longer. A function that is
            not async cannot be stopped: it goes on in its thread, and what it returns is dropped.

    Raises:
        DefinitionError: a parameter has no type or one that JSON cannot carry, the name is not one that models may
            use, there is no such effect, no docstring, a `checkable` tool has no `check` or another one has, or the
            timeout is not positive.
    """
    if effect not in get_args(ToolEffect):
        raise DefinitionError(f"no tool effect {effect!r}: use 'pure', 'idempotent', 'checkable' or 'once'")
    if (effect == "checkable") != (check is not None):
        raise DefinitionError("a tool with effect='checkable' takes check=FUNCTION, and no other does")
    if timeout_s is not None and not timeout_s > 0:
        raise DefinitionError(f"timeout_s {timeout_s!r}: give seconds above 0, or leave it out")
    if function is not None:
        return _made(function, function.__name__, effect)
    return lambda decorated: replace(
        _made(decorated, name or decorated.__name__, effect), approval=approval, check=check, timeout_s=timeout_s
    )


def _made(function: Callable[..., Any], name: str, effect: ToolEffect) -> Tool:
    description = inspect.cleandoc(function.__doc__ or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")
    if not description:
        raise DefinitionError(f"tool {name!r} has no docstring: the model needs a description")
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"tool name {name!r}: use letters, digits, '-' and '_' (at most 64)")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"tool {name!r}: {error} (types must be known where the tool is defined)") from error
    context: str | None = None
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in _BY_NAME:
            raise DefinitionError(f"tool {name!r}: parameter {parameter.name!r} cannot be given by name")
        if parameter.name not in hints:
            raise DefinitionError(f"tool {name!r}: parameter {parameter.name!r} has no type")
        kind = hints[parameter.name]
        if kind is ToolContext:
            context = parameter.name
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    try:
        arguments = msgspec.defstruct(f"{name}_arguments", fields, forbid_unknown_fields=True, kw_only=True)
        return Tool(name, description, function, effect, _schema(arguments), arguments, context)
    except TypeError as error:
        raise DefinitionError(f"tool {name!r}: {error}") from error


async def _run(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call an async function, or another one in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(**values)
    return await asyncio.to_thread(_called, function, values)


def _text(result: Any) -> str:
    return result if isinstance(result, str) else codec.encode(result).decode()


def _called(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call a function in its thread; a `StopIteration` would never arrive, because a future cannot carry one."""
    try:
        return function(**values)
    except StopIteration as error:
        raise RuntimeError(f"StopIteration: {error}") from error


def _schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """Give the JSON Schema of the arguments: an object, nested definitions kept, noise dropped."""
    (reference,), components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    own = components.pop(reference["$ref"].rsplit("/", 1)[1])
    schema: dict[str, Any] = {"type": "object", "properties": own["properties"]}
    if own.get("required"):
        schema["required"] = own["required"]
    if components:
        schema["$defs"] = components
    return schema
