"""OpenTelemetry's metrics of generative AI, as Prometheus has their names: of clients' calls and of engines. Pure.

The conventions' dots are underscores here and units are in the names, as OpenTelemetry's own exporter writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import HistogramMetricFamily, Metric

from bus.numbers import ProcessNumbers

_CALL: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_TOKENS: Final = "gen_ai_client_token_usage"
_SECONDS: Final = {
    "duration": ("gen_ai_client_operation_duration_seconds", "How long model calls take."),
    "time_to_first_chunk": (
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "How long it takes until a model call's first piece comes.",
    ),
    "time_per_output_chunk": (
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "How long it takes from piece to piece.",
    ),
}
_SERVER: Final = {
    "request_duration": ("gen_ai_server_request_duration_seconds", "How long an engine's requests take."),
    "time_to_first_token_seconds": (
        "gen_ai_server_time_to_first_token_seconds",
        "How long it takes until an engine's first token.",
    ),
    "request_time_per_output_token_seconds": (
        "gen_ai_server_time_per_output_token_seconds",
        "How long an engine takes for each token after the first.",
    ),
}
SERVER_BOUNDS: Final[Mapping[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
    "request_time_per_output_token_seconds": (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    ),
}
"""Of those that engines count with more bounds than the conventions want: vLLM's."""


def client_metrics(processes: Sequence[ProcessNumbers]) -> Iterator[Metric]:
    """Give the metrics of the calls that processes have made, all of a kind together."""
    tokens = HistogramMetricFamily(_TOKENS, "Tokens that a model call takes.", labels=(*_CALL, "gen_ai_token_type"))
    families = {
        name: HistogramMetricFamily(told, text, labels=(*_CALL, *(["error_type"] if name == "duration" else [])))
        for name, (told, text) in _SECONDS.items()
    }
    for (*kind, error, name), tally in sorted(_summed(processes).items()):
        if name in families:
            about = (*kind, error) if name == "duration" else tuple(kind)
            _add(families[name], about, tally)
        else:
            _add(tokens, (*kind, name.removesuffix("_tokens")), tally)
    yield tokens
    yield from families.values()


def server_metrics(numbers: Mapping[str, Any]) -> Iterator[Metric]:
    """Give the metrics of an engine, by what its scheduler says of itself."""
    histograms, about = numbers["requests"]["histograms"], ("chat", "ostinato", str(numbers["engine"]))
    for name, (told, text) in _SERVER.items():
        if name not in histograms:
            continue  # its process is of an older release
        family = HistogramMetricFamily(told, text, labels=_CALL)
        tally = histograms[name]
        _add(family, about, _coarser(tally, SERVER_BOUNDS[name]) if name in SERVER_BOUNDS else tally)
        yield family


def _summed(processes: Sequence[ProcessNumbers]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Add up what several processes counted of the same kind of call."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for process in processes:
        for row in process.numbers.get("calls", ()):
            kind = (row["operation"], row["provider"], row["model"], row["error"])
            for name, tally in row["histograms"].items():
                known = found.get((*kind, name))
                found[*kind, name] = tally if known is None else _both(known, tally)
    return found


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    counts = [first + second for first, second in zip(one["counts"], other["counts"], strict=True)]
    return {"bounds": one["bounds"], "counts": counts, "sum": one["sum"] + other["sum"]}


def _coarser(tally: Mapping[str, Any], bounds: Sequence[float]) -> dict[str, Any]:
    """Tell a tally by some of its bounds."""
    counts, at = [0] * (len(bounds) + 1), 0
    for bound, count in zip([*tally["bounds"], float("inf")], tally["counts"], strict=True):
        while at < len(bounds) and bound > bounds[at]:
            at += 1
        counts[at] += count
    return {"bounds": bounds, "counts": counts, "sum": tally["sum"]}


def _add(family: HistogramMetricFamily, labels: Sequence[str], tally: Mapping[str, Any]) -> None:
    buckets, total = [], 0
    for bound, count in zip([*map(str, map(float, tally["bounds"])), "+Inf"], tally["counts"], strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(tuple(labels), buckets, tally["sum"])
