"""What `ostinato top` shows, as lines: engines with their rates, processes, shards, streams and runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bus.numbers import Backlog
from bus.under_way import LateRun
from infra.cli.terminal import Style, printable


class Row(NamedTuple):
    """What one process says."""

    role: str
    slot: str
    numbers: dict[str, Any]


class Look(NamedTuple):
    """What there was to see at one time."""

    at: float
    """Seconds of a clock that only goes on."""
    processes: tuple[Row, ...]
    waiting: Backlog | None
    runs: tuple[LateRun, ...]
    silent: tuple[str, ...] = ()
    """Slots of processes that answered before, and did not now."""


class EngineRow(NamedTuple):
    """An engine, between two looks."""

    engine: str
    running: int
    waiting: int
    kv_use: float
    """Of the KV blocks those that are held, 0 to 1."""
    hit_rate: float | None
    """Of the prompt tokens between the looks those found in the prefix cache; of all, where there were none."""
    prompt_s: float
    """Prompt tokens a second."""
    output_s: float
    """Generated tokens a second."""
    steps_s: float
    preemptions: int
    finished: int
    first_token_ms: float | None
    """The mean time to the first token since the scheduler began."""


def rates(before: Look, now: Look) -> list[EngineRow]:
    """Tell how engines do."""
    earlier = {row.slot: row.numbers for row in before.processes if row.role == "scheduler"}
    seconds = max(now.at - before.at, 1e-3)
    return [
        _engine(row.numbers, earlier.get(row.slot, row.numbers), seconds)
        for row in now.processes
        if row.role == "scheduler"
    ]


def _engine(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> EngineRow:
    prompt, cached = (now[key] - before[key] for key in ("prompt_tokens", "cached_tokens"))
    if prompt <= 0:
        prompt_of, cached_of = now["prompt_tokens"], now["cached_tokens"]
    else:
        prompt_of, cached_of = prompt, cached
    first = now["requests"]["histograms"]["time_to_first_token_seconds"]
    count = sum(first["counts"])
    return EngineRow(
        engine=now["engine"],
        running=now["running"],
        waiting=now["waiting"] + now["parked"],
        kv_use=1 - now["idle_blocks"] / now["blocks"] if now["blocks"] else 0.0,
        hit_rate=cached_of / prompt_of if prompt_of else None,
        prompt_s=max(prompt, 0) / seconds,
        output_s=max(now["requests"]["generated"] - before["requests"]["generated"], 0) / seconds,
        steps_s=max(now["steps"] - before["steps"], 0) / seconds,
        preemptions=now["preemptions"],
        finished=sum(now["requests"]["finished"].values()),
        first_token_ms=first["sum"] / count * 1000 if count else None,
    )


_WIDE: Final = 107
"""Columns from which on an engine is one line and a run says what it took; on fewer an engine is two."""


def lines(engines: Sequence[EngineRow], now: Look, style: Style, width: int) -> list[str]:
    """Write the whole table, for a terminal of so many columns."""
    wide = width >= _WIDE
    engine_lines = _wide_engines(engines) if wide else _narrow_engines(engines)
    run_lines = _wide_runs(now.runs) if wide else _narrow_runs(now.runs)
    told = [*engine_lines, "", *_processes(now, 24 if wide else 12), "", *_queues(now), "", *run_lines]
    shown = []
    for line in told:
        short = printable(line)[:width]
        heading = line.startswith(("ENGINE", "PROCESS", "QUEUE", "RUN "))
        shown.append(style.name(short) if heading else short)
    return shown


_LOAD_HEADING: Final = f"{'ENGINE':<24} {'batch':>6} {'wait':>6} {'KV':>6} {'hits':>6} {'in t/s':>9} {'out t/s':>9}"


def _load(one: EngineRow) -> str:
    hits = "-" if one.hit_rate is None else f"{one.hit_rate:.0%}"
    return (
        f"{one.engine[:24]:<24} {one.running:>6} {one.waiting:>6} {one.kv_use:>6.1%} {hits:>6} "
        f"{one.prompt_s:>9.1f} {one.output_s:>9.1f}"
    )


def _first(one: EngineRow) -> str:
    return "-" if one.first_token_ms is None else f"{one.first_token_ms:.0f} ms"


def _wide_engines(engines: Sequence[EngineRow]) -> Iterator[str]:
    yield f"{_LOAD_HEADING} {'steps/s':>8} {'TTFT':>8} {'done':>7} {'preempt':>8}"
    for one in engines:
        yield f"{_load(one)} {one.steps_s:>8.1f} {_first(one):>8} {one.finished:>7} {one.preemptions:>8}"
    if not engines:
        yield _NO_ENGINE


def _narrow_engines(engines: Sequence[EngineRow]) -> Iterator[str]:
    yield _LOAD_HEADING
    for one in engines:
        yield _load(one)
        told = (
            f"{one.steps_s:.1f} steps/s",
            f"TTFT {_first(one)}",
            f"{one.finished} done",
            f"{one.preemptions} preempt",
        )
        yield "  " + ", ".join(told)
    if not engines:
        yield _NO_ENGINE


_NO_ENGINE: Final = "no scheduler answers"


def _processes(now: Look, room: int) -> Iterator[str]:
    host = next((row.numbers for row in now.processes if row.role == "host"), {})
    restarts = host.get("restarts", {})
    yield f"{'PROCESS':<{room}} {'restarts':>8}  what it does"
    for row in now.processes:
        yield f"{row.slot[:room]:<{room}} {restarts.get(row.slot, 0):>8}  {_work(row)}"
    for slot in now.silent:
        yield f"{slot[:room]:<{room}} {restarts.get(slot, 0):>8}  does not answer"


def _work(row: Row) -> str:
    numbers = row.numbers
    match row.role:
        case "agents":
            shards = numbers.get("shards", {})
            total = {key: sum(shard[key] for shard in shards.values()) for key in ("threads", "commands", "effects")}
            told = ", ".join(f"{count} {what}" for what, count in total.items())
            return f"shards {' '.join(sorted(shards, key=int)) or 'none'}: {told}, {numbers['model_calls']} model calls"
        case "worker":
            return f"{numbers['steps']} steps, {numbers['plans']} plans wait"
        case "recorder":
            return ", ".join(f"{name} {found['behind']} behind" for name, found in sorted(numbers.items()))
        case "scheduler":
            return f"{numbers['steps']} steps, {numbers['in_flight']} in flight"
        case "host":
            found = numbers.get("projections", {})
            behind = max((one["behind"] for one in found.values() if isinstance(one, dict)), default=0)
            free = "" if numbers.get("free_mb") is None else f", {numbers['free_mb'] / 1024:.1f} GB free"
            return f"projections {behind} behind{free}"
        case _:
            return ""


def _queues(now: Look) -> Iterator[str]:
    yield f"{'QUEUE':<24} {'messages':>9} {'MB':>8}"
    if now.waiting is None:
        yield "JetStream does not answer"
        return
    for name, stream in now.waiting.streams.items():
        lag = ""
        if name == "CMD":
            lag = "  waiting by shard: " + " ".join(f"{shard}:{n}" for shard, n in now.waiting.commands.items())
        yield f"{name:<24} {stream.messages:>9} {stream.bytes / 2**20:>8.1f}{lag}"


def _wide_runs(runs: Sequence[LateRun]) -> Iterator[str]:
    yield f"{'RUN':<24} {'agent':<16} {'status':<10} {'took':>8} {'in':>7} {'out':>6}  thread"
    for run in runs:
        yield (
            f"{run.run[:24]:<24} {_who(run)[:16]:<16} {run.status[:10]:<10} {_took(run):>8} {run.prompt_tokens:>7} "
            f"{run.completion_tokens:>6}  {run.thread}"
        )


def _narrow_runs(runs: Sequence[LateRun]) -> Iterator[str]:
    """Leave out the tokens, so that ids of ours fit whole: 23 characters each."""
    yield f"{'RUN':<23} {'agent':<12} {'status':<8} {'took':>8}  thread"
    for run in runs:
        yield f"{run.run[:23]:<23} {_who(run)[:12]:<12} {run.status[:8]:<8} {_took(run):>8}  {run.thread}"


def _who(run: LateRun) -> str:
    return run.agent or run.model


def _took(run: LateRun) -> str:
    return "-" if run.finished is None else f"{(run.finished - run.asked) / 1e6:.1f} s"
