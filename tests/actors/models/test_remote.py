"""A model elsewhere over real HTTP: what it is sent, how it fails, and that its key is told to nobody."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace

from actors.errors import CallFailed, ProviderFailed
from actors.models.http import HttpClient
from actors.models.provider import Piece
from actors.models.registry import reach
from actors.models.remote import Outside, RemoteModel
from actors.testing import FixedClock
from schemas.generation import Sampling
from schemas.structured import Structured
from tests.actors.models.calls import REGISTRY, asking, sharing
from tests.actors.models.double import AMAZON, Asked, Played, ProviderDouble, chat_chunks, event, fails, says
from tests.actors.models.recorded import ANTHROPIC, BEDROCK, GEMINI, OPENAI_TOOLS, Recorded
from tests.actors.models.recorded_responses import CODEX

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(20)]

CANARY = "sk-canary-0123456789abcdef"
KEYS = {
    "OPENAI_API_KEY": CANARY,
    "ANTHROPIC_API_KEY": CANARY,
    "GEMINI_API_KEY": CANARY,
    "AZURE_API_KEY": CANARY,
    "AWS_BEARER_TOKEN_BEDROCK": CANARY,
}
Make = Callable[..., RemoteModel]


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = await asyncio.to_thread(HttpClient, connect_s=5, silence_s=5)
    yield made
    await made.close()


@pytest.fixture
def make(client: HttpClient) -> Make:
    """Make a model whose provider is the double."""

    def made(double: ProviderDouble, provider: str = "openai", model: str = "gpt-x", **more: Any) -> RemoteModel:
        keys = more.pop("environment", KEYS)
        fields = {"url": double.url, **more.pop("fields", {})}
        outside = Outside(sharing(client), keys, FixedClock(), **{"first_s": 5.0, **more})
        return RemoteModel(provider, REGISTRY.changed({provider: fields}).named(provider), model, outside)

    return made


async def silently(piece: Piece, /) -> None:
    """Take no text."""


@pytest.mark.parametrize(
    ("provider", "model", "recorded", "path", "header"),
    [
        ("openai", "gpt-x", OPENAI_TOOLS, "/chat/completions", f"Bearer {CANARY}"),
        ("openai", "gpt-5-codex", CODEX, "/responses", f"Bearer {CANARY}"),
        ("azure", "mine", OPENAI_TOOLS, "/openai/deployments/mine/chat/completions?api-version=2024-10-21", CANARY),
        ("anthropic", "claude-x", ANTHROPIC, "/messages", CANARY),
        ("google", "gemini-x", GEMINI, "/models/gemini-x:streamGenerateContent?alt=sse", CANARY),
        ("bedrock", "eu.claude-x:0", BEDROCK, "/model/eu.claude-x%3A0/converse-stream", f"Bearer {CANARY}"),
    ],
)
async def test_every_format_is_asked_where_it_is_and_answers_what_it_says(
    make: Make, provider: str, model: str, recorded: Recorded, path: str, header: str
) -> None:
    headers = AMAZON if provider == "bedrock" else {"content-type": "text/event-stream"}
    with ProviderDouble([Played(recorded.parts, headers=headers)]) as double:
        heard: list[Piece] = []

        async def hear(piece: Piece, /) -> None:
            heard.append(piece)

        answer = await make(double, provider, model).call(asking(model=f"{provider}/{model}"), hear)
        assert answer.text == recorded.text
        assert answer.tool_calls == recorded.calls
        assert answer.engine == f"{provider}/{model}"
        assert "".join(piece.text for piece in heard if piece.kind == "text") == recorded.text
        [asked] = double.asked
        assert asked.path == path
        names = {"azure": "api-key", "anthropic": "x-api-key", "google": "x-goog-api-key"}
        assert asked.headers[names.get(provider, "authorization")] == header


async def test_a_request_that_is_made_again_after_a_crash_is_known_by_the_same_key(make: Make) -> None:
    with ProviderDouble([says("a"), says("a"), says("a")]) as double:
        model = make(double)
        await model.call(asking(), silently)
        await model.call(asking(again=True), silently)
        await model.call(asking(effect="r1-2-m"), silently)
        first, again, other = (asked.headers["idempotency-key"] for asked in double.asked)
        assert first == again != other
        assert "acme" not in first


FORM = Structured("json_schema", '{"type":"object","properties":{"n":{"type":"integer"}}}', field="output_type")


def binds_none(asked: Asked) -> Played:
    """Refuse a form, as servers do that know of none."""
    if "response_format" in asked.body:
        return fails(400, f"response_format: json_schema is not supported (key {CANARY})")
    return says('{"n": 1}')


async def test_a_form_that_a_provider_refuses_is_asked_for_in_words_and_that_is_told(make: Make) -> None:
    with ProviderDouble(binds_none) as double:
        model, heard = make(double), list[str]()

        async def hear(piece: Piece, /) -> None:
            heard.append(piece.text)

        call = asking(sampling=Sampling(structured=FORM))
        answer = await model.call(call, hear)
        assert (answer.text, "".join(heard)) == ('{"n": 1}', '{"n": 1}')
        assert "answered 400: response_format: json_schema is not supported" in answer.worded
        assert CANARY not in answer.worded
        first, second = double.asked
        assert first.body["response_format"]["json_schema"]["schema"]["properties"] == {
            "n": {"type": ["integer", "null"]}
        }
        assert FORM.text in second.body["messages"][0]["content"]
        # a provider that knows requests by their keys would say again what it said
        assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
        again = await model.call(call, silently)
        assert again.worded == answer.worded
        assert len(double.asked) == 3  # it is not refused a second time
        assert (await model.call(asking(), silently)).worded == ""


@pytest.mark.parametrize(
    ("structured", "played"),
    [
        (replace(FORM, field="response_format"), fails(400, "response_format: not supported")),
        (FORM, fails(400, "messages: too many")),
        (FORM, fails(401, "response_format: no such key")),
        (FORM, Played([*chat_chunks({"content": "{"})[:2], event({"error": {"message": "no schema", "code": 400}})])),
    ],
)
async def test_what_must_hold_or_was_not_refused_for_its_form_is_not_asked_for_in_words(
    make: Make, structured: Structured, played: Played
) -> None:
    with ProviderDouble([played]) as double:
        with pytest.raises(ProviderFailed):
            await make(double).call(asking(sampling=Sampling(structured=structured)), silently)
        assert len(double.asked) == 1


async def test_a_call_that_is_refused_in_words_too_was_not_refused_for_its_form(make: Make) -> None:
    with ProviderDouble([fails(400, "tools: wrong schema"), fails(400, "tools: wrong schema"), says("{}")]) as double:
        model, call = make(double), asking(sampling=Sampling(structured=FORM))
        with pytest.raises(ProviderFailed, match="tools"):
            await model.call(call, silently)
        assert (await model.call(call, silently)).worded == ""
        assert "response_format" in double.asked[2].body


async def test_after_a_crash_a_call_fails_where_that_is_the_policy(make: Make) -> None:
    with ProviderDouble([]) as double:
        with pytest.raises(CallFailed, match=r"models\.after_crash"):
            await make(double, after_crash="fail").call(asking(again=True), silently)
        assert double.asked == []


@pytest.mark.parametrize(
    ("played", "kind", "elsewhere", "retry_after_ms"),
    [
        (fails(429, "slow down", {"retry-after": "7"}), "overloaded", True, 7000),
        (fails(429, "slow down", {"retry-after-ms": "150", "retry-after": "7"}), "overloaded", True, 150),
        (fails(429, "slow down", {"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}), "overloaded", True, 9000),
        (fails(429, "slow down", {"retry-after": "soon"}), "overloaded", True, 1000),
        (fails(429, "You exceeded your current quota", code="insufficient_quota"), "budget", True, 0),
        (fails(503, "busy"), "overloaded", True, 1000),
        (fails(529, "Overloaded"), "overloaded", True, 1000),
        (fails(500, "oops"), "engine", True, 1000),
        (fails(502, "bad gateway", {"x-should-retry": "false"}), "engine", True, 0),
        (fails(504, "late"), "timeout", True, 0),
        (fails(401, "no"), "key", False, 0),
        (fails(403, "no"), "key", False, 0),
        (fails(404, "The model `x` does not exist"), "unknown_model", False, 0),
        (fails(400, "bad field", param="top_p"), "invalid", False, 0),
        (fails(400, "This model's maximum context length is 8192 tokens"), "too_long", False, 0),
        (fails(413, "prompt is too long"), "too_long", False, 0),
        (Played([b"<html>Bad gateway</html>"], 502, {"content-type": "text/html"}), "engine", True, 1000),
        (Played([b"<html>Welcome</html>"], 200, {"content-type": "text/html"}), "engine", True, 1000),
        (Played([b""], 301, {"location": "https://elsewhere.example/"}), "engine", True, 1000),
        (
            Played([b'[{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": '
                    b'[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}]}}]'],
                   429, {"content-type": "application/json"}), "overloaded", True, 12500,
        ),
        (Played([b'{"message": "Too many requests"}'], 429, {"content-type": "application/json"}),
         "overloaded", True, 1000),
        (Played([b'{"detail": "Not authenticated"}'], 401, {"content-type": "application/json"}), "key", False, 0),
    ],
)  # fmt: skip
async def test_what_a_provider_refuses_with_is_a_problem_of_ours(
    make: Make, played: Played, kind: str, elsewhere: bool, retry_after_ms: int
) -> None:
    with ProviderDouble([played]) as double, pytest.raises(ProviderFailed) as failed:
        await make(double).call(asking(), silently)
    assert failed.value.problem.kind == kind
    assert failed.value.elsewhere == elsewhere
    assert failed.value.problem.retry_after_ms == retry_after_ms
    assert "openai/gpt-x" in failed.value.problem.message


async def test_a_stream_that_is_cut_is_a_failure_after_what_was_said(make: Make) -> None:
    whole = says("one two three").body
    with ProviderDouble([Played(whole[:3], ends="cut")]) as double:
        heard: list[str] = []

        async def hear(piece: Piece, /) -> None:
            heard.append(piece.text)

        with pytest.raises(ProviderFailed) as failed:
            await make(double).call(asking(), hear)
    assert "".join(heard) == "one two"
    assert failed.value.problem.kind == "overloaded"
    assert failed.value.elsewhere


async def test_a_provider_that_says_nothing_is_given_up_after_a_while(make: Make) -> None:
    with ProviderDouble([Played(says("one two").body[:1], ends="held")]) as double:
        with pytest.raises(ProviderFailed, match=r"no word came within 0\.2 s") as failed:
            await make(double, first_s=0.2).call(asking(), silently)
        assert failed.value.problem.kind == "timeout"


async def test_a_provider_that_stops_in_the_middle_is_given_up_after_a_while() -> None:
    hasty = await asyncio.to_thread(HttpClient, connect_s=5, silence_s=0.2)
    with ProviderDouble([Played(says("one two").body[:3], ends="held")]) as double:
        provider = REGISTRY.changed({"openai": {"url": double.url}}).named("openai")
        model = RemoteModel("openai", provider, "m", Outside(sharing(hasty), KEYS, FixedClock()))
        with pytest.raises(ProviderFailed, match="nothing came for too long"):
            await model.call(asking(), silently)
        await hasty.close()


async def test_a_call_ends_at_its_deadline_and_when_it_is_aborted(make: Make) -> None:
    clock = FixedClock()
    with ProviderDouble(lambda _: Played(says("one two").body[:3], ends="held")) as double:
        model = make(double)
        started = asyncio.Event()

        async def hear(piece: Piece, /) -> None:
            started.set()

        asked = asyncio.create_task(model.call(asking(), hear))
        await started.wait()
        assert model.under_way == 1
        await model.abort(asking().request)
        with pytest.raises(CallFailed) as aborted:
            await asked
        assert aborted.value.problem.kind == "aborted"
        assert model.under_way == 0
        with pytest.raises(CallFailed) as late:
            await model.call(asking(deadline=clock.now()), hear)
        assert late.value.problem.kind == "timeout"


async def test_a_server_that_is_not_there_is_told_as_that(client: HttpClient) -> None:
    with ProviderDouble([]) as double:
        gone = double.url
    provider = REGISTRY.changed({"openai": {"url": gone}}).named("openai")
    model = RemoteModel("openai", provider, "m", Outside(sharing(client), KEYS, FixedClock()))
    with pytest.raises(ProviderFailed, match="cannot be reached") as failed:
        await model.call(asking(), silently)
    assert failed.value.problem.kind == "overloaded"


async def test_a_missing_key_is_told_by_its_variable(make: Make) -> None:
    with ProviderDouble([]) as double, pytest.raises(CallFailed) as failed:
        await make(double, environment={}).call(asking(), silently)
    assert (failed.value.problem.kind, failed.value.problem.field) == ("key", "OPENAI_API_KEY")
    assert "set OPENAI_API_KEY" in failed.value.problem.message


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic", "google", "bedrock", "groq", "openrouter"])
async def test_no_way_to_fail_tells_the_key(make: Make, caplog: pytest.LogCaptureFixture, provider: str) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    def repeats(asked: Asked) -> Played:
        assert CANARY in "".join(asked.headers.values())
        return next(answers)(CANARY)

    plays: list[Callable[[str], Played]] = [
        lambda key: fails(401, f"Incorrect API key provided: {key}. See https://example.org"),
        lambda key: fails(401, f"Incorrect API key provided: {key[:14]}..."),
        lambda key: fails(500, f"request headers: {{'authorization': 'Bearer {key}'}}"),
        lambda key: Played([f"<h1>{key}</h1>".encode()], 502, {"content-type": "text/html"}),
        lambda key: Played([f"data: {key}\n\n".encode()]),
        lambda key: Played([f'data: {{"error": {{"message": "bad key {key}", "code": 401}}}}\n\n'.encode()]),
        lambda key: Played([], 200, {"content-type": f"text/{key}"}),
    ]
    answers = iter(plays)
    variable = REGISTRY.named(provider).keys[0]
    keys = {**KEYS, variable: CANARY, "AZURE_RESOURCE_NAME": "acme", "AWS_REGION": "eu-west-3"}
    with ProviderDouble(repeats) as double:
        model = make(double, provider, environment=keys)
        for _ in plays:
            with pytest.raises(CallFailed) as failed:
                await model.call(asking(), silently)
            shown = "".join(traceback.format_exception(failed.value))
            told += [repr(failed.value.problem), str(failed.value), shown]
        assert len(double.asked) == len(plays)
    told += [caplog.text, repr(model), repr(reach(provider, REGISTRY.named(provider), "m", keys))]
    for text in told:
        assert CANARY[3:12] not in text
        assert CANARY not in text
    assert "***" in told[0]
    assert variable in told[0]


@pytest.mark.parametrize("value", ["sk-canary\x00-tail-of-it", "sk-canary-ü-tail-of-it", "two\nlines-of-canary"])
async def test_a_key_that_is_none_is_not_told_either(make: Make, value: str) -> None:
    with ProviderDouble([]) as double, pytest.raises(CallFailed) as failed:
        await make(double, environment={"OPENAI_API_KEY": value}).call(asking(), silently)
    shown = "".join(traceback.format_exception(failed.value))
    assert "OPENAI_API_KEY" in shown
    assert "canary" not in shown.replace("test_remote", "")


async def test_a_header_of_ones_own_may_hold_a_variable_which_is_hidden_too(make: Make) -> None:
    keys = {**KEYS, "GATEWAY_TOKEN": "gateway-canary-998877"}
    fields = {"headers": {"x-gateway": "token ${GATEWAY_TOKEN}"}}
    with ProviderDouble(lambda asked: fails(403, f"no {asked.headers['x-gateway']}")) as double:
        with pytest.raises(CallFailed) as failed:
            await make(double, environment=keys, fields=fields).call(asking(), silently)
        assert double.asked[0].headers["x-gateway"] == "token gateway-canary-998877"
    assert "canary" not in failed.value.problem.message
    with ProviderDouble([]) as double, pytest.raises(CallFailed, match="GATEWAY_TOKEN"):
        await make(double, fields=fields).call(asking(), silently)


async def test_a_call_s_own_headers_are_sent_over_the_provider_s_and_are_hidden_too(make: Make) -> None:
    keys = {**KEYS, "GATEWAY_TOKEN": "gateway-canary-998877"}
    call = asking(headers={"X-Gateway": "${GATEWAY_TOKEN}", "x-team": "search"})
    with ProviderDouble(lambda asked: fails(403, f"no {asked.headers['x-gateway']}")) as double:
        model = make(double, environment=keys, fields={"headers": {"x-gateway": "plain"}})
        with pytest.raises(CallFailed) as failed:
            await model.call(call, silently)
        sent = double.asked[0].headers
        assert (sent["x-gateway"], sent["x-team"]) == ("gateway-canary-998877", "search")
        assert "canary" not in failed.value.problem.message


async def test_bedrock_signs_with_the_credentials_of_the_environment(make: Make) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-canary",
        "AWS_REGION": "eu-west-3",
    }
    with ProviderDouble([Played(BEDROCK.parts, headers=AMAZON)]) as double:
        answer = await make(double, "bedrock", "claude-x", environment=keys).call(asking(), silently)
        assert answer.text == BEDROCK.text
        [asked] = double.asked
    proof = asked.headers["authorization"]
    assert proof.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-3/bedrock/aws4_request" in proof
    assert "wJalr" not in str(asked)


PLACE = {"GOOGLE_VERTEX_PROJECT": "acme", "GOOGLE_CLOUD_LOCATION": "europe-west1"}


@pytest.fixture
def account(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Write the file of a service account that gets its tokens from an address; give the environment that names it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def made(url: str) -> dict[str, str]:
        about = {
            "type": "service_account",
            "client_email": "bot@acme.iam.gserviceaccount.com",
            "private_key": secret.decode(),
            "token_uri": f"{url}/token",
        }
        file = tmp_path / "account.json"
        file.write_text(json.dumps(about), encoding="utf-8")
        return {**PLACE, "GOOGLE_APPLICATION_CREDENTIALS": str(file)}

    return made


def google(*answers: Played, token: Played | None = None) -> Callable[[Asked], Played]:
    """Give tokens, and answers in turn."""
    left = iter(answers)
    given = json.dumps({"access_token": CANARY, "expires_in": 3600, "token_type": "Bearer"}).encode()
    told = token or Played([given], headers={"content-type": "application/json"})
    return lambda asked: told if asked.path == "/token" else next(left)


@pytest.mark.parametrize(
    ("provider", "model", "recorded", "path"),
    [
        ("vertex", "gemini-x", GEMINI, "/models/gemini-x:streamGenerateContent?alt=sse"),
        ("vertex-anthropic", "claude-x@1", ANTHROPIC, "/models/claude-x@1:streamRawPredict"),
    ],
)
async def test_vertex_is_asked_with_a_token_that_a_service_account_gets_once(
    make: Make, account: Callable[[str], dict[str, str]], provider: str, model: str, recorded: Recorded, path: str
) -> None:
    played = Played(recorded.parts)
    with ProviderDouble(google(played, played)) as double:
        asked = make(double, provider, model, environment=await asyncio.to_thread(account, double.url))
        for _ in range(2):
            assert (await asked.call(asking(), silently)).text == recorded.text
        token, first, second = double.asked
        assert b"assertion=" in token.raw
        assert [one.path for one in (token, first, second)] == ["/token", path, path]
        assert first.headers["authorization"] == f"Bearer {CANARY}"
        if provider == "vertex-anthropic":
            assert first.body["anthropic_version"] == "vertex-2023-10-16"
            assert "model" not in first.body


async def test_where_vertex_is_comes_from_the_environment() -> None:
    for name, publisher in (("vertex", "google"), ("vertex-anthropic", "anthropic")):
        found = reach(name, REGISTRY.named(name), "m", PLACE)
        base = "https://europe-west1-aiplatform.googleapis.com/v1/projects/acme/locations/europe-west1/publishers"
        assert found.url == f"{base}/{publisher}"
    with pytest.raises(CallFailed, match="GOOGLE_VERTEX_LOCATION"):
        reach("vertex", REGISTRY.named("vertex"), "m", {"GOOGLE_VERTEX_PROJECT": "acme"})


async def test_no_way_to_get_a_token_or_to_be_refused_with_one_tells_a_secret(
    make: Make, account: Callable[[str], dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    refusing = google(fails(401, f"bad token {CANARY}"))
    denied = google(token=fails(400, f"invalid_grant {CANARY}"))
    for script, kind in ((refusing, "key"), (denied, "key")):
        with ProviderDouble(script) as double:
            environment = await asyncio.to_thread(account, double.url)
            with pytest.raises(CallFailed) as failed:
                await make(double, "vertex", "g", environment=environment).call(asking(), silently)
        assert failed.value.problem.kind == kind
        told += [repr(failed.value.problem), "".join(traceback.format_exception(failed.value))]
    with ProviderDouble([]) as double:
        away = await asyncio.to_thread(account, "http://127.0.0.1:1")
        with pytest.raises(ProviderFailed, match="Google cannot be reached"):
            await make(double, "vertex", "g", environment=away).call(asking(), silently)
        broken = {**PLACE, "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere.json"}
        with pytest.raises(CallFailed, match="GOOGLE_APPLICATION_CREDENTIALS"):
            await make(double, "vertex", "g", environment=broken).call(asking(), silently)
        assert not double.asked
    for text in (*told, caplog.text):
        assert CANARY[3:12] not in text
        assert "PRIVATE KEY" not in text


async def test_what_cannot_be_asked_of_a_provider_is_refused_by_its_name(make: Make) -> None:
    call = asking()
    with ProviderDouble([]) as double, pytest.raises(ProviderFailed) as failed:
        await make(double).call(replace(call, sampling=replace(call.sampling, top_k=40)), silently)
    assert (failed.value.problem.kind, failed.value.problem.field) == ("invalid", "top_k")
    assert double.asked == []
