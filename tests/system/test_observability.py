"""What operators see of a real stack: metrics over HTTP, spans of the log, the table of `top`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.conftest import UpProcess, ask

pytestmark = pytest.mark.servers

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def asked(stack: UpProcess) -> str:
    """Ask the demo agent within a trace; return the thread."""
    body = ask("What is 12 times 34?")
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers={"traceparent": CALLER}, timeout=60)
    assert answer.status_code == 200
    return answer.headers["X-Ostinato-Thread"]


def samples(stack: UpProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = httpx.get(f"{stack.url}/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_tell_of_every_process_and_of_the_engine(stack: UpProcess) -> None:
    before = samples(stack)["vllm:generation_tokens_total"][0][1]
    asked(stack)
    found = samples(stack)
    assert found["vllm:generation_tokens_total"][0][1] > before
    assert found["vllm:generation_tokens_total"][0][0] == {"model_name": "ostinato-mini", "engine": "0"}
    assert found["vllm:time_to_first_token_seconds_count"][0][1] >= 2
    assert found["vllm:num_requests_running"][0][1] == 0
    up = {labels["process"]: value for labels, value in found["ostinato_process_up"]}
    assert up == dict.fromkeys(("agents-0", "host", "recorder-0", "scheduler-0", "worker-0"), 1.0)
    assert {labels["shard"] for labels, _ in found["ostinato_shard_owned"]} == {"0", "1", "2", "3"}
    assert {labels["stream"] for labels, _ in found["ostinato_recorder_lag_messages"]} == {"EV", "TRACE"}
    assert {labels["shard"] for labels, _ in found["ostinato_bus_commands_waiting"]} == {"0", "1", "2", "3"}


def test_top_prints_one_table_for_scripts(stack: UpProcess) -> None:
    asked(stack)
    table = stack.cli("top", "--once")
    assert table.returncode == 0, table.stderr
    lines = table.stdout.splitlines()
    headings = [line.split()[0] for line in lines if line.startswith(("ENGINE", "PROC", "QUEUE", "RUN "))]
    assert headings == ["ENGINE", "PROCESS", "QUEUE", "RUN"]
    assert "ostinato-mini" in table.stdout
    look = json.loads(stack.cli("top", "--once", "--json").stdout)
    assert look["engines"][0]["engine"] == "ostinato-mini"
    assert look["runs"][0]["agent"] == "demo"


def test_spans_are_rebuilt_from_the_log_though_nobody_sent_them(stack: UpProcess, tmp_path: Path) -> None:
    thread = asked(stack)
    stack.cli("replay", "engine", thread)  # waits until it is recorded
    file = tmp_path / "spans.json"
    done = stack.cli("replay", "export", "--otel", thread, "-o", str(file))
    assert done.returncode == 0, done.stderr
    (line,) = file.read_text(encoding="utf-8").splitlines()
    spans: list[dict[str, Any]] = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {span["traceId"] for span in spans} == {"ab" * 16}
    (root,) = [span for span in spans if span["parentSpanId"] == "cd" * 8]
    assert root["name"] == "run demo"
    names = {span["name"] for span in spans}
    assert names >= {"invoke_agent demo", "step 1", "chat ostinato-mini", "execute_tool calculator", "llm_request"}
    ids = {span["spanId"] for span in spans}
    assert all(span["parentSpanId"] in ids for span in spans if span is not root)
    engine = next(span for span in spans if span["name"] == "llm_request")
    assert engine["links"]
    told = {one["key"] for one in engine["attributes"]}
    assert {"gen_ai.latency.time_in_queue", "gen_ai.latency.time_in_model_prefill"} <= told
    assert "12 times 34" not in line
