"""What Prometheus is told: vLLM's names, our own, and that dashboards and alerts ask for nothing else."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.models.budgets import Ledger
from actors.serving.metering import Meter
from actors.testing import FixedClock
from bus.numbers import Backlog, ProcessNumbers, StreamNumbers
from engine.config import SchedulerConfig
from engine.core.scheduler import Scheduler
from infra.bridge.answers import PROBLEM, ROUTE, Answers
from infra.metrics.scrape import written
from schemas.generation import Sampling, Submit
from schemas.models import Budget
from schemas.steps import Arrival, RequestEvent, StepPlan
from tests.infra.metrics.expressions import EXPRESSIONS, alert_rules, asked_by

_ENGINE = {"model_name", "engine"}
VLLM = {
    "vllm:num_requests_running": _ENGINE,
    "vllm:num_requests_waiting": _ENGINE,
    "vllm:num_requests_waiting_by_reason": _ENGINE | {"reason"},
    "vllm:kv_cache_usage_perc": _ENGINE,
    "vllm:engine_sleep_state": _ENGINE | {"sleep_state"},
    "vllm:cache_config_info": {"engine", "block_size", "num_gpu_blocks"},
    "vllm:prefix_cache_queries_total": _ENGINE,
    "vllm:prefix_cache_hits_total": _ENGINE,
    "vllm:num_preemptions_total": _ENGINE,
    "vllm:prompt_tokens_total": _ENGINE,
    "vllm:prompt_tokens_by_source_total": _ENGINE | {"source"},
    "vllm:prompt_tokens_cached_total": _ENGINE,
    "vllm:generation_tokens_total": _ENGINE,
    "vllm:request_success_total": _ENGINE | {"finished_reason"},
    "vllm:gpu_cache_usage_perc": _ENGINE,
    "vllm:gpu_prefix_cache_queries_total": _ENGINE,
    "vllm:gpu_prefix_cache_hits_total": _ENGINE,
    "vllm:lora_requests_info": {"max_lora", "running_lora_adapters", "waiting_lora_adapters"},
}
"""By name its labels."""
LATENCIES = [
    "0.3", "0.5", "0.8", "1.0", "1.5", "2.0", "2.5", "5.0", "10.0", "15.0", "20.0", "30.0", "40.0", "50.0", "60.0",
    "120.0", "240.0", "480.0", "960.0", "1920.0", "7680.0", "+Inf",
]  # fmt: skip
BETWEEN_TOKENS = [
    "0.01", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5",
    "10.0", "20.0", "40.0", "80.0", "+Inf",
]  # fmt: skip
TOKENS = ["1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "100.0", "200.0", "500.0", "1000.0", "+Inf"]
ANSWERS = ["1.0", "2.0", "5.0", "10.0", "20.0", "+Inf"]
HISTOGRAMS = {
    "request_prompt_tokens": TOKENS,
    "request_generation_tokens": TOKENS,
    "iteration_tokens_total": [
        "1.0", "8.0", "16.0", "32.0", "64.0", "128.0", "256.0", "512.0", "1024.0", "2048.0", "4096.0", "8192.0",
        "16384.0", "+Inf",
    ],
    "request_max_num_generation_tokens": TOKENS,
    "request_params_n": ANSWERS,
    "request_params_max_tokens": TOKENS,
    "time_to_first_token_seconds": [
        "0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0",
        "7.5", "10.0", "20.0", "40.0", "80.0", "160.0", "640.0", "2560.0", "+Inf",
    ],
    "inter_token_latency_seconds": BETWEEN_TOKENS,
    "time_per_output_token_seconds": BETWEEN_TOKENS,
    "request_time_per_output_token_seconds": BETWEEN_TOKENS,
    "e2e_request_latency_seconds": LATENCIES,
    "request_queue_time_seconds": LATENCIES,
    "request_inference_time_seconds": LATENCIES,
    "request_prefill_time_seconds": LATENCIES,
    "request_decode_time_seconds": LATENCIES,
    "request_num_preemptions": ANSWERS,
    "request_prefill_kv_computed_tokens": TOKENS,
}  # fmt: skip
"""By name its bounds, as vLLM 0.33 has them for a context of 1024 tokens."""


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
    for name, adapter in (("b", "law"), ("c", "art"), ("d", "art"), ("e", "")):
        meter.submitted(Submit(name, (1,), Sampling(adapter=adapter), "f", "acme"), 0)
    arrival = Arrival("b", (1,), 1, Sampling(), (0,), 0)
    meter.planned(StepPlan(3, "e1", 90_000, full=False, arrivals=(arrival,), slices=(), gone=()))
    adapters = {"adapters": meter.adapters(), "most_adapters": 3, "time": 1_700_000_000_500_000}
    return {**plain, **told, **config, **adapters, "engine": "org/tiny", "requests": meter.numbers()}


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
    answers = Answers()
    answers.count({ROUTE: "/v1/models", PROBLEM: "overloaded"}, 429)
    answers.count({}, 404)
    copy = {"recorded": 9, "behind": 2, "incarnation": 1, "missing": 0}
    host = {
        "restarts": {"agents-0": 1},
        "free_mb": 100,
        "projections": {"runs": {"behind": 1}, "problem": ""},
        "expired_rows": 0,
        "runs": {"running": 2},
        "http": answers.statistics(),
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


def bounds(name: str) -> list[str]:
    return [
        sample.labels["le"]
        for family in text_string_to_metric_families(exposition())
        for sample in family.samples
        if sample.name == f"vllm:{name}_bucket"
    ]


def test_engines_are_told_of_by_vllms_names_with_its_labels_and_no_others() -> None:
    found = {name: labels for name, labels in told().items() if name.startswith("vllm:")}
    histograms = {f"vllm:{name}_{part}": part for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
    assert found.keys() == VLLM.keys() | histograms.keys()
    for name, part in histograms.items():
        assert found[name] == {"model_name", "engine"} | ({"le"} if part == "bucket" else set()), name
    for name, labels in VLLM.items():
        assert found[name] == labels, name


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_have_vllms_bounds(name: str) -> None:
    assert bounds(name) == HISTOGRAMS[name]


def test_adapters_are_told_of_as_gateways_read_them() -> None:
    info = {"max_lora": "3", "running_lora_adapters": "law", "waiting_lora_adapters": "art"}
    assert value("vllm:lora_requests_info", **info) == 1_700_000_000.5
    numbers = {**scheduler_numbers(), "most_adapters": 0}
    body, _ = written([ProcessNumbers("scheduler", "scheduler-0", numbers)], None, [], "text/plain")
    assert b"lora" not in body


def test_runs_are_told_of_though_there_is_none_and_answers_by_route() -> None:
    assert value("ostinato_runs", status="running") == 2
    assert value("ostinato_runs", status="waiting") == value("ostinato_runs", status="queued") == 0
    assert value("ostinato_http_answers_total", route="/v1/models", status="429") == 1
    assert value("ostinato_http_answers_total", route="none", status="404") == 1
    assert value("ostinato_http_refused_total", status="429", reason="overloaded") == 1
    assert value("ostinato_http_refused_total", status="401", reason="invalid_api_key") == 0


def test_what_engines_did_is_counted() -> None:
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


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_a_dashboard_or_alert_asks_for_is_told(expression: str) -> None:
    found, asked = told(), asked_by(expression)
    assert asked.metrics
    assert asked.metrics <= found.keys()
    for name in asked.metrics:
        assert asked.labels <= found[name], (name, asked.labels - found[name])


def test_what_alerts_and_legends_say_of_labels_is_there() -> None:
    known = set().union(*told().values())
    for rule in alert_rules():
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= known
