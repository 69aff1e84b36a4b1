"""Tokens of an issuer: made with real keys, verified with what a real HTTP server publishes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from infra.bridge.tokens import BadToken, Issuer, IssuerUnfit
from infra.settings import AccessSettings

RSA = rsa.generate_private_key(65_537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65_537, 2048)


@dataclass
class Published:
    """An issuer's HTTP server."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def _jwk(kid: str, found: str) -> dict[str, Any]:
    return {**json.loads(found), "kid": kid, "use": "sig"}


@pytest.fixture
def published() -> Iterator[Published]:
    made = Published(keys=[_jwk("r", RSAAlgorithm.to_jwk(RSA.public_key()))])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            found = {"jwks_uri": made.url + "/keys"} if "openid" in self.path else {"keys": made.keys}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def settings(published: Published, **more: Any) -> AccessSettings:
    return AccessSettings(issuer=published.url, audience="ostinato", **more)


def token(published: Published, key: Any = RSA, algorithm: str = "RS256", kid: str = "r", **claims: Any) -> str:
    whole = {
        "iss": published.url,
        "aud": "ostinato",
        "sub": "ada",
        "exp": int(time.monotonic()) + 10**10,
        "tenant": "acme",
        "scope": "openid inference ostinato:agents",
    }
    return jwt.encode({**whole, **claims}, key, algorithm, headers={"kid": kid})


@pytest.mark.anyio
async def test_a_token_says_whose_it_is_and_what_it_may(published: Published) -> None:
    caller = await Issuer(settings(published)).caller(token(published))
    assert (caller.tenant, caller.scopes, caller.key) == ("acme", {"inference", "agents"}, "sub ada")
    assert published.asked == ["/.well-known/openid-configuration", "/keys"]


@pytest.mark.anyio
async def test_keys_are_asked_for_once_and_again_for_a_new_one(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer(settings(published, jwks=published.url + "/keys"))
    for _ in range(3):
        await issuer.caller(token(published))
    assert published.asked == ["/keys"]
    published.keys.append(_jwk("e", ECAlgorithm.to_jwk(EC.public_key())))
    fresh = token(published, EC, "ES256", "e")
    with pytest.raises(BadToken):
        await issuer.caller(fresh)
    assert published.asked == ["/keys"], "who makes names of keys up must not have us ask each time"
    monkeypatch.setattr("infra.bridge.tokens._AGAIN_S", 0)
    assert (await issuer.caller(fresh)).tenant == "acme"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere"},
        {"aud": "another"},
        {"exp": 1},
        {"nbf": 10**10},
        {"tenant": None},
        {"tenant": "Not.One"},
        {"sub": None},
    ],
)
async def test_a_token_that_is_not_for_us_is_not_taken(published: Published, claims: dict[str, Any]) -> None:
    given = {name: value for name, value in claims.items() if value is not None}
    missing = [name for name, value in claims.items() if value is None]
    whole = jwt.decode(token(published, **given), options={"verify_signature": False})
    made = jwt.encode({k: v for k, v in whole.items() if k not in missing}, RSA, "RS256", headers={"kid": "r"})
    with pytest.raises(BadToken):
        await Issuer(settings(published)).caller(made)


@pytest.mark.anyio
async def test_a_token_that_somebody_else_signed_is_not_taken(published: Published) -> None:
    issuer = Issuer(settings(published))
    public = json.dumps(published.keys[0]) * 2
    for forged in (
        token(published, STRANGER),
        token(published, public, "HS256"),
        token(published, "", "none"),
        token(published, RSA, "RS512"),
        token(published, kid="unknown"),
        token(published)[:-4] + "AAAA",
        "a.b.c",
    ):
        with pytest.raises(BadToken):
            await issuer.caller(forged)


@pytest.mark.anyio
async def test_a_claim_may_bind_a_token_to_whom_it_names(published: Published) -> None:
    assert (await Issuer(settings(published)).caller(token(published))).resource == ""
    issuer = Issuer(settings(published, resource_claim="sub"))
    caller = await issuer.caller(token(published))
    assert (caller.resource, caller.key) == ("ada", "sub ada")
    by_person = Issuer(settings(published, resource_claim="person"))
    assert (await by_person.caller(token(published, person="ann"))).resource == "ann"
    # who could not be told from anybody is nobody, and not everybody
    for person in (None, "", 7, ["ann"], "a" * 201, "a\0"):
        with pytest.raises(BadToken, match="person"):
            await by_person.caller(token(published, person=person))
    with pytest.raises(BadToken, match="person"):
        await by_person.caller(token(published))


@pytest.mark.anyio
async def test_scopes_may_be_a_list_under_another_name(published: Published) -> None:
    issuer = Issuer(settings(published, scope_claim="roles", tenant_claim="org"))
    caller = await issuer.caller(token(published, roles=["admin", "emperor"], org="umbrella"))
    assert (caller.tenant, caller.scopes) == ("umbrella", {"admin"})


@pytest.mark.parametrize(
    ("more", "setting"),
    [
        ({"audience": ""}, "access.audience"),
        ({"algorithms": ("HS256",)}, "access.algorithms"),
        ({"algorithms": ()}, "access.algorithms"),
        ({"issuer": "http://issuer.example"}, "access.issuer"),
        ({"jwks": "http://issuer.example/keys"}, "access.jwks"),
    ],
)
def test_what_would_not_be_safe_is_refused_at_the_start(more: dict[str, Any], setting: str) -> None:
    fields = {"issuer": "https://issuer.example", "audience": "ostinato", **more}
    with pytest.raises(IssuerUnfit, match=setting):
        Issuer(AccessSettings(**fields))
