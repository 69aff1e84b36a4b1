"""What Prometheus is told: vLLM's names, our own, and that dashboards and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from actors.models.budgets import Ledger
from actors.serving.metering import Meter
from actors.testing import FixedClock
from bus.numbers import Backlog, ProcessNumbers, StreamNumbers
from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from infra.metrics.scrape import written
from schemas.generation import Sampling, Submit
from schemas.models import Budget
from schemas.steps import RequestEvent

DEPLOY = Path(__file__).parents[3] / "infra" / "deploy"

VLLM = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:engine_sleep_state",
    "vllm:cache_config_info",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:prompt_tokens_by_source_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:gpu_cache_usage_perc",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_hits_total",
]
HISTOGRAMS = [
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "time_per_output_token_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_num_preemptions",
    "request_prefill_kv_computed_tokens",
]


def scheduler_numbers() -> dict[str, Any]:
    """What a scheduler says that served one request: seen in the numbers of real ones by the system tests."""
    meter = Meter("e1", 1024)
    submit = Submit("a", (1, 2, 3), Sampling(max_tokens=9), "f", "acme")
    meter.submitted(submit, 0)
    meter.applied(1, [RequestEvent("a", (7,), 0, None, 0)], 50_000)
    meter.applied(2, [RequestEvent("a", (8,), 1, "stop", 0)], 80_000)
    plain = msgspec.structs.asdict(
        Scheduler(SchedulerConfig(blocks=10, context_length=64, block_size=4), "e1").statistics()
    )
    told = {"prompt_tokens": 30, "cached_tokens": 12, "idle_blocks": 4}
    config = {"config": {"block_size": 16, "num_gpu_blocks": 10}}
    return {**plain, **told, **config, "engine": "org/tiny", "requests": meter.numbers()}


def processes() -> list[ProcessNumbers]:
    shard = dict.fromkeys(("threads", "stopped", "commands", "effects", "appends", "sequence", "checkpoint"), 1)
    ledger = Ledger([Budget("tenant", tokens=100, usd=2.5)], FixedClock(), lambda *_: 0.0)
    agents = {
        "shards": {"0": shard, "1": shard},
        "model_calls": 2,
        "threads_left_behind": {"tool 'dig'": 2, "tool 'hang'": 1},
        "trace": {"shed": 3, "waiting_bytes": 4, "kept": 5},
        "budgets": ledger.statistics(),
    }
    copy = {"recorded": 9, "behind": 2, "incarnation": 1, "missing": 0}
    host = {
        "restarts": {"agents-0": 1},
        "free_mb": 100,
        "projections": {"runs": {"behind": 1}, "problem": ""},
        "expired_rows": 0,
        "runs": {"running": 2},
        "spans": {"exported": 7, "behind": 0},
    }
    return [
        ProcessNumbers("agents", "agents-0", agents),
        ProcessNumbers("host", "host", host),
        ProcessNumbers("recorder", "recorder-0", {"EV": copy, "TRACE": copy}),
        ProcessNumbers("scheduler", "scheduler-0", scheduler_numbers()),
        ProcessNumbers("worker", "worker-0", {"steps": 5, "plans": 0, "blocks": 10}),
        ProcessNumbers("worker", "worker-1", {"steps": 6, "plans": 1, "blocks": 10}),
    ]


def exposition() -> str:
    waiting = Backlog({"EV": StreamNumbers(1, 2, 3)}, {0: 1, 1: 0}, {"agent": 1})
    body, content_type = written(processes(), waiting, ["agents-0", "agents-1"], "text/plain")
    assert content_type.startswith("text/plain")
    return body.decode()


def told() -> dict[str, set[str]]:
    """Every sample's name, with the labels it has."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def value(name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(exposition())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


def test_engines_are_told_of_by_vllms_names_with_its_labels() -> None:
    found = told()
    assert set(VLLM) <= found.keys()
    for name in HISTOGRAMS:
        assert {"le", "model_name", "engine"} <= found[f"vllm:{name}_bucket"], name
        assert {f"vllm:{name}_sum", f"vllm:{name}_count"} <= found.keys()
    for name in set(VLLM) - {"vllm:cache_config_info"}:
        assert {"model_name", "engine"} <= found[name], name
    assert "finished_reason" in found["vllm:request_success_total"]
    assert value("vllm:kv_cache_usage_perc", model_name="org/tiny") == pytest.approx(0.6)
    assert value("vllm:prefix_cache_hits_total") == 12
    assert value("vllm:request_success_total", finished_reason="stop") == 1
    assert value("vllm:time_to_first_token_seconds_bucket", le="0.06") == 1
    assert value("vllm:time_to_first_token_seconds_bucket", le="0.04") == 0
    assert value("vllm:inter_token_latency_seconds_bucket", le="+Inf") == 1
    assert value("vllm:generation_tokens_total") == 2


def test_a_process_that_does_not_answer_is_down() -> None:
    assert value("ostinato_process_up", process="agents-0") == 1
    assert value("ostinato_process_up", process="agents-1") == 0


def test_threads_that_go_on_are_counted_for_their_process() -> None:
    assert value("ostinato_threads_left_behind", process="agents-0") == 3


def test_a_family_that_several_processes_tell_of_is_written_once() -> None:
    assert exposition().count("# TYPE ostinato_worker_steps_total counter") == 1
    assert value("ostinato_worker_steps_total", process="worker-1") == 6


def test_those_who_accept_openmetrics_get_it() -> None:
    body, content_type = written(processes(), None, [], "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def dashboard() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "ostinato.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return [*asked, *(one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query")]


def alerts() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


EXPRESSIONS = [*dashboard(), *alerts()]
WORDS = frozenset(
    ["by", "on", "sum", "rate", "count", "increase", "histogram_quantile", "and", "or", "vector", "label_values"]
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_a_dashboard_or_alert_asks_for_is_told(expression: str) -> None:
    found = told()
    plain = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    names = re.findall(r"[a-z_]*:?[a-z_0-9]+", re.sub(r"\{[^}]*\}|(?:by|on) \([^)]*\)", "", plain))
    metrics = {name for name in names if not name[0].isdigit() and name not in WORDS and name != "e9"}
    asked = {label for inside in re.findall(r"(?:by|on) \(([^)]*)\)", plain) for label in inside.split(", ")}
    asked |= {label for inside in re.findall(r"\{([^}]*)\}", plain) for label in re.findall(r"[a-z_]+", inside)}
    if "label_values" in expression:
        metrics, asked = metrics - {"model_name"}, {"model_name"}
    assert metrics
    assert metrics <= found.keys()
    for name in metrics:
        assert asked <= found[name], (name, asked - found[name])


def test_what_alerts_and_legends_say_of_labels_is_there() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    known = set().union(*told().values())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= known
