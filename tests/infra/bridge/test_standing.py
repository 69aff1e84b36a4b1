"""What a key may still take, and which models it may ask for, as clients are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import openai
import pytest

from infra.bridge.admission import Rates
from infra.bridge.callers import ALL_SCOPES, Caller
from tests.infra.bridge.doors import USAGE, Scripted, plain

TOLD = USAGE.prompt_tokens + USAGE.completion_tokens


def test_a_key_s_tokens_are_counted_when_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(headers: Mapping[str, str]) -> Caller:
        return Caller("acme", ALL_SCOPES, headers["authorization"], Rates(tokens=2 * TOLD))

    def asked(key: str, **more: Any) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
        return door.send("POST", "/v1/chat/completions", {"authorization": key}, json.dumps(body).encode())

    door = Scripted(monkeypatch, plain, ask=ask)
    answers = [asked("k1"), asked("k1", stream=True), asked("k1")]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    told = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers]
    assert told == [2 * TOLD, TOLD, 0]
    assert answers[0].headers["x-ratelimit-limit-tokens"] == str(2 * TOLD)
    assert "x-ratelimit-limit-requests" not in answers[0].headers
    assert int(answers[2].headers["retry-after-ms"]) > 0
    assert asked("k2").status_code == 200


def test_models_elsewhere_are_listed_with_their_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Scripted(monkeypatch, plain, routed=("careful", "openai/gpt-4o"))
    with openai.OpenAI(api_key="k", base_url="http://door/v1", http_client=door.http()) as client:
        assert [(model.id, model.owned_by) for model in client.models.list()] == [
            ("m", "ostinato"),
            ("careful", "ostinato"),
            ("openai/gpt-4o", "openai"),
            ("agent/demo", "ostinato"),
        ]
        assert client.models.retrieve("openai/gpt-4o").owned_by == "openai"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("openai/gpt-5")
