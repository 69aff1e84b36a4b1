"""The numbers of processes, streams, shards, the record and budgets as metrics of our own. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bus.numbers import Backlog, ProcessNumbers

_UNDER_WAY = ("queued", "running", "waiting")
"""What runs are that are not over: told though there is none."""


def stack_metrics(processes: Sequence[ProcessNumbers], slots: Sequence[str]) -> Iterator[Metric]:
    """Give the metrics of the processes that answered; those of `slots` that did not are down."""
    there = {process.slot for process in processes}
    up = GaugeMetricFamily("ostinato_process_up", "Whether a process answers.", labels=("process",))
    for slot in sorted(there | set(slots)):
        up.add_metric((slot,), float(slot in there))
    yield up
    for process in processes:
        match process.role:
            case "host":
                yield from _host(process.numbers)
            case "recorder":
                yield from _recorder(process.numbers)
            case "worker":
                yield from _worker(process)
            case _:
                pass
    yield from _agents([process for process in processes if process.role == "agents"])


def backlog_metrics(backlog: Backlog) -> Iterator[Metric]:
    """Give the metrics of what waits in the streams."""
    for name, text, at in (
        ("messages", "Messages that a stream holds.", 0),
        ("bytes", "Bytes that a stream holds.", 1),
        ("last_sequence", "The sequence of a stream's last message.", 2),
    ):
        yield _gauges(f"bus_stream_{name}", text, "stream", {key: found[at] for key, found in backlog.streams.items()})
    yield _gauges(
        "bus_commands_waiting",
        "Commands that are not answered: the lag of a shard.",
        "shard",
        {str(shard): count for shard, count in backlog.commands.items()},
    )
    total = GaugeMetricFamily("ostinato_dead_letters", "Commands that nobody could handle.", labels=("kind",))
    for kind, count in sorted((backlog.dead or {"agent": 0}).items()):
        total.add_metric((kind,), count)
    yield total


def _host(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    restarts = CounterMetricFamily("ostinato_process_restarts", "How often it was started again.", labels=("process",))
    for slot, count in numbers.get("restarts", {}).items():
        restarts.add_metric((slot,), count)
    yield restarts
    if numbers.get("free_mb") is not None:
        yield GaugeMetricFamily("ostinato_disk_free_bytes", "Of the log's disk.", numbers["free_mb"] * 2**20)
    projections = numbers.get("projections", {})
    behind = {name: found["behind"] for name, found in projections.items() if isinstance(found, dict)}
    yield _gauges("projection_lag_messages", "Envelopes that a projection has not taken in.", "projection", behind)
    expired = numbers.get("expired_rows", 0)
    yield CounterMetricFamily("ostinato_expired_rows", "Rows of step records that were dropped for age.", expired)
    if "runs" in numbers:
        runs = {**dict.fromkeys(_UNDER_WAY, 0), **numbers["runs"]}
        yield _gauges("runs", "Runs that are not over, by status.", "status", runs)
    if "http" in numbers:
        yield from _http(numbers["http"])
    if "spans" in numbers:
        told = numbers["spans"]
        yield CounterMetricFamily("ostinato_spans_exported", "Spans handed to the exporter.", told["exported"])
        yield GaugeMetricFamily("ostinato_spans_lag_messages", "Envelopes without spans yet.", told["behind"])


def _http(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "ostinato_http_answers", "What the bridge answered, by its route.", labels=("route", "status")
    )
    for route, status, count in numbers["answered"]:
        answers.add_metric((route, str(status)), count)
    yield answers
    refused = CounterMetricFamily(
        "ostinato_http_refused", "What it refused of that, by the error's code.", labels=("status", "reason")
    )
    for status, reason, count in numbers["refused"]:
        refused.add_metric((str(status), reason), count)
    yield refused


def _recorder(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    streams = {name: found for name, found in numbers.items() if isinstance(found, dict)}
    for name, key, text in (
        ("recorder_lag_messages", "behind", "Messages of a stream that are not in Postgres."),
        ("recorder_recorded_sequence", "recorded", "The last sequence of a stream that is in Postgres."),
    ):
        yield _gauges(name, text, "stream", {stream: found[key] for stream, found in streams.items()})
    missing = CounterMetricFamily(
        "ostinato_recorder_missing_plans", "Step plans that never came to a stream.", labels=("stream",)
    )
    for stream, found in streams.items():
        missing.add_metric((stream,), found["missing"])
    yield missing


def _worker(process: ProcessNumbers) -> Iterator[Metric]:
    labels = (process.slot,)
    steps = CounterMetricFamily("ostinato_worker_steps", "Steps that a worker ran.", labels=("process",))
    steps.add_metric(labels, process.numbers["steps"])
    yield steps
    yield _gauges(
        "worker_plans_waiting", "Plans that a worker has not run.", "process", {process.slot: process.numbers["plans"]}
    )


_SHARD = (
    ("shard_threads", "threads", "Threads in memory."),
    ("shard_stopped_threads", "stopped", "Threads that cannot go on."),
    ("shard_commands", "commands", "Commands in hand."),
    ("shard_effects", "effects", "Effects under way: model calls, tools and timers."),
    ("shard_appends_waiting", "appends", "Commits that are not acknowledged."),
    ("shard_sequence", "sequence", "The sequence of a shard's last envelope."),
)


def _agents(processes: Sequence[ProcessNumbers]) -> Iterator[Metric]:
    """Give what owners say of their shards; a shard that nobody owns is missing among them."""
    shards = {
        (shard, process.slot): found
        for process in processes
        for shard, found in process.numbers.get("shards", {}).items()
    }
    owned = GaugeMetricFamily("ostinato_shard_owned", "Which process owns a shard.", labels=("shard", "process"))
    for shard, slot in sorted(shards):
        owned.add_metric((shard, slot), 1)
    yield owned
    for name, key, text in _SHARD:
        yield _gauges(name, text, "shard", {shard: found[key] for (shard, _), found in sorted(shards.items())})
    calls = {process.slot: process.numbers.get("model_calls", 0) for process in processes}
    yield _gauges("model_calls", "Model calls that wait for tokens.", "process", calls)
    left = {process.slot: sum(process.numbers.get("threads_left_behind", {}).values()) for process in processes}
    yield _gauges("threads_left_behind", "Threads of tools and hooks whose calls are over.", "process", left)
    shed = CounterMetricFamily("ostinato_trace_shed", "Records that the trace did not take.", labels=("process",))
    waiting = {}
    for process in processes:
        shed.add_metric((process.slot,), process.numbers.get("trace", {}).get("shed", 0))
        waiting[process.slot] = process.numbers.get("trace", {}).get("waiting_bytes", 0)
    yield shed
    yield _gauges("trace_waiting_bytes", "Bytes that the trace has not taken.", "process", waiting)
    yield from _budgets(processes)


def _budgets(processes: Sequence[ProcessNumbers]) -> Iterator[Metric]:
    labels = ("budget", "scope", "models", "unit")
    limit = GaugeMetricFamily("ostinato_budget_limit", "What may be spent within a budget's window.", labels=labels)
    spent = GaugeMetricFamily(
        "ostinato_budget_spent", "The most that any one of its scope has spent within the window.", labels=labels
    )
    # every process keeps the whole books: the one that knows most is right
    most: dict[tuple[str, str, str, str], tuple[float, float]] = {}
    for process in processes:
        for index, found in enumerate(process.numbers.get("budgets", ())):
            for unit in ("tokens", "usd"):
                key = (str(index), found["scope"], found["models"], unit)
                if found[f"{unit}_limit"]:
                    most[key] = (found[f"{unit}_limit"], max(found[unit], most.get(key, (0, 0))[1]))
    for key, (bound, used) in sorted(most.items()):
        limit.add_metric(key, bound)
        spent.add_metric(key, used)
    yield limit
    yield spent


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"ostinato_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
