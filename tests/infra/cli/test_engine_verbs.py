"""`ostinato serve` and `complete`: flags named as vLLM's become our settings."""

from __future__ import annotations

import argparse

import pytest

from infra.cli.engine_verbs import mebibytes, size
from infra.cli.main import parser
from infra.cli.stack import engine_settings_from
from infra.settings import EngineSettings


def test_every_flag_of_serve_becomes_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSTINATO_CONFIG", raising=False)
    line = """serve some/model --host 0.0.0.0 --port 9000 --served-model-name small --dtype bfloat16 --max-model-len 4K
    --block-size 32 --kv-cache-memory-bytes 2G --num-gpu-blocks-override 100 --max-num-seqs 8
    --max-num-batched-tokens 1k --long-prefill-token-threshold 256 --max-num-queued-reqs 5
    --max-num-queued-tokens 9 --shutdown-timeout 7 --scheduling-policy priority
    --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3 --chat-template own.jinja
    --trust-request-chat-template --batch-invariant --logprobs-mode processed_logits
    --device cpu --load-format dummy"""
    settings = engine_settings_from(parser().parse_args(line.split()))
    assert (settings.host, settings.port, settings.agents, settings.demo_agent) == ("0.0.0.0", 9000, (), False)
    assert settings.engine == EngineSettings(
        name="small",
        model="some/model",
        dtype="bfloat16",
        context_length=4096,
        block_size=32,
        kv_memory_mb=2048,
        kv_blocks=100,
        max_running=8,
        max_step_tokens=1000,
        prefill_chunk=256,
        max_waiting=5,
        max_waiting_tokens=9,
        policy="priority",
        shutdown_timeout_s=7,
        tool_parser="hermes",
        reasoning_parser="qwen3",
        chat_template="own.jinja",
        trust_request_chat_template=True,
        batch_invariant=True,
        logprobs_mode="processed_logits",
        device="cpu",
        load_format="dummy",
    )


def test_what_is_not_said_stays_as_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTINATO_ENGINE_MAX_RUNNING", "7")
    monkeypatch.setenv("OSTINATO_AGENTS", "my_agents.py")
    settings = engine_settings_from(parser().parse_args(["serve", "some/model"]))
    assert settings.engine == EngineSettings(name="model", model="some/model", max_running=7)
    assert settings.agents == ()


@pytest.mark.parametrize(
    ("text", "number"), [("4096", 4096), ("4k", 4000), ("4K", 4096), ("1.5m", 1_500_000), ("2G", 2 << 30)]
)
def test_a_size_may_have_a_unit(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "k", "x", "0", "-1", "nan", "nank", "infG", "1.5"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


def test_memory_is_counted_in_whole_mebibytes() -> None:
    assert mebibytes("3M") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="less than 1 MiB"):
        mebibytes("1000")
