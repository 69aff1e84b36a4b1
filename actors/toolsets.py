"""Which tools there are for a request: small wrappers around one another, each with one thought.

`Prefixed(Filtered(Services("git", "mail"), lambda tool: tool.effect == "pure"), "office_")`. An agent takes tools and
toolsets, mixed, or a function of the request's context that gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from actors.errors import DefinitionError, NoService
from actors.request_context import RequestContext
from actors.tools import Approval as When
from actors.tools import Tool
from schemas.profiles import ToolBinding


class ToolServices(Protocol):
    """Tools that run elsewhere, each a NATS service."""

    async def describe(self, name: str) -> Tool:
        """Find the service `tool-<name>` and what it says of itself.

        Raises:
            NoService: nobody answers, or not with what a tool needs.
        """

    async def call(
        self, binding: ToolBinding, arguments: str, headers: Mapping[str, str], report: Callable[[Any], None]
    ) -> str:
        """Call one; return what the model reads. `report` takes what it tells of itself meanwhile.

        Raises:
            Suspend: it waits for data, and is to be called again with that.
            NoService: nobody answers: it was not called.
            ToolError: it answered with an error.
            TimeoutError: it did not answer in time.
        """

    async def cancel(self, binding: ToolBinding, key: str) -> None:
        """Tell one that nobody waits for the call of this key any more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a toolset may know of the request that it is asked for."""

    tenant: str = ""
    thread: str = ""
    context: RequestContext = field(default_factory=RequestContext)
    services: ToolServices | None = None


@runtime_checkable
class Toolset(Protocol):
    """Gives tools, the same ones whenever it is asked for the same request."""

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them, each name once.

        Raises:
            DefinitionError: two share a name.
            NoService: one that runs elsewhere is not there.
        """


Tools = Toolset | Iterable[Tool | Toolset]
"""What an agent's tools may be given as."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same tools."""

    always: tuple[Tool, ...]

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        return self.always


@dataclass(frozen=True, slots=True)
class Combined:
    """The tools of several sets, in their order."""

    parts: tuple[Toolset, ...]

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them; one name stands for one tool."""
        return distinct([tool for part in self.parts for tool in await part.tools(around)])


@dataclass(frozen=True, slots=True)
class Filtered:
    """Those that a function keeps."""

    inner: Toolset
    keep: Callable[[Tool], bool]

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        return tuple(tool for tool in await self.inner.tools(around) if self.keep(tool))


@dataclass(frozen=True, slots=True)
class Prefixed:
    """All, each with a prefix before its name."""

    inner: Toolset
    prefix: str

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        return tuple(replace(tool, name=self.prefix + tool.name) for tool in await self.inner.tools(around))


@dataclass(frozen=True, slots=True)
class Renamed:
    """All, some by other names."""

    inner: Toolset
    names: Mapping[str, str]
    """Their names inside to those outside."""

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        found = await self.inner.tools(around)
        return distinct([replace(tool, name=self.names.get(tool.name, tool.name)) for tool in found])


@dataclass(frozen=True, slots=True)
class Approval:
    """All, and a person must agree to each call, or to those that a function of the arguments picks."""

    inner: Toolset
    when: When = True

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        return tuple(replace(tool, approval=self.when, grantable=False) for tool in await self.inner.tools(around))


@dataclass(frozen=True, slots=True)
class Services:
    """Tools that other processes serve, in any language: by the names that follow `tool-` in their services'."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """Find each."""
        if around.services is None:
            raise NoService(f"tools {', '.join(self.names)} are NATS services, and there is no bus here")
        return tuple([await around.services.describe(name) for name in self.names])


def toolset_of(given: Tools) -> Toolset:
    """Make one toolset of what an agent was given.

    Raises:
        DefinitionError: something among it is neither a tool nor a toolset, or two tools share a name.
    """
    if isinstance(given, Toolset):
        return given
    parts = tuple(given)
    for part in parts:
        if not isinstance(part, Tool | Toolset):
            raise DefinitionError(f"{part!r} is no tool: put @tool above its function")
    if all(isinstance(part, Tool) for part in parts):
        return Fixed(distinct([part for part in parts if isinstance(part, Tool)]))
    return Combined(tuple(Fixed((part,)) if isinstance(part, Tool) else part for part in parts))


def distinct(found: Iterable[Tool]) -> tuple[Tool, ...]:
    """Give the tools back.

    Raises:
        DefinitionError: two share a name.
    """
    by_name: dict[str, Tool] = {}
    for tool in found:
        if tool.name in by_name:
            raise DefinitionError(f"two tools are named {tool.name!r}: rename one, or give a set of them a prefix")
        by_name[tool.name] = tool
    return tuple(by_name.values())
