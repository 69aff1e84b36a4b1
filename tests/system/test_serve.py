"""`ostinato serve`: one model, no agents, raw prompts; and `ostinato complete` on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import UpProcess, ask, chat, records, start

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def served(system_folder: Path) -> Iterator[UpProcess]:
    """The embedded model, served under a name of its own."""
    up = start(system_folder / "served", str(EMBEDDED_CHECKPOINT), "--served-model-name", "mini", verb="serve")
    yield up
    assert up.stop() == 0


def complete(up: UpProcess, **fields: Any) -> httpx.Response:
    return httpx.post(f"{up.url}/v1/completions", json={"model": "mini", **fields}, timeout=60)


def test_there_are_no_agents(served: UpProcess) -> None:
    models = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["mini"]
    answer = chat(served, ask("Hello!"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "there are none" in answer.json()["error"]["message"]


def test_text_and_its_tokens_are_the_same_prompt_streamed_or_not(served: UpProcess) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    several = client.completions.create(model="mini", prompt=["Hello", "What is"], max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.usage is not None
    assert several.usage.completion_tokens <= 16
    stream = client.completions.create(model="mini", prompt=["Hello", "What is"], max_tokens=8, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in several.choices]


def test_a_raw_completion_verifies_like_everything_else(served: UpProcess) -> None:
    answer = complete(served, prompt="Hello", max_tokens=4)
    generation = answer.json()["id"].removeprefix("cmpl-")
    assert records(served.cli("replay", "show", generation, "--json"))[-1]["kind"] == "model.returned"
    assert served.cli("replay", "verify", generation).returncode == 0


def test_complete_asks_the_running_stack_or_loads_a_checkpoint(served: UpProcess) -> None:
    by_stack = served.cli("complete", "Hello", "--max-tokens", "6")
    assert by_stack.returncode == 0, by_stack.stderr
    here = served.cli("complete", "Hello", "--max-tokens", "6", "--model", str(EMBEDDED_CHECKPOINT))
    assert here.returncode == 0, here.stderr
    assert by_stack.stdout == here.stdout


def test_a_deadline_over_http_is_kept(served: UpProcess) -> None:
    answer = complete(served, prompt="Hello", max_tokens=2000, ignore_eos=True, timeout_s=0.2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
