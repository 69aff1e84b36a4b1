"""Agents whose models are elsewhere: through the bridge, into the log, and out of it again without a network or key."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest

from infra.client import connect
from infra.errors import NoAnswer, PictureRefused
from tests.actors.models.double import Asked, Played, ProviderDouble, chat_chunks, fails, says
from tests.system.conftest import UpProcess, ask, chat, records, start

pytestmark = pytest.mark.servers

CANARY = "sk-canary-f00dfeedbeef4242"
AGENTS = """
from ostinato import Agent, tool

@tool(effect="pure")
def weather(city: str) -> str:
    "Tell the weather."
    return f"rain in {city}"

outside = Agent("outside", "Be brief.", model="openai/gpt-x", tools=(weather,))
chained = Agent("chained", "Be brief.", model="careful")
worded = Agent("worded", "Be brief.", model="worded/gpt-w")
refusing = Agent("refusing", "Be brief.", model="refusing/gpt-r")
keyless = Agent("keyless", "Be brief.", model="anthropic/claude-x")
"""
CONFIGURATION = """
[models]
breaker_failures = 0

[models.providers.openai]
url = "{url}/v1"

[models.providers.mine]
url = "{url}/broken"
keys = ["OPENAI_API_KEY"]

[models.providers.worded]
url = "{url}/v1"
keys = ["OPENAI_API_KEY"]
structured = "none"
idempotency = "idempotency-key"

[models.providers.refusing]
url = "{url}/refusing"
keys = ["OPENAI_API_KEY"]

[[models.budgets]]
scope = "tenant"
tokens = 10
models = "openai/limited"

[models.chains]
careful = ["mine/gpt-y", "openai/gpt-x"]
"""

HELD: list[Asked] = []
"""What was asked to wait."""
SHOWN: list[object] = []
"""What had pictures in it."""
PIXELS = b"\x89PNG\r\n\x1a\n" + b"Quetzalcoatlus" * 10_000
PICTURE = f"data:image/png;base64,{base64.b64encode(PIXELS).decode()}"


def played(asked: Asked) -> Played:
    """Call the tool first, then say what it told; refuse elsewhere, and repeat the key."""
    said = asked.body["messages"][-1]
    if asked.path.startswith("/broken"):
        return fails(503, f"busy, {asked.headers['authorization']}")
    if asked.path.startswith("/refusing") and "response_format" in asked.body:
        return fails(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported")
    if isinstance(said["content"], list):
        SHOWN.append(said["content"])
        return says("a cat")
    return _spoken(asked, said)


def _spoken(asked: Asked, said: dict[str, Any]) -> Played:
    if said["role"] == "tool":
        return says(f"There is {said['content']}.")
    if "person" in said["content"] or "does not fit" in said["content"]:
        return _formed(asked)
    if "key" in said["content"]:
        return fails(401, f"Incorrect API key provided: {asked.headers['authorization'].removeprefix('Bearer ')}")
    if "wait" in said["content"]:
        again = any(other.headers.get("idempotency-key") == asked.headers["idempotency-key"] for other in HELD)
        HELD.append(asked)
        return says("asked again") if again else Played(chat_chunks({"content": "asked"})[:2], ends="held")
    if "weather" in said["content"]:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
        rest = [{"index": 0, "function": {"arguments": part}} for part in ('{"city": "B', 'rest"}')]
        fragments = [{"tool_calls": [part]} for part in (call, *rest)]
        return Played(chat_chunks({"reasoning_content": "a tool"}, *fragments, finish="tool_calls"))
    return says("hello from elsewhere")


def _formed(asked: Asked) -> Played:
    """Say what is no JSON twice, then JSON in a fence; never come to an end, or decline, where that is wanted."""
    first = next(message["content"] for message in asked.body["messages"] if message["role"] == "user")
    if "endless" in first:
        return Played(chat_chunks({"content": '{"name": "Ann'}, finish="length"))
    if "secret" in first:
        return Played(chat_chunks({"refusal": "I cannot tell."}))
    again = sum("does not fit" in str(message["content"]) for message in asked.body["messages"])
    parts = ['{"name": ', '{"name": "Ann"}', '```json\n{"name": "An', "n\\ud83d", '\\ude00", "age": 4', "2}\n```"]
    return Played(chat_chunks(*({"content": part} for part in (parts[again : again + 1] if again < 2 else parts[2:]))))


class Person(pydantic.BaseModel):
    """Whom a text is about."""

    name: str
    age: int


def test_an_answer_of_a_type_is_mended_and_one_that_cannot_be_says_why(
    elsewhere: tuple[UpProcess, ProviderDouble],
) -> None:
    up, double = elsewhere

    async def play() -> None:
        async with connect(str(up.data)) as client:
            answer = await client.run("outside", "which person?", output_type=Person, repairs=2)
            assert answer.output == Person(name="Ann\U0001f600", age=42)
            assert all(asked.body["response_format"]["type"] == "json_schema" for asked in double.asked[-3:])
            running = client.stream("outside", "go on, person", thread=answer.thread, output_type=Person)
            seen = [value async for value in running.partials()]
            assert seen[0] == {"name": "An"}
            assert seen[-2] == {"name": "Ann\U0001f600", "age": 42}
            assert seen[-1] == running.answer().output == answer.output
            assert all(value["name"] in {"An", "Ann", "Ann\U0001f600"} for value in seen[:-1])
            for text, why in (("an endless person", "max_tokens"), ("a secret person", "refusal")):
                with pytest.raises(NoAnswer, match=why):
                    await client.run("outside", text, output_type=Person)
            worded = await client.run("worded", "which person?", output_type=Person, repairs=2)
            assert worded.output == answer.output
            assert "response_format" not in double.asked[-1].body
            assert '"age"' in double.asked[-1].body["messages"][0]["content"]
            refused = await client.run("refusing", "which person?", output_type=Person, repairs=2)
            assert refused.output == answer.output
            asked = [asked.body for asked in double.asked if asked.path.startswith("/refusing")]
            # the first time it is tried, and what does not fit is told in the same words after that
            assert ["response_format" in body for body in asked] == [True, False, False, False]
            shown = records(up.cli("replay", "show", refused.thread, "--json"))
            returned = [line["data"] for line in shown if line["kind"] == "model.returned"]
            assert len(returned) == 3
            assert all("'response_format'" in one["worded"] for one in returned)

    asyncio.run(play())


@pytest.fixture(scope="module")
def elsewhere(system_folder: Path) -> Iterator[tuple[UpProcess, ProviderDouble]]:
    folder = system_folder / "elsewhere"
    folder.mkdir()
    (folder / "outside.py").write_text(AGENTS, encoding="utf-8")
    with ProviderDouble(played) as double, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", CANARY)
        patch.delenv("ANTHROPIC_API_KEY", raising=False)
        (folder / "ostinato.toml").write_text(CONFIGURATION.format(url=double.url), encoding="utf-8")
        up = start(folder / "data", "--agents", str(folder / "outside.py"), "--config", str(folder / "ostinato.toml"))
        try:
            yield up, double
        finally:
            assert up.stop() == 0


def test_an_agent_answers_with_a_model_elsewhere_and_its_tool(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, double = elsewhere
    answer = chat(up, ask("What is the weather in Brest?", model="agent/outside"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "There is rain in Brest."
    assert answer.json()["usage"]["total_tokens"] == 20
    first, second = (asked.body for asked in double.asked[-2:])
    assert first["model"] == "gpt-x"
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "tool"]


def test_a_bare_model_elsewhere_streams_through_the_bridge(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = elsewhere
    with httpx.stream(
        "POST", f"{up.url}/v1/chat/completions", json=ask("hi", model="openai/gpt-x", stream=True), timeout=60
    ) as answer:
        lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in lines if chunk["choices"]]
    assert "".join(said) == "hello from elsewhere"
    assert len([part for part in said if part]) == 3


def test_the_next_model_of_a_chain_answers_and_the_log_says_which(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = elsewhere
    answer = chat(up, ask("hi", model="agent/chained"))
    assert answer.status_code == 200, answer.text
    shown = up.cli("replay", "show", answer.headers["X-Ostinato-Thread"], "--json").stdout
    returned = next(line for line in map(json.loads, shown.splitlines()) if line.get("kind") == "model.returned")
    assert returned["data"]["engine"] == "openai/gpt-x"
    assert [passed["model"] for passed in returned["data"]["passed_over"]] == ["mine/gpt-y"]


def test_a_missing_key_is_named_and_a_refused_one_is_not_told(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = elsewhere
    missing = chat(up, ask("hi", model="agent/keyless"))
    assert missing.status_code >= 400
    assert "ANTHROPIC_API_KEY" in missing.text
    refused = chat(up, ask("repeat the key", model="openai/gpt-x"))
    assert refused.status_code >= 400
    assert "OPENAI_API_KEY" in refused.text
    assert "***" in refused.text
    assert CANARY not in refused.text


def test_a_process_that_is_killed_while_a_provider_answers_asks_again_with_the_same_key(
    elsewhere: tuple[UpProcess, ProviderDouble],
) -> None:
    up, double = elsewhere
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(chat, up, ask("wait for it", model="agent/outside"))
        assert double.holding.wait(30)
        os.kill(up.pid("agents-0"), signal.SIGKILL)
        answer = asking.result(90)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "asked again"
    assert len({asked.headers["idempotency-key"] for asked in HELD}) == 1
    assert len(HELD) == 2


def test_an_engine_here_goes_by_its_bare_name_and_by_local_and_one_that_is_not_there_is_told(
    elsewhere: tuple[UpProcess, ProviderDouble],
) -> None:
    up, _ = elsewhere
    served = chat(up, ask("hi", model="local/ostinato-mini", max_tokens=4))
    assert served.status_code == 200, served.text
    gone = chat(up, ask("hi", model="local/nobody"))
    assert gone.status_code == 503
    assert "is offered on NATS" in gone.text


def test_of_many_questions_at_once_a_budget_for_one_answers_one(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, double = elsewhere
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(chat, up, ask("hi", model="openai/limited")) for _ in range(24)]
        answers = [one.result(60) for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200] + [429] * 23
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429} == {"insufficient_quota"}
    assert sum(asked.body["model"] == "limited" for asked in double.asked) == 1


def pictured(*urls: str, model: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return ask("", model=model) | {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}]}


def test_a_picture_is_seen_in_every_later_turn_and_the_log_holds_a_reference(
    elsewhere: tuple[UpProcess, ProviderDouble],
) -> None:
    up, double = elsewhere
    answer = chat(up, pictured(PICTURE, model="agent/outside"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "a cat"
    wanted = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    assert SHOWN[-1] == wanted
    thread = answer.headers["X-Ostinato-Thread"]
    assert chat(up, ask("hi", model="agent/outside"), thread).status_code == 200
    assert double.asked[-1].body["messages"][1]["content"] == wanted
    shown = up.cli("replay", "show", thread, "--json").stdout
    (message,) = [line["data"]["message"] for line in map(json.loads, shown.splitlines()) if "?" in str(line["data"])
                  and line["kind"] == "message.added"]  # fmt: skip
    assert message["images"][0]["blob"]
    assert len(shown) < 20_000
    assert b"Quetzalcoatlus" not in b"".join(path.read_bytes() for path in up.data.rglob("*") if path.is_file())
    assert up.cli("replay", "verify", thread).returncode == 0


def test_a_program_shows_bytes_and_a_bare_model_is_shown_them_too(elsewhere: tuple[UpProcess, ProviderDouble]) -> None:
    up, _ = elsewhere

    async def show() -> str:
        async with connect(str(up.data)) as client:
            with pytest.raises(PictureRefused, match="image/png"):
                await client.run("outside", "?", images=[b"no picture"])
            return (await client.run("outside", "?", images=[PIXELS, PICTURE])).text

    assert asyncio.run(show()) == "a cat"
    assert SHOWN[-1] == [{"type": "text", "text": "?"}, *({"type": "image_url", "image_url": {"url": PICTURE}},) * 2]
    bare = chat(up, pictured(PICTURE, "https://example.com/cat.png", model="openai/gpt-x"))
    assert bare.json()["choices"][0]["message"]["content"] == "a cat"
    assert "https://example.com/cat.png" in str(SHOWN[-1])


def test_a_model_here_sees_none_and_what_is_no_picture_is_refused_by_its_name(
    elsewhere: tuple[UpProcess, ProviderDouble],
) -> None:
    up, _ = elsewhere
    blind = chat(up, pictured(PICTURE, model="ostinato-mini"))
    assert (blind.status_code, blind.json()["error"]["param"]) == (400, "messages")
    assert "'ostinato-mini' sees no images" in blind.text
    for url, mend in (("cat.png", "https:// address"), ("data:image/bmp;base64,QUJD", "image/webp")):
        refused = chat(up, pictured(url, model="openai/gpt-x"))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content")
        assert mend in refused.text
    many = chat(up, pictured(*["https://example.com"] * 65, model="openai/gpt-x"))
    assert (many.status_code, "64 at most" in many.text) == (400, True)


def test_what_was_answered_verifies_without_the_provider_and_the_key_is_nowhere(
    elsewhere: tuple[UpProcess, ProviderDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    up, double = elsewhere
    chat(up, ask("What is the weather in Brest?", model="agent/outside"))
    chat(up, ask("repeat the key", model="agent/outside"))
    before = len(double.asked)
    monkeypatch.delenv("OPENAI_API_KEY")
    verified = up.cli("replay", "verify", "--all")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert len(double.asked) == before
    threads = [line["thread"] for line in records(up.cli("replay", "ls", "--json"))]
    shown = "".join(up.cli("replay", "show", thread, "--json").stdout for thread in threads)
    logs = "".join(path.read_text(encoding="utf-8") for path in up.data.rglob("*.log"))
    spans = up.data / "spans.json"
    exported = up.cli("replay", "export", "--otel", "--all", "-o", str(spans))
    assert exported.returncode == 0, exported.stderr
    told = spans.read_text(encoding="utf-8")
    assert "agent/outside" in told or '"outside"' in told
    for place in (shown, logs, told, up.cli("config", "show").stdout):
        assert CANARY[8:20] not in place
    assert CANARY.encode() not in b"".join(
        path.read_bytes() for path in up.data.rglob("*") if path.is_file() and os.access(path, os.R_OK)
    )
