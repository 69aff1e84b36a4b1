"""Finds out who sent a request: by an API key, by a token of an issuer, or because anybody may."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.api_keys import BEGINNING, ApiKeys
from infra.bridge.admission import Rates
from infra.bridge.callers import ALL_SCOPES, Caller, unknown
from infra.bridge.openai import BadRequest
from infra.bridge.tokens import BadToken, Issuer
from infra.settings import AccessSettings
from schemas.context import Clock


@dataclass(frozen=True)
class Access:
    """Who may come in."""

    settings: AccessSettings
    required: bool
    """Whether a key or token is needed."""
    tenant: str
    """Of whoever comes without one, where none is needed."""
    ring: ApiKeys
    clock: Clock
    issuer: Issuer | None = None

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Say who sent a request with these headers.

        Raises:
            BadRequest: nobody who may.
        """
        secret = _secret(headers)
        if secret.startswith(BEGINNING):
            return self._holder(secret)
        if self.issuer is not None and secret.count(".") == 2:
            try:
                return await self.issuer.caller(secret)
            except BadToken as error:
                raise unknown(str(error)) from error
        if not self.required:
            self._refuse_strangers(headers)
            return Caller(self.tenant, ALL_SCOPES)
        if not secret:
            raise unknown("no API key: send `Authorization: Bearer KEY` (`ostinato keys create` makes one)")
        raise unknown("this API key is not known here: see `ostinato keys list`")

    def _holder(self, secret: str) -> Caller:
        key = self.ring.find(secret, self.clock.now())
        if key is None or key.issued is None:
            raise unknown("this API key is not known here, was revoked, or has expired: see `ostinato keys list`")
        scopes, issued = frozenset(key.issued.scopes), key.issued
        rates = Rates(issued.requests_per_minute, issued.concurrent, issued.tokens_per_minute)
        return Caller(key.tenant, scopes, key.id, rates, issued.resource)

    def _refuse_strangers(self, headers: Mapping[str, str]) -> None:
        """See that no web page elsewhere has a browser on this machine ask in its name, by whatever host's name.

        Raises:
            BadRequest: one seems to: 403.
        """
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        ours = _is_address(name) or name in {"localhost", *self.settings.hosts}
        if self.settings.required == "auto" and not ours:
            message = f"no key is needed here, so the host must be this machine, and not {name!r}: see `access.hosts`"
            raise BadRequest(403, message, None, "unknown_host")
        origin = headers.get("origin")
        if origin is None or origin in self.settings.origins or urlsplit(origin).netloc == host:
            return
        message = f"web pages of {origin!r} may not ask: add it to `access.origins`, or use a key"
        raise BadRequest(403, message, None, "unknown_origin")


def _secret(headers: Mapping[str, str]) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    return headers.get("x-api-key", "").strip()


def needs_key(settings: AccessSettings, host: str) -> bool:
    """Say whether a key is needed where the bridge is bound to a host."""
    if settings.required == "auto":
        return not _is_loopback(host)
    return settings.required == "always"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(host: str) -> bool:
    """A name can be made to lead to this machine by whoever owns it; an address cannot."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
