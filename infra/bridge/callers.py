"""Who asks over HTTP: whose they are, and what they may."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast, get_args

from starlette.requests import HTTPConnection

from infra.bridge.admission import Rates
from infra.bridge.openai import BadRequest
from schemas.keys import KeyScope

ALL_SCOPES: Final = frozenset[KeyScope](get_args(KeyScope))
CALLER: Final = "ostinato.caller"
"""Where a request's scope holds its `Caller`, or the `BadRequest` that it is."""
NAME: Final = "ostinato.request"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, as the guard found out."""

    tenant: str
    scopes: frozenset[KeyScope]
    key: str = ""
    """The id of its key, or whom its token names; empty is whoever reaches a port that is open to all."""
    rates: Rates = field(default_factory=Rates)
    """0 is what the server is set to."""

    def must(self, scope: KeyScope) -> None:
        """See that it may do something.

        Raises:
            BadRequest: it may not: 403.
        """
        if scope not in self.scopes:
            raise forbidden((scope,))


def caller_of(request: HTTPConnection) -> Caller:
    """Say who sent a request that came through a door with scopes."""
    return cast("Caller", request.scope[CALLER])


def may_look(request: HTTPConnection) -> bool:
    """Say whether whoever asks may see how the server does, and not only whether it does well."""
    caller = request.scope[CALLER]
    return isinstance(caller, Caller) and not caller.scopes.isdisjoint({"metrics", "admin"})


def request_id_of(request: HTTPConnection) -> str:
    """Return what a request is called: what its client says, else a fresh id."""
    return str(request.scope[NAME])


def forbidden(scopes: tuple[KeyScope, ...]) -> BadRequest:
    """Refuse a caller who is known and may not."""
    wanted = " or ".join(repr(scope) for scope in scopes)
    return BadRequest(403, f"this key lacks the scope {wanted}: use another key", None, "insufficient_scope")


def unknown(message: str) -> BadRequest:
    """Refuse a caller of whom nothing is known."""
    problem = BadRequest(401, message, None, "invalid_api_key")
    problem.headers["WWW-Authenticate"] = "Bearer"
    return problem
