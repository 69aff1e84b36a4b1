"""Tokens (JWT) of an OpenID Connect issuer: verified by PyJWT with the issuer's own keys, and read as callers."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from bus import subjects
from bus.errors import BadSubject
from infra.bridge.callers import ALL_SCOPES, Caller
from infra.bridge.persons import LONGEST_RESOURCE
from infra.errors import InfraError
from infra.settings import AccessSettings

log = logging.getLogger(__name__)

_LEEWAY_S = 30
_STALE_S = 600.0
_AGAIN_S = 10.0
"""A key that is not known may be new; but whoever makes names up must not have us ask each time."""
_FETCH_S = 5.0
_MOST_BYTES = 1 << 20
_NO_PROOF = ("HS", "none")
"""Algorithms by which whoever can verify can sign too, or anybody."""


class BadToken(Exception):
    """A token that opens nothing; says why."""


class IssuerUnfit(InfraError):
    """Tokens of an issuer were asked for in a way that would not be safe, or cannot be."""


class Issuer:
    """Verifies the tokens of one issuer."""

    def __init__(self, settings: AccessSettings) -> None:
        """Make it.

        Raises:
            IssuerUnfit: names the setting and the mend.
        """
        try:
            self._jwt: Any = importlib.import_module("jwt")
            importlib.import_module("cryptography")
        except ImportError as error:
            raise IssuerUnfit("access.issuer: needs PyJWT: pip install 'ostinato[oidc]'") from error
        if not settings.audience:
            raise IssuerUnfit("access.audience: name what tokens of `access.issuer` must be meant for")
        if not settings.algorithms or any(name.startswith(_NO_PROOF) for name in settings.algorithms):
            raise IssuerUnfit("access.algorithms: name asymmetric ones, such as RS256 or ES256")
        for name, url in (("issuer", settings.issuer), ("jwks", settings.jwks)):
            if url and not _is_safe(url):
                raise IssuerUnfit(f"access.{name}: {url!r} must be https://")
        self._settings = settings
        self._keys: dict[str, Any] = {}
        self._fetched = -_STALE_S
        self._fetching = asyncio.Lock()

    async def caller(self, token: str) -> Caller:
        """Say whom a token names.

        Raises:
            BadToken: it is not one of this issuer for this audience, is over, or names no tenant, or nobody.
        """
        settings = self._settings
        try:
            header: Mapping[str, Any] = self._jwt.get_unverified_header(token)
            if header.get("alg") not in settings.algorithms:
                raise BadToken(f"the token is signed by {header.get('alg')!r}, which is not taken")
            claims: Mapping[str, Any] = self._jwt.decode(
                token,
                await self._key(str(header.get("kid", ""))),
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except self._jwt.PyJWTError as error:
            raise BadToken(f"the token is not taken: {error}") from error
        whose, resource = f"sub {claims['sub']}", self._resource(claims)
        return Caller(self._tenant(claims), self._scopes(claims), whose, resource=resource)

    def _resource(self, claims: Mapping[str, Any]) -> str:
        """Say which person a token is bound to, where tokens are."""
        name = self._settings.resource_claim
        if not name:
            return ""
        said = claims.get(name)
        if not isinstance(said, str) or not 0 < len(said) <= LONGEST_RESOURCE or "\0" in said:
            most = LONGEST_RESOURCE
            raise BadToken(f"the token names nobody: claim {name!r} must be a text of 1 to {most} characters")
        return said

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        name = self._settings.tenant_claim
        try:
            return subjects.checked(str(claims.get(name, "")), f"claim {name!r}:")
        except BadSubject as error:
            raise BadToken(f"the token names no tenant: {error}") from error

    def _scopes(self, claims: Mapping[str, Any]) -> Any:
        given = claims.get(self._settings.scope_claim, ())
        listed = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
        named = {str(scope).removeprefix("ostinato:") for scope in listed}
        return frozenset(scope for scope in ALL_SCOPES if scope in named)

    async def _key(self, kid: str) -> Any:
        async with self._fetching:
            age = time.monotonic() - self._fetched
            if age >= _STALE_S or (kid not in self._keys and age >= _AGAIN_S):
                await self._fetch()
        key = self._keys.get(kid)
        if key is None:
            raise BadToken("the token is signed with a key that its issuer does not publish")
        return key

    async def _fetch(self) -> None:
        """Read the issuer's keys; those that are known stay where it does not answer."""
        self._fetched = time.monotonic()
        try:
            async with httpx.AsyncClient(timeout=_FETCH_S, follow_redirects=False) as client:
                url = self._settings.jwks
                if not url:
                    where = self._settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
                    url = str((await _json(client, where))["jwks_uri"])
                found = self._jwt.PyJWKSet.from_dict(await _json(client, url))
        except (httpx.HTTPError, self._jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
            log.warning("keys of the issuer %s: %s", self._settings.issuer, error)
            return
        self._keys = {str(key.key_id or ""): key for key in found.keys if key.public_key_use in {None, "sig"}}


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    if not _is_safe(url):
        raise ValueError(f"{url!r} is not https://")
    answer = await client.get(url)
    answer.raise_for_status()
    if len(answer.content) > _MOST_BYTES:
        raise ValueError(f"{url} is longer than {_MOST_BYTES} bytes")
    found = answer.json()
    if not isinstance(found, dict):
        raise TypeError(f"{url} is no JSON object")
    return found


def _is_safe(url: str) -> bool:
    """Whether nobody on the way can put keys of his own there."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"})
