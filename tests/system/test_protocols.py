"""Clients of several APIs against a whole stack: its models, its agents, its log, and a model that gives vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import numpy as np
import openai
import pytest

from engine.pooling import load_pooler
from tests.engine.models.test_pooled import write
from tests.engine.test_pooling import TEXTS, write_tokenizer
from tests.system.conftest import UpProcess, start
from tests.system.test_batches import begin, jsonl, lines_of, wait

pytestmark = pytest.mark.servers

ASKED: Any = [{"role": "user", "content": "Hello!"}]
TASK = [([5, 6, 7, 8], [9, 10]), ([5, 6], [7, 8, 9])]
"""Contexts and what goes on from them, in tokens."""


@pytest.fixture(scope="module")
def encoder(system_folder: Path) -> Path:
    folder = system_folder / "vectors"
    folder.mkdir()
    write(folder, "BertModel", pad_token_id=0)
    write_tokenizer(folder, "bert")
    return folder


@pytest.fixture(scope="module")
def up(system_folder: Path, encoder: Path) -> Iterator[UpProcess]:
    settings = system_folder / "protocols.toml"
    settings.write_text(f'[pooling]\nmodel = "{encoder}"\nname = "vectors"\n', encoding="utf-8")
    process = start(system_folder / "protocols", "--config", str(settings))
    yield process
    assert process.stop() == 0


def model_of(up: UpProcess) -> str:
    name: str = httpx.get(f"{up.url}/v1/models").json()["data"][0]["id"]
    return name


def test_anthropic_s_client_talks_to_a_model_and_to_an_agent(up: UpProcess) -> None:
    name = model_of(up)
    with anthropic.Anthropic(api_key="k", base_url=up.url) as client:
        whole = client.messages.create(model=name, max_tokens=20, messages=ASKED, extra_body={"temperature": 0})
        with client.messages.stream(model=name, max_tokens=20, messages=ASKED, extra_body={"temperature": 0}) as stream:
            streamed = stream.get_final_message()
        assert [block.type for block in whole.content] == [block.type for block in streamed.content]
        assert whole.usage.output_tokens == streamed.usage.output_tokens > 0
        counted = client.messages.count_tokens(model=name, messages=ASKED).input_tokens
        usage = whole.usage
        assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
        answer = client.messages.create(model="agent/demo", max_tokens=20, messages=ASKED)
        assert answer.role == "assistant"


def test_responses_are_read_back_from_the_log_and_gone_on_from(up: UpProcess) -> None:
    name = model_of(up)
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1") as sdk:
        client = sdk.responses
        for model in (name, "agent/demo"):
            first = client.create(model=model, input="Hello!")
            again = client.retrieve(first.id)
            assert again.to_dict() == first.to_dict()
            second = client.create(model=model, input="And now?", previous_response_id=first.id)
            assert second.status in {"completed", "incomplete"}
            assert second.previous_response_id == first.id
        begun = client.create(model=name, input="Hello!", background=True)
        assert begun.status == "in_progress"
        ended = client.cancel(begun.id)
        assert ended.id == begun.id
        assert ended.status != "in_progress"


def test_vectors_of_a_model_beside_the_engine_are_those_of_the_engine_offline(up: UpProcess, encoder: Path) -> None:
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1") as client:
        told = client.embeddings.create(model="vectors", input=TEXTS)
    expected = np.stack(load_pooler(str(encoder), device="cpu").embed(TEXTS))
    found = np.asarray([one.embedding for one in told.data])
    assert np.abs(found - expected).max() < 1e-5


def test_what_lm_eval_asks_is_answered_as_it_reads_it(up: UpProcess) -> None:
    """Its `local-completions`: the tokenizer is asked first, then each context with what goes on from it, in one."""
    name = model_of(up)
    info = httpx.get(f"{up.url}/tokenizer_info", timeout=20).json()
    assert info["eos_token"]
    asked = {"prompt": "Hello", "add_special_tokens": False}
    tokens = httpx.post(f"{up.url}/tokenize", json=asked, timeout=20).json()["tokens"]
    assert httpx.post(f"{up.url}/detokenize", json={"tokens": tokens}, timeout=20).json()["prompt"] == "Hello"
    body = {
        "model": name,
        "prompt": [[*context, *rest] for context, rest in TASK],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = httpx.post(f"{up.url}/v1/completions", json=body, timeout=60).json()
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    assert len(choices) == len(TASK)
    for (context, rest), choice in zip(TASK, choices, strict=True):
        logprobs = choice["logprobs"]
        told = logprobs["token_logprobs"][len(context) : -1]
        assert len(told) == len(rest)
        assert all(isinstance(one, float) and one <= 0 for one in told)
        likeliest = logprobs["top_logprobs"][len(context) : -1]
        assert all(max(top.values()) >= one for top, one in zip(likeliest, told, strict=True))


def test_a_stream_in_the_background_is_gone_on_with_by_whoever_comes_back(up: UpProcess) -> None:
    name = model_of(up)
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1") as sdk:
        client = sdk.responses
        more: Any = {"ignore_eos": True, "temperature": 0}
        about: Any = {"model": name, "input": "Hello!", "max_output_tokens": 120, "extra_body": more}
        heard = []
        with client.create(**about, background=True, stream=True) as stream:
            for event in stream:
                heard.append(event)
                if event.type == "response.output_text.delta":
                    break
        identity = heard[0].response.id
        heard += list(client.retrieve(identity, stream=True, starting_after=heard[-1].sequence_number))
        assert [event.sequence_number for event in heard] == list(range(len(heard)))
        final = heard[-1].response
        text = "".join(event.delta for event in heard if event.type == "response.output_text.delta")
        assert final.status == "incomplete"
        assert text == final.output_text != ""
        assert final.to_dict() == client.retrieve(identity).to_dict()
        assert client.create(**about).output_text == text
        (item,) = client.input_items.list(identity).data
        assert item.to_dict()["content"][0]["text"] == "Hello!"
        client.delete(identity)
        for ask in (client.retrieve, client.input_items.list, client.delete):
            with pytest.raises(openai.NotFoundError):
                ask(identity)
        with pytest.raises(openai.NotFoundError):
            client.create(model=name, input="And?", previous_response_id=identity)
    shown = up.cli("replay", "verify", identity.removeprefix("resp_"))
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_vectors_come_of_a_batch_as_they_come_alone(up: UpProcess) -> None:
    asked = [{"model": "vectors", "input": text, "encoding_format": "float"} for text in TEXTS]
    about = {"method": "POST", "url": "/v1/embeddings"}
    content = jsonl([{"custom_id": str(at), **about, "body": one} for at, one in enumerate(asked)])
    with openai.OpenAI(api_key="k", base_url=f"{up.url}/v1") as sdk:
        batch = wait(sdk, begin(sdk, content, "/v1/embeddings").id)
        told = lines_of(sdk, batch.output_file_id)
        alone = sdk.embeddings.create(model="vectors", input=TEXTS, encoding_format="float")
    vectors = [line["response"]["body"]["data"][0]["embedding"] for line in told]
    assert vectors == [one.embedding for one in alone.data]
    assert batch.usage.input_tokens == alone.usage.prompt_tokens
