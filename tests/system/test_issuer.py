"""Tokens of an OpenID Connect issuer at the door of a whole stack, which finds the issuer's keys over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.infra.bridge.test_tokens import STRANGER, Published, published, token
from tests.system.conftest import UpProcess, ask, start
from tests.system.test_keys import created, url

pytestmark = pytest.mark.servers
__all__ = ["published"]


@pytest.fixture
def trusting(
    system_folder: Path, tmp_path: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> Iterator[UpProcess]:
    """A stack that takes an issuer's tokens."""
    monkeypatch.setenv("OSTINATO_ACCESS_ISSUER", published.url)
    monkeypatch.setenv("OSTINATO_ACCESS_AUDIENCE", "ostinato")
    up = start(system_folder / tmp_path.name, "--host", "0.0.0.0")
    yield up
    assert up.stop() == 0


def send(up: UpProcess, bearer: str, method: str = "GET", path: str = "/v1/models", body: Any = None) -> httpx.Response:
    about = {} if body is None else {"json": body}
    headers = {"authorization": f"Bearer {bearer}"}
    return httpx.request(method, url(up) + path, headers=headers, timeout=60, **about)


def test_tokens_open_a_stack_to_those_they_are_meant_for_and_to_nobody_else(
    trusting: UpProcess, published: Published
) -> None:
    good = token(published)
    assert send(trusting, good).status_code == 200
    assert published.asked == ["/.well-known/openid-configuration", "/keys"]
    for wrong in (
        token(published, aud="another"),
        token(published, exp=1_600_000_000),
        token(published, iss="https://login.example"),
        token(published, tenant=""),
        token(published, STRANGER),
        good[:-4],
    ):
        refused = send(trusting, wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key"), refused.text
        assert refused.headers["www-authenticate"] == "Bearer"
    narrow = send(trusting, token(published, scope="inference"), path="/api/threads")
    assert (narrow.status_code, narrow.json()["error"]["code"]) == (403, "insufficient_scope")
    # keys of the stack's own go on opening it
    assert send(trusting, created(trusting)["key"]).status_code == 200


def test_tenants_of_tokens_see_nothing_of_one_another_nor_of_a_key_s(trusting: UpProcess, published: Published) -> None:
    ours, theirs = (token(published, tenant=tenant) for tenant in ("acme", "umbrella"))
    run = {"agent": "demo", "text": "Hello!", "wait_s": 30}
    begun = send(trusting, ours, "POST", "/api/runs", run)
    assert begun.status_code == 202, begun.text
    path = f"/api/threads/{begun.json()['thread']}/messages"
    assert send(trusting, ours, path=path).status_code == 200
    # another person of the same tenant
    assert send(trusting, token(published, sub="bob"), path=path).status_code == 200
    for stranger in (theirs, created(trusting, "--tenant", "umbrella")["key"]):
        assert send(trusting, stranger, path=path).status_code == 404
        assert send(trusting, stranger, path="/api/runs").json()["data"] == []
    assert send(trusting, created(trusting, "--tenant", "acme")["key"], path=path).status_code == 200
    chat = send(trusting, theirs, "POST", "/v1/chat/completions", ask("Hello!"))
    assert chat.status_code == 200
