"""Who asks over HTTP: whose they are, and what they may."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, cast, get_args

from starlette.requests import HTTPConnection

from infra.bridge.admission import Rates
from infra.bridge.openai import BadRequest
from schemas.context import REQUEST
from schemas.keys import KeyScope

ALL_SCOPES: Final = frozenset[KeyScope](get_args(KeyScope))
CALLER: Final = "ostinato.caller"
"""Where a request's scope holds its `Caller`, or the `BadRequest` that it is."""
NAME: Final = "ostinato.request"
NAMED: Final = "ostinato.request.named"
"""Where a request's scope holds whether its client named it in a header."""
REQUEST_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""What a request may be called."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, as the guard found out."""

    tenant: str
    scopes: frozenset[KeyScope]
    key: str = ""
    """The id of its key, or whom its token names; empty is whoever reaches a port that is open to all."""
    rates: Rates = field(default_factory=Rates)
    """0 is what the server is set to."""
    resource: str = ""
    """The one person or project that it is; empty is not bound to any."""

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


def rename(request: HTTPConnection, name: str | None) -> None:
    """Call a request what its body says, unless a header has said it.

    Raises:
        BadRequest: nothing can be called so.
    """
    if name is None:
        return
    if not REQUEST_ID.fullmatch(name):
        message = "request_id: 1 to 128 letters, digits and `_.:-`"
        raise BadRequest(400, message, "request_id", "invalid_value")
    if not request.scope[NAMED]:
        request.scope[NAME] = name
        REQUEST.set(name)  # what is logged of it from here on


def forbidden(scopes: tuple[KeyScope, ...]) -> BadRequest:
    """Refuse a caller who is known and may not."""
    wanted = " or ".join(repr(scope) for scope in scopes)
    return BadRequest(403, f"this key lacks the scope {wanted}: use another key", None, "insufficient_scope")


def unknown(message: str) -> BadRequest:
    """Refuse a caller of whom nothing is known."""
    problem = BadRequest(401, message, None, "invalid_api_key")
    problem.headers["WWW-Authenticate"] = "Bearer"
    return problem
