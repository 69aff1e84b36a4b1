"""API keys as the log holds them: commands on `in.<tenant>.key.<key>.<verb>`. The secret is with its holder alone."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from schemas.memory import Resource
from schemas.wire import Wire

KeyScope = Literal["inference", "agents", "metrics", "admin"]
"""What a key opens: models, agents and their threads, figures for dashboards, and what changes the server itself."""

_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class IssueKey(Wire, frozen=True, tag="issue"):
    """Let whoever knows a secret in, for the tenant of the subject. `in.<tenant>.key.<key>.issue`."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the secret, hexadecimal.

    A plain hash will do, and a slow or salted one would not help: the secret is 256 bits of chance, which nobody
    guesses, and each request would pay for the slowness."""
    prefix: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    """How the secret begins: for people to know it by."""
    scopes: Annotated[tuple[KeyScope, ...], msgspec.Meta(min_length=1, max_length=8)]
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    expires: _Count = 0
    """Microseconds since the Unix epoch; 0 is never."""
    requests_per_minute: _Count = 0
    """0 is what the server is set to."""
    concurrent: _Count = 0
    """Requests at the same time; 0 is what the server is set to."""
    tokens_per_minute: _Count = 0
    """Of prompts and answers together; 0 is what the server is set to."""
    resource: Resource = ""
    """The one person or project that its holder is; empty binds it to none."""


class RevokeKey(Wire, frozen=True, tag="revoke"):
    """Let it in no more, for good. `in.<tenant>.key.<key>.revoke`."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
