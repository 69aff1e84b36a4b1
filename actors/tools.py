"""Tools: typed Python functions that a model may call, and tools that others run.

The signature becomes the JSON Schema, the docstring the descriptions. A parameter annotated `ToolContext` is filled
in by the system and hidden from the model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, get_args, overload

import msgspec

from actors.blocking import called
from actors.errors import BadArguments, DefinitionError
from actors.parameters import (
    Parameters,
    chosen,
    description_of,
    fitted,
    parameters_of,
    plain_value,
    schema_of,
    text_of,
)
from actors.request_context import RequestContext
from schemas import codec
from schemas.memory import MemoryWrite
from schemas.messages import Message, ToolSpec
from schemas.profiles import ToolBinding, ToolEffect, ToolPlace

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Approval = bool | Callable[..., bool]
"""Whether a person must agree to a call: always, never, or as a function of its arguments says."""


class Suspend(BaseException):
    """Leaves a tool that waits for data; no `except Exception` of the tool's holds it up."""

    def __init__(self, payload: Any, schema: dict[str, Any], problem: str) -> None:
        super().__init__("the tool waits for data")
        self.payload = payload
        self.schema = schema
        self.problem = problem


def _unheard(_data: Any) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class ToolContext:
    """What a tool may know of the call it serves, the memory it may write, and whom it may ask and tell."""

    tenant: str
    thread: str
    key: str
    """`<tenant>/<thread>/<effect id>`: the same for every attempt at this call, an idempotency key."""
    now: int
    """Microseconds since the Unix epoch."""
    notes: Mapping[str, str]
    """The thread's memory: topic to text."""
    writes: list[MemoryWrite] = field(default_factory=list)
    run: str = ""
    agent: str = ""
    request: RequestContext = field(default_factory=RequestContext)
    """What the client sent along."""
    answers: tuple[Any, ...] = ()
    """What was given each time that this call was suspended."""
    report: Callable[[Any], None] = _unheard
    """Takes what `progress` says; may be called from any thread."""
    messages: Sequence[Message] = ()
    """What was said in the thread before."""
    working: str = ""
    """The thread's own working memory, as it was when the tool was called."""
    _asked: int = 0

    def write_note(self, topic: str, text: str) -> None:
        """Remember `text` under `topic`: written in the same commit as the tool's result."""
        self.writes.append(MemoryWrite(topic=topic, text=text))

    def progress(self, data: Any) -> None:
        """Tell whoever watches the run how far the tool is; heard now or never.

        Raises:
            TypeError: JSON cannot carry it.
        """
        self.report(plain_value(data))

    def suspend(self, payload: Any = None, schema: Any = None) -> Any:
        """Wait for data from outside, for as long as it takes; return it.

        The function is left here, and called again from its beginning once somebody sends `resume`: then this returns.
        So what stands before it is done again. Data that is not of the type asked for is told to whoever gave it, and
        waited for anew.

        Args:
            payload: what whoever answers is to see.
            schema: the type of the data; or a JSON Schema, which is shown and not checked; None takes any.

        Raises:
            Suspend: there is no data yet; not to be caught.
        """
        shown = schema if isinstance(schema, dict) else {} if schema is None else schema_of(schema)
        problem = ""
        while self._asked < len(self.answers):
            data = self.answers[self._asked]
            self._asked += 1
            if schema is None or isinstance(schema, dict):
                return data
            try:
                return fitted(data, schema)
            except msgspec.ValidationError as error:
                problem = str(error)
        raise Suspend(plain_value(payload), shown, problem)


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What came of a call."""

    content: str
    """What the model reads."""
    result: Any = None
    """What the function returned, where that is something else."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Something a model may call. Made by the `tool` decorator, `client_tool`, or a toolset."""

    name: str
    description: str
    effect: ToolEffect
    parameters: dict[str, Any]
    """A JSON Schema of type `object`."""
    function: Callable[..., Any] | None = None
    """None of a tool that others run."""
    signature: Parameters | None = None
    """Of the function."""
    approval: Approval = False
    check: Callable[[ToolContext], Any] | None = None
    """Of a `checkable` tool: says whether an earlier attempt with the context's key took effect."""
    timeout_s: float | None = None
    """How long a call may take, seconds."""
    to_model_output: Callable[[Any], str] | None = None
    """Makes what the model reads of what the function returned."""
    place: ToolPlace = "here"
    service: str = ""
    """The NATS service that is this tool, without its `tool-`; or the agent."""
    background: bool = False
    """Whether a run goes on at once, and the thread is told later what a call came to."""
    category: str = ""
    """What kind of thing it does, in its author's words: `actors.permissions`."""
    grantable: bool = False
    """Whether a person may agree to all calls of it in a thread beforehand."""
    delegating: Any = None
    """How another agent is asked: `actors.delegates.Delegating`."""

    @property
    def spec(self) -> ToolSpec:
        """What the model is told."""
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)

    @property
    def binding(self) -> ToolBinding:
        """What a run records of the tool."""
        own = self.place == "here"
        return ToolBinding(
            name=self.name,
            effect=self.effect,
            digest=blake2b(codec.encode(self.spec), digest_size=8).hexdigest(),
            approval=self.approval is not False,
            place=self.place,
            spec=None if own else self.spec,
            service=self.service,
            background=self.background,
            grantable=self.grantable,
            timeout_ms=0 if own or self.timeout_s is None else max(1, round(self.timeout_s * 1000)),
        )

    async def call(self, arguments: str, context: ToolContext) -> ToolOutput:
        """Run the function on the model's JSON arguments.

        Raises:
            BadArguments: they do not fit; the message names the field.
            BadResult: what it returned is not what it promises.
            NoThreadLeft: calls of it that are over still run in all of its threads.
            Suspend: it waits for data.
        """
        assert self.function is not None, f"tool {self.name!r} is run elsewhere"
        assert self.signature is not None
        values = self.signature.read(self.name, arguments)
        if self.signature.hidden is not None:
            values[self.signature.hidden] = context
        plain = self.signature.checked(self.name, result := await called(self._owner, self.function, **values))
        if self.to_model_output is None:
            return ToolOutput(text_of(plain))
        return ToolOutput(await called(self._owner, self.to_model_output, result), plain)

    async def checked(self, context: ToolContext) -> str | None:
        """Ask whether an earlier attempt took effect; return what it returned, None if it did not."""
        assert self.check is not None, f"tool {self.name!r} cannot be checked"
        name = next(iter(inspect.signature(self.check).parameters))
        found = await called(self._owner, self.check, **{name: context})
        return None if found is None else text_of(plain_value(found))

    async def needs_approval(self, arguments: str) -> bool:
        """Say whether a person must agree to a call.

        Raises:
            BadArguments: they do not fit: nobody need be asked.
            NoThreadLeft: the function that says so hangs in all of the tool's threads.
        """
        values = self.values(arguments)
        if not callable(self.approval):
            return self.approval
        needed: bool = await called(self._owner, self.approval, **chosen(self.approval, values))
        return needed

    @property
    def _owner(self) -> str:
        return f"tool {self.name!r}"

    def values(self, arguments: str) -> dict[str, Any]:
        """Read the model's JSON arguments.

        Raises:
            BadArguments: they do not fit; the message names the field.
        """
        if self.signature is not None:
            return self.signature.read(self.name, arguments)
        return arguments_of(self.name, arguments)


def arguments_of(name: str, arguments: str) -> dict[str, Any]:
    """Read a model's JSON arguments for any tool.

    Raises:
        BadArguments: they are no JSON object.
    """
    try:
        values: dict[str, Any] = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadArguments(f"arguments of {name!r} do not fit: {error}") from error
    return values


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    effect: ToolEffect = "once",
    needs_approval: Approval = False,
    check: Callable[[ToolContext], Any] | None = None,
    timeout_s: float | None = None,
    to_model_output: Callable[[Any], str] | None = None,
    background: bool = False,
    category: str = "",
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effect: ToolEffect = "once",
    needs_approval: Approval = False,
    check: Callable[[ToolContext], Any] | None = None,
    timeout_s: float | None = None,
    to_model_output: Callable[[Any], str] | None = None,
    background: bool = False,
    category: str = "",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool.

    Args:
        function: typed, with a docstring.
        name: what the model calls it; the function's name by default.
        effect: what a second execution would do. `pure` and `idempotent` tools run again after a crash, `once`
            tools (the default) never do; `checkable` ones are asked first, by `check`.
        needs_approval: a person must agree to each call: the run waits until somebody sends `approve` or `deny`. A
            function takes any of the tool's arguments by their names, and says of which calls that is true; where it
            fails itself, somebody is asked.
        check: takes the `ToolContext` of an attempt that a crash cut off, and returns what the tool returned, or
            None if it did not take effect: then it runs again.
        timeout_s: how long a call may take, seconds; the model is told of one that takes longer. A function that is
            not async cannot be stopped: it goes on in its thread, and what it returns is dropped. A tool whose calls
            keep all of its threads so is not called until one of them returns.
        to_model_output: makes the text that the model reads of what the function returned, which is recorded beside.
        background: the model reads a receipt at once and its run goes on; what the function returns begins a turn of
            the thread, once. It cannot `suspend`.
        category: what kind of thing it does, such as `edit`: permission rules may go by that.

    Raises:
        DefinitionError: a parameter has no type or one that JSON cannot carry, the name is not one that models may
            use, there is no such effect, no docstring, a `checkable` tool has no `check` or another one has, or the
            timeout is not positive.
    """
    if effect not in get_args(ToolEffect):
        raise DefinitionError(f"no tool effect {effect!r}: use 'pure', 'idempotent', 'checkable' or 'once'")
    if (effect == "checkable") != (check is not None):
        raise DefinitionError("a tool with effect='checkable' takes check=FUNCTION, and no other does")
    _check_timeout(timeout_s)
    if function is not None:
        return _made(function, function.__name__, effect)
    return lambda decorated: replace(
        _made(decorated, name or decorated.__name__, effect),
        approval=needs_approval,
        check=check,
        timeout_s=timeout_s,
        to_model_output=to_model_output,
        background=background,
        category=category,
    )


def client_tool(
    name: str,
    description: str,
    parameters: Mapping[str, Any] | type[Any] | None = None,
    *,
    needs_approval: Approval = False,
) -> Tool:
    """Make a tool that whoever asked for the run runs: the run waits until it sends the call's `result`.

    Args:
        name: what the model calls it.
        description: for the model.
        parameters: a JSON Schema of type `object`, or a struct or dataclass of the arguments; None takes none.
        needs_approval: as of `tool`.

    Raises:
        DefinitionError: the name is not one that models may use, or JSON cannot carry the parameters.
    """
    check_name(name)
    try:
        shape = {} if parameters is None else parameters if isinstance(parameters, Mapping) else schema_of(parameters)
    except TypeError as error:
        raise DefinitionError(f"tool {name!r}: {error}") from error
    schema = {"type": "object", "properties": {}, **shape}
    return Tool(name, description, "once", schema, approval=needs_approval, place="client")


def _made(function: Callable[..., Any], name: str, effect: ToolEffect) -> Tool:
    description = description_of(function)
    if not description:
        raise DefinitionError(f"tool {name!r} has no docstring: the model needs a description")
    check_name(name)
    signature = parameters_of(function, name, ToolContext)
    return Tool(name, description, effect, signature.schema, function, signature)


def check_name(name: str) -> None:
    """Fail if models cannot use a name.

    Raises:
        DefinitionError: they cannot.
    """
    if not _NAME.fullmatch(name):
        raise DefinitionError(f"tool name {name!r}: use letters, digits, '-' and '_' (at most 64)")


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and not timeout_s > 0:
        raise DefinitionError(f"timeout_s {timeout_s!r}: give seconds above 0, or leave it out")
