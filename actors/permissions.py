"""Which tools may be called: allowed, asked for, or kept from the model, by their names or kinds.

`Permitted(tools, [allow("read_*"), deny("*_secret"), ask(category="edit")])`: the first rule that fits decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from actors.tools import Tool
from actors.toolsets import Surroundings, Toolset

Decision = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True)
class Permission:
    """A rule: what becomes of the tools that it fits."""

    decision: Decision
    tools: str = "*"
    """Their names, in which `*` stands for anything."""
    category: str = ""
    """What `@tool(category=…)` says of them, or their effect: `pure`, `idempotent`, `checkable`, `once`. Empty fits
    all."""

    def fits(self, tool: Tool) -> bool:
        """Say whether it is about a tool."""
        return fnmatchcase(tool.name, self.tools) and self.category in {"", tool.category, tool.effect}


def allow(tools: str = "*", *, category: str = "") -> Permission:
    """Have tools be called as their authors made them: one that needs approval by itself still does."""
    return Permission("allow", tools, category)


def ask(tools: str = "*", *, category: str = "") -> Permission:
    """Have a person agree to each call, or to all further ones of the thread (`approve` with `always`, or `grant`)."""
    return Permission("ask", tools, category)


def deny(tools: str = "*", *, category: str = "") -> Permission:
    """Keep tools from the model."""
    return Permission("deny", tools, category)


@dataclass(frozen=True, slots=True)
class Permitted:
    """All, as far as rules let them: of each tool the first rule that fits decides."""

    inner: Toolset
    rules: Sequence[Permission]
    otherwise: Decision = "ask"
    """Of a tool that no rule fits."""

    async def tools(self, around: Surroundings) -> tuple[Tool, ...]:
        """List them."""
        found = [(tool, self._decided(tool)) for tool in await self.inner.tools(around)]
        return tuple(_asking(tool) if decision == "ask" else tool for tool, decision in found if decision != "deny")

    def _decided(self, tool: Tool) -> Decision:
        return next((rule.decision for rule in self.rules if rule.fits(tool)), self.otherwise)


def _asking(tool: Tool) -> Tool:
    """Have a person asked; to what its own author wants asked nobody agrees beforehand."""
    return tool if tool.approval is True else replace(tool, approval=True, grantable=tool.approval is False)
