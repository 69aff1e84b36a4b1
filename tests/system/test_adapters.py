"""Adapters are served as models of their own: listed, asked, cached apart, replayed, also from an agent."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import OSTINATO, UpProcess, records, start
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

PROMPT = "What is 12 times 34? And what is 56 times 78, and what do both come to together?"


def written(folder: Path, seed: int) -> Path:
    """Have `peft` write an adapter of the embedded model that changes much."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED_CHECKPOINT, dtype=torch.float32)
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, target_modules="all-linear")
        peft.get_peft_model(model, config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def served(system_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    one, two = (written(tmp_path_factory.mktemp("adapter"), seed) for seed in (1, 2))
    modules = ("--lora-modules", f"one={one}", f"two={two}", "--served-model-name", "mini")
    up = start(system_folder / "adapters", str(EMBEDDED_CHECKPOINT), *modules, verb="serve")
    yield up
    assert up.stop() == 0


def ask(up: UpProcess, model: str, **more: Any) -> Any:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, **more}
    return httpx.post(f"{up.url}/v1/completions", json=body, timeout=60).json()


def text(up: UpProcess, model: str) -> str:
    return str(ask(up, model)["choices"][0]["text"])


def test_each_is_a_model_that_answers_as_itself_whoever_is_beside_it(served: UpProcess) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    told = {model.id: (model.model_extra or {}).get("parent") for model in client.models.list()}
    assert told == {"mini": None, "one": "mini", "two": "mini"}
    alone = {name: text(served, name) for name in told}
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(9) as pool:
        asked = [name for name in told for _ in range(3)]
        assert list(pool.map(lambda name: text(served, name), asked)) == [alone[name] for name in asked]
    (likely,) = ask(served, "one", max_tokens=1, use_beam_search=True, temperature=0)["choices"]
    assert likely["text"] == alone["one"][: len(likely["text"])]
    chat = client.chat.completions.create(
        model="two", messages=[{"role": "user", "content": "Hello!"}], max_tokens=4, stream=True
    )
    assert {chunk.model for chunk in chat} == {"two"}


def test_gateways_are_told_of_them_as_vllm_tells(served: UpProcess) -> None:
    (line,) = [
        line
        for line in httpx.get(f"{served.url}/metrics", timeout=10).text.splitlines()
        if line.startswith("vllm:lora_requests_info")
    ]
    labels = 'max_lora="2",running_lora_adapters="",waiting_lora_adapters=""'
    assert sorted(line[line.index("{") + 1 : line.index("}")].split(",")) == labels.split(",")


def test_what_is_known_of_a_prompt_is_known_to_its_adapter_alone(served: UpProcess) -> None:
    def cached(model: str) -> int:
        usage = ask(served, model, cache_salt="apart", max_tokens=1)["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert [cached(name) for name in ("mini", "one", "two")] == [0, 0, 0]
    assert all(cached(name) > 0 for name in ("mini", "one", "two"))


def test_what_was_recorded_comes_out_again(served: UpProcess) -> None:
    text(served, "one")
    wait_until_recorded(served)
    *_, verified = records(served.cli("replay", "engine", "--last", "--verify", "--json"))
    assert (verified["ok"], verified["problem"]) == (True, "")
    again = served.cli("replay", "tokens", "--all")
    assert again.returncode == 0, again.stdout + again.stderr
    assert " 0 differ" in again.stdout


def test_an_adapter_that_nobody_has_is_refused_by_name(served: UpProcess) -> None:
    refused = httpx.post(f"{served.url}/v1/completions", json={"model": "three", "prompt": "x"}, timeout=20)
    assert refused.status_code == 404
    assert "one" in refused.json()["error"]["message"]
    assert httpx.post(f"{served.url}/tokenize", json={"model": "two", "prompt": "Hello"}, timeout=20).json()["count"]
    assert httpx.post(f"{served.url}/reset_prefix_cache", timeout=20).status_code == 200


def test_what_is_no_adapter_keeps_a_stack_from_starting_and_says_why(tmp_path: Path) -> None:
    for given, said in (
        (f"one={tmp_path}", "'one': checkpoint"),
        ("one", "is no NAME=FOLDER"),
        (f"mini={tmp_path}", "'mini' is what the model is called (engine.name): name"),
        (f"agent/a={tmp_path}", "'agent/a' would be taken for"),
        (f"local/a={tmp_path}", "'local/a' would be taken for"),
    ):
        command = [*OSTINATO, "serve", str(EMBEDDED_CHECKPOINT), "--served-model-name", "mini", "--lora-modules", given]
        done = subprocess.run(
            [*command, "--data", str(tmp_path / "data")], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert said in done.stderr
