"""OpenTelemetry's metrics of generative AI: names, labels and bounds as the conventions have them, held literally."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.models.asking import ask_model
from actors.models.metering import CallMeter
from actors.models.provider import ModelCall
from actors.testing import ScriptedModel
from bus.numbers import ProcessNumbers
from infra.metrics.scrape import written
from schemas.generation import Sampling
from schemas.messages import Usage
from schemas.runs import Problem
from tests.infra.metrics.test_metrics import scheduler_numbers

_CALL = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}
LABELS = {
    "gen_ai_client_token_usage": _CALL | {"gen_ai_token_type"},
    "gen_ai_client_operation_duration_seconds": _CALL | {"error_type"},
    "gen_ai_client_operation_time_to_first_chunk_seconds": _CALL,
    "gen_ai_client_operation_time_per_output_chunk_seconds": _CALL,
    "gen_ai_server_request_duration_seconds": _CALL,
    "gen_ai_server_time_to_first_token_seconds": _CALL,
    "gen_ai_server_time_per_output_token_seconds": _CALL,
}
SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
FIRST = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
BOUNDS = {
    "gen_ai_client_token_usage": [
        *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
    ],
    "gen_ai_client_operation_duration_seconds": SECONDS,
    "gen_ai_client_operation_time_to_first_chunk_seconds": FIRST,
    "gen_ai_client_operation_time_per_output_chunk_seconds": FIRST,
    "gen_ai_server_request_duration_seconds": SECONDS,
    "gen_ai_server_time_to_first_token_seconds": FIRST,
    "gen_ai_server_time_per_output_token_seconds": [
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    ],
}


def call(**about: Any) -> ModelCall:
    return ModelCall("r1-1-m", "big/model", (), (), Sampling(), "acme", "t1", **about)


def scraped(*processes: ProcessNumbers) -> dict[str, Any]:
    text = written(processes, None, (), "")[0].decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def counted() -> CallMeter:
    seconds = (at / 100 for at in count())
    meter = CallMeter(lambda: next(seconds))
    watch = meter.begin(call())
    watch.heard()
    watch.heard()
    watch.answered(Usage(prompt_tokens=20, completion_tokens=3))
    meter.begin(call()).failed("timeout")
    return meter


def told(slot: str, meter: CallMeter) -> ProcessNumbers:
    return ProcessNumbers("agents", slot, {"calls": meter.numbers()})


def test_names_labels_and_bounds_are_those_of_the_conventions() -> None:
    engine = ProcessNumbers("scheduler", "scheduler-0", scheduler_numbers())
    families = scraped(told("agents-0", counted()), engine)
    found = {name for name in families if name.startswith("gen_ai")}
    assert found == LABELS.keys() == BOUNDS.keys()
    for name in found:
        buckets = [sample for sample in families[name].samples if sample.name.endswith("_bucket")]
        assert {frozenset(sample.labels) - {"le"} for sample in buckets} == {frozenset(LABELS[name])}
        assert {float(sample.labels["le"]) for sample in buckets} == {*BOUNDS[name], float("inf")}


def value(families: dict[str, Any], name: str, suffix: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for sample in families[name].samples
        if sample.name == f"{name}_{suffix}" and labels.items() <= sample.labels.items()
    ]
    return float(found)


def test_calls_of_several_processes_are_added_up_and_failures_told_apart() -> None:
    families = scraped(told("agents-0", counted()), told("agents-1", counted()))
    usage, duration = "gen_ai_client_token_usage", "gen_ai_client_operation_duration_seconds"
    assert value(families, usage, "sum", gen_ai_token_type="input") == 40
    assert value(families, usage, "sum", gen_ai_token_type="output") == 6
    assert value(families, usage, "bucket", gen_ai_token_type="input", le="16.0") == 0
    assert value(families, usage, "bucket", gen_ai_token_type="input", le="64.0") == 2
    assert value(families, duration, "count", error_type="", gen_ai_provider_name="big") == 2
    assert value(families, duration, "count", error_type="timeout") == 2
    first = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert value(families, first, "sum") == pytest.approx(0.02)


def test_an_engine_s_counts_are_those_that_vllm_s_names_tell() -> None:
    families = scraped(ProcessNumbers("scheduler", "scheduler-0", scheduler_numbers()))
    name = "gen_ai_server_time_to_first_token_seconds"
    assert value(families, name, "count") == value(families, "vllm:time_to_first_token_seconds", "count") == 1
    assert value(families, name, "bucket", le="0.06") == 1
    assert value(families, name, "bucket", le="0.04") == 0
    assert value(families, "gen_ai_server_request_duration_seconds", "sum") == pytest.approx(0.08)


class Live:
    async def delta(self, *about: Any) -> None:
        pass


@pytest.mark.anyio
async def test_a_call_is_counted_where_it_is_made() -> None:
    meter, site = CallMeter(), SimpleNamespace(tenant="acme", thread="t1", version=1)
    effect = SimpleNamespace(entity="r1", id="r1-1-m", kind="run")
    for script in (lambda one: "a b", lambda one: Problem("timeout", "late")):
        await ask_model({"big/model": ScriptedModel(script)}, call(), Live(), effect, site, meter)  # type: ignore[arg-type]
    rows = {(row["model"], row["error"]): row["histograms"] for row in meter.numbers()}
    assert sum(rows["big/model", ""]["output_tokens"]["counts"]) == 1
    assert sum(rows["big/model", ""]["time_per_output_chunk"]["counts"]) == 1
    assert sum(rows["big/model", "timeout"]["duration"]["counts"]) == 1
