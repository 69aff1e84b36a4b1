"""An engine's numbers as vLLM's metrics: names, labels and bounds are those that dashboards and gateways read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

LABELS: Final = ("engine", "model_name")
_ENGINE: Final = "0"

_HISTOGRAMS: Final = {
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "inter_token_latency_seconds": "Histogram of inter-token latency in seconds.",
    "request_time_per_output_token_seconds": "Histogram of the mean time between a request's tokens in seconds.",
    "e2e_request_latency_seconds": "Histogram of e2e request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
    "request_inference_time_seconds": "Histogram of time spent in RUNNING phase for request.",
    "request_prefill_time_seconds": "Histogram of time spent in PREFILL phase for request.",
    "request_decode_time_seconds": "Histogram of time spent in DECODE phase for request.",
    "iteration_tokens_total": "Histogram of number of tokens per engine step.",
    "request_prompt_tokens": "Number of prompt tokens of a request.",
    "request_generation_tokens": "Number of generated tokens of a request.",
    "request_max_num_generation_tokens": "Histogram of maximum number of generated tokens of a request.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "request_params_n": "Histogram of the n request parameter: each of several answers is a request of its own.",
    "request_num_preemptions": "Histogram of how often a request gave its KV blocks up.",
    "request_prefill_kv_computed_tokens": "Prompt tokens of a request that no cache had.",
}

_OLD_NAMES: Final = {"time_per_output_token_seconds": "inter_token_latency_seconds"}
"""What dashboards made for older releases of vLLM ask for, and what it is called now."""


def engine_metrics(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    """Give the metrics of one scheduler, by what it says of itself."""
    labels = (_ENGINE, str(numbers["engine"]))
    yield from _gauges(numbers, labels)
    yield from _counters(numbers, labels)
    histograms = numbers["requests"]["histograms"]
    for name, text in _HISTOGRAMS.items():
        yield _histogram(name, text, histograms[name], labels)
    for old, name in _OLD_NAMES.items():
        yield _histogram(old, f"The older name of vllm:{name}.", histograms[name], labels)


def _gauges(numbers: Mapping[str, Any], labels: tuple[str, ...]) -> Iterator[Metric]:
    blocks = numbers["blocks"]
    used = 1 - numbers["idle_blocks"] / blocks if blocks else 0.0
    yield _gauge("num_requests_running", "Number of requests in model execution batches.", numbers["running"], labels)
    waiting = numbers["waiting"] + numbers["parked"]
    yield _gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting, labels)
    reasons = GaugeMetricFamily(
        "vllm:num_requests_waiting_by_reason", "Those by why they wait.", labels=(*LABELS, "reason")
    )
    reasons.add_metric((*labels, "capacity"), numbers["waiting"])
    reasons.add_metric((*labels, "deferred"), numbers["parked"])
    yield reasons
    yield _gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", used, labels)
    yield _gauge("gpu_cache_usage_perc", "The older name of vllm:kv_cache_usage_perc.", used, labels)
    sleep = GaugeMetricFamily(
        "vllm:engine_sleep_state", "Whether the engine is awake; it never sleeps.", labels=(*LABELS, "sleep_state")
    )
    for state in ("awake", "weights_offloaded", "discard_all"):
        sleep.add_metric((*labels, state), float(state == "awake"))
    yield sleep
    if numbers.get("most_adapters"):
        yield _adapters(numbers)
    config = numbers.get("config")
    if config:
        names = tuple(sorted(config))
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the KV cache's configuration.", labels=("engine", *names)
        )
        info.add_metric((_ENGINE, *(str(config[name]) for name in names)), 1)
        yield info


def _adapters(numbers: Mapping[str, Any]) -> Metric:
    """Tell of adapters as gateways read it that send requests where theirs is in use: the newest value counts."""
    labels = ("max_lora", "waiting_lora_adapters", "running_lora_adapters")
    family = GaugeMetricFamily("vllm:lora_requests_info", "Running stats on lora requests.", labels=labels)
    found = numbers["adapters"]
    told = [",".join(found[state]) for state in ("waiting", "running")]
    family.add_metric((str(numbers["most_adapters"]), *told), numbers["time"] / 1e6)
    return family


def _counters(numbers: Mapping[str, Any], labels: tuple[str, ...]) -> Iterator[Metric]:
    prompt, cached = numbers["prompt_tokens"], numbers["cached_tokens"]
    yield _counter("prompt_tokens", "Number of prefill tokens processed.", prompt, labels)
    yield _counter("prompt_tokens_cached", "Those of them found in the prefix cache.", cached, labels)
    source = CounterMetricFamily(
        "vllm:prompt_tokens_by_source", "Prompt tokens by where they came from.", labels=(*LABELS, "source")
    )
    for name, value in (("local_compute", prompt - cached), ("local_cache_hit", cached), ("external_kv_transfer", 0)):
        source.add_metric((*labels, name), value)
    yield source
    generated = numbers["requests"]["generated"]
    yield _counter("generation_tokens", "Number of generation tokens processed.", generated, labels)
    for name in ("prefix_cache", "gpu_prefix_cache"):
        yield _counter(f"{name}_queries", "Prefix cache queries, in number of queried tokens.", prompt, labels)
        yield _counter(f"{name}_hits", "Prefix cache hits, in number of cached tokens.", cached, labels)
    yield _counter(
        "num_preemptions", "Cumulative number of preemption from the engine.", numbers["preemptions"], labels
    )
    success = CounterMetricFamily(
        "vllm:request_success", "Count of processed requests, by why they ended.", labels=(*LABELS, "finished_reason")
    )
    for reason, count in numbers["requests"]["finished"].items():
        success.add_metric((*labels, reason), count)
    yield success


def _gauge(name: str, text: str, value: float, labels: tuple[str, ...]) -> Metric:
    family = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
    family.add_metric(labels, value)
    return family


def _counter(name: str, text: str, value: float, labels: tuple[str, ...]) -> Metric:
    family = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
    family.add_metric(labels, value)
    return family


def _histogram(name: str, text: str, tally: Mapping[str, Any], labels: tuple[str, ...]) -> Metric:
    family = HistogramMetricFamily(f"vllm:{name}", text, labels=LABELS)
    buckets, total = [], 0
    for bound, count in zip([*map(str, map(float, tally["bounds"])), "+Inf"], tally["counts"], strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, tally["sum"])
    return family
