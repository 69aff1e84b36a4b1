"""A2A's card of an agent, version 1.0, as far as ours say something."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class CardInterface(Struct, frozen=True, rename="camel"):
    """Where, and in which binding, an agent is spoken to."""

    url: str
    protocol_binding: str
    protocol_version: str


class CardCapabilities(Struct, frozen=True, rename="camel"):
    """What it can do beside answering."""

    streaming: bool
    push_notifications: bool


class CardSkill(Struct, frozen=True):
    """Something that it can be asked for."""

    id: str
    name: str
    tags: list[str]
    description: str | UnsetType = UNSET
    """Of a tool that has one."""


class AgentCardShown(Struct, frozen=True, rename="camel"):
    """An agent, described for other agents."""

    name: str
    description: str
    version: str
    supported_interfaces: list[CardInterface]
    capabilities: CardCapabilities
    default_input_modes: list[str]
    default_output_modes: list[str]
    skills: list[CardSkill]
    security_schemes: dict[str, dict[str, Any]] | UnsetType = UNSET
    """Only where a key is needed, as are the requirements."""
    security_requirements: list[dict[str, Any]] | UnsetType = UNSET
