"""What operators see of a real stack: metrics over HTTP, spans of the log, the table of `top`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.infra.metrics.expressions import EXPRESSIONS, asked_by
from tests.infra.spans.test_exporting import http_receiver, sent_to
from tests.system.conftest import OSTINATO, UpProcess, ask, start
from tests.system.pseudo_terminal import CTRL_C, PseudoTerminal

pytestmark = pytest.mark.servers

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def asked(stack: UpProcess, caller: str = CALLER) -> str:
    """Ask the demo agent within a trace; return the thread."""
    body = ask("What is 12 times 34?", user="ada")
    headers = {"traceparent": caller, "x-request-id": "MYREQ77"}
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
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


CONFIGURATION = """
[telemetry]
spans = "on"
[[models.budgets]]
scope = "tenant"
tokens = 1000000
usd = 5
"""


@pytest.fixture
def whole(system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UpProcess]:
    """A stack that tells of all it can tell of: it has a budget, and sends spans (to where nobody listens)."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    file = tmp_path / "ostinato.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    up = start(system_folder / tmp_path.name, "--config", str(file))
    yield up
    assert up.stop() == 0


def test_what_dashboard_and_alerts_ask_for_is_told_by_a_stack_that_runs(whole: UpProcess) -> None:
    assert samples(whole)["ostinato_runs"] == [({"status": name}, 0) for name in ("queued", "running", "waiting")]
    asked(whole)
    found = {name: set().union(*(labels for labels, _ in told)) for name, told in samples(whole).items()}
    for expression in EXPRESSIONS:
        metrics, labels = asked_by(expression)
        for name in metrics:
            assert name in found, expression
            assert labels <= found[name], expression


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


@pytest.mark.parametrize("columns", [80, 120])
def test_top_fits_the_terminal_that_it_is_drawn_on(stack: UpProcess, columns: int) -> None:
    asked(stack)
    thread = json.loads(stack.cli("top", "--once", "--json").stdout)["runs"][0]["thread"]
    argv = [*OSTINATO, "top", "--interval", "0.5", "--data", str(stack.data)]
    with PseudoTerminal(argv, {}, (24, columns)) as screen:
        screen.until("ENGINE")
        drawn = "ENGINE" + screen.until("ENGINE").removesuffix("ENGINE")
        assert screen.press_until_end(CTRL_C) == 130
    lines = drawn.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= columns
    for told in ("batch", "out t/s", "steps/s", "TTFT", "done", "preempt", "agents-0", "TRACE", "took", thread):
        assert told in drawn


DOORS: list[tuple[str, str, dict[str, Any]]] = [
    ("responses", "/v1/responses", {"model": "agent/demo", "input": "Hello!"}),
    ("messages", "/v1/messages", {**ask("Hello!"), "max_tokens": 99}),
    ("rest-run", "/api/runs", {"agent": "demo", "text": "Hello!", "wait_s": 30}),
    ("rest-thread", "/api/threads", {"title": "Hello!"}),
    (
        "a2a",
        "/a2a/demo/message:send",
        {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "Hello!"}]}},
    ),
    ("mcp", "/mcp", {"method": "tools/call", "params": {"name": "ask_demo", "arguments": {"text": "Hello!"}}}),
    ("mcp-again", "/mcp", {"method": "tools/call", "params": {"name": "ask_demo", "arguments": {"text": "Hello!"}}}),
]


def test_the_id_of_a_request_is_on_its_span_whichever_door_it_came_through(own_stack: UpProcess) -> None:
    accept = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
        "a2a-version": "1.0",
    }
    for name, path, body in DOORS:
        rpc = {"jsonrpc": "2.0", "id": 1} if path == "/mcp" else {}
        headers = {**accept, "x-request-id": name}
        answer = httpx.post(f"{own_stack.url}{path}", json={**rpc, **body}, headers=headers, timeout=60)
        assert answer.is_success, answer.text
    done = own_stack.cli("replay", "export", "--otel", "--all", "-o", str(own_stack.data / "spans.json"))
    assert done.returncode == 0, done.stderr
    lines = (own_stack.data / "spans.json").read_text(encoding="utf-8").splitlines()
    spans = [span for line in lines for span in json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    found = [told_of(span).get("ostinato.request_id") for span in spans]
    assert sorted(filter(None, found)) == sorted(name for name, *_ in DOORS)


def told_of(span: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"].get("stringValue", "") for one in span["attributes"]}


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
    assert {told_of(span)["user.id"] for span in spans} == {"ada"}
    assert {told_of(span)["session.id"] for span in spans} == {thread}
    assert told_of(root)["ostinato.request_id"] == "MYREQ77"
    lines = (stack.data / "logs" / "agents-0.log").read_text(encoding="utf-8").splitlines()
    assert any(line.get("request_id") == "MYREQ77" for line in map(json.loads, lines))
    told = {one["key"] for one in engine["attributes"]}
    assert {"gen_ai.latency.time_in_queue", "gen_ai.latency.time_in_model_prefill"} <= told
    assert "12 times 34" not in line


def test_spans_that_nobody_sampled_are_sent_to_who_asks_for_them(
    stack: UpProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = asked(stack, CALLER.removesuffix("01") + "00")
    stack.cli("replay", "engine", thread)  # waits until it is recorded
    monkeypatch.setenv("OSTINATO_TELEMETRY_CONVENTIONS", "1.36")
    export = ("replay", "export", "--otel", thread, "-o", "otlp")
    with http_receiver() as (url, heard, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        done = stack.cli(*export, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"threads": 1, "spans": len(sent_to(heard))}
    assert len(sent_to(heard)) > 4
    assert "gen_ai.system" in str(heard)  # as that version of the conventions has it
    with http_receiver(400) as (url, _, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        done = stack.cli(*export)
    assert done.returncode == 1
    assert "nobody takes spans" in done.stderr


def test_top_names_a_process_that_stands_still(own_stack: UpProcess) -> None:
    argv = [*OSTINATO, "top", "--interval", "0.5", "--data", str(own_stack.data)]
    with PseudoTerminal(argv, {}, (24, 80)) as screen:
        screen.until("agents-0")
        os.kill(own_stack.pid("agents-0"), signal.SIGSTOP)
        try:
            screen.until("  does not answer")  # a process, behind its restarts; not JetStream
        finally:
            os.kill(own_stack.pid("agents-0"), signal.SIGCONT)
        assert screen.press_until_end(CTRL_C) == 130
