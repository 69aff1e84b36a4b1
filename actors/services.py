"""Tools that are NATS services: found by what they say of themselves, and called with the model's arguments.

A service `tool-<name>` tells its JSON Schema as `parameters` in its metadata, and perhaps `effect` and `timeout_s`; its
description is the tool's. It is called on `rpc.tool-<name>.call` with the arguments as JSON, and hears on
`rpc.tool-<name>.cancel` of calls that were given up. Meanwhile it may tell of itself on the subject that the header
`Ostinato-Progress` names. An answer with the header `Ostinato-Suspended` asks for data: the call comes again with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from actors.errors import NoService, ToolError
from actors.tools import Suspend, Tool
from bus import subjects
from bus.connection import Connection
from bus.errors import BadSubject, BusError, Refused, Unavailable
from bus.microservices import Info, ServiceError, ask, hearing, info_of
from schemas.profiles import ToolBinding, ToolEffect

CALL_S = 60.0
"""How long a service may take that does not say."""


class _Wanted(msgspec.Struct, frozen=True):
    """What a service asks for in place of an answer."""

    payload: Any = None
    schema: dict[str, Any] = {}
    problem: str = ""


class BusServices:
    """The `ToolServices` of a bus."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def describe(self, name: str) -> Tool:
        """Ask the service `tool-<name>`."""
        try:
            subjects.tool(name)
            info = await info_of(self._connection, f"tool-{name}")
        except (BusError, TimeoutError, ValueError) as error:
            why = "nobody serves it" if isinstance(error, Unavailable | TimeoutError) else str(error)
            raise NoService(f"tool {name!r} is the NATS service 'tool-{name}': {why}") from error
        return tool_of(name, info)

    async def call(
        self, binding: ToolBinding, arguments: str, headers: Mapping[str, str], report: Callable[[Any], None]
    ) -> str:
        """Ask on its subject."""
        timeout_s = binding.timeout_ms / 1000 or CALL_S
        data = (arguments or "{}").encode("utf-8", "replace")
        try:
            async with hearing(self._connection, report) as inbox:
                about = {**headers, "Ostinato-Progress": inbox}
                reply = await ask(self._connection, subjects.tool(binding.service), data, about, timeout_s)
        except ServiceError as error:
            raise ToolError(str(error)) from error
        except (Unavailable, BadSubject) as error:
            raise NoService(f"nobody serves {binding.service!r} at the moment") from error
        except Refused as error:
            raise ToolError(str(error)) from error
        if "Ostinato-Suspended" in reply.headers:
            raise _suspend(reply.data)
        return reply.data.decode("utf-8", "replace")

    async def cancel(self, binding: ToolBinding, key: str) -> None:
        """Say that nobody waits for a call any more; who does not hear it goes on in vain."""
        with suppress(BusError):
            where = subjects.tool_cancelled(binding.service)
            await self._connection.publish(where, b"", {"Ostinato-Key": key})


def _suspend(data: bytes) -> Suspend:
    """Read what a service asks for.

    Raises:
        ToolError: it cannot be read.
    """
    try:
        wanted = msgspec.json.decode(data, type=_Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = f"it asks for data in a form that cannot be read: give payload, schema and problem as JSON ({error})"
        raise ToolError(why) from error
    return Suspend(wanted.payload, wanted.schema, wanted.problem)


def tool_of(name: str, info: Info) -> Tool:
    """Make a tool of what a service says of itself; what it says of its endpoint `call` goes first.

    Raises:
        NoService: it leaves out what a tool needs.
    """
    told: dict[str, str] = dict(info.metadata or {})
    for endpoint in info.endpoints:
        if endpoint.subject == subjects.tool(name):
            told |= endpoint.metadata or {}
    described = f"tool {name!r}: service {info.name!r} in version {info.version}"
    try:
        parameters: dict[str, Any] = msgspec.json.decode(told.get("parameters", "{}"), type=dict[str, Any])
        timeout_s = float(told["timeout_s"]) if "timeout_s" in told else None
    except (msgspec.DecodeError, ValueError) as error:
        raise NoService(f"{described}: its metadata cannot be read: {error}") from error
    known: tuple[ToolEffect, ...] = ("pure", "idempotent", "once")
    effect = next((each for each in known if each == told.get("effect", "once")), None)
    if effect is None:
        raise NoService(f"{described}: effect {told.get('effect')!r}: use 'pure', 'idempotent' or 'once'")
    if not info.description:
        raise NoService(f"{described} has no description: the model needs one")
    if timeout_s is not None and not timeout_s > 0:
        raise NoService(f"{described}: timeout_s {timeout_s!r}: give seconds above 0")
    schema = {"type": "object", "properties": {}, **parameters}
    return Tool(name, info.description, effect, schema, timeout_s=timeout_s, place="service", service=name)
