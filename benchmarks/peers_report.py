"""What runs came to: medians, ratios to the best peer, shares of what the machine can do, a table and a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from benchmarks.checkpoints import Checkpoint
from benchmarks.peers_client import Ran
from benchmarks.peers_workloads import Tokens, Workload

OURS: Final = "ostinato"
NOT_PEERS: Final = frozenset({OURS, "inline"})
FIGURES: Final[Mapping[str, tuple[str, str]]] = {
    "w1": ("decode_s", "tokens/s"),
    "w2": ("output_s", "tokens/s"),
    "w3_cold": ("output_s", "tokens/s"),
    "w3_warm": ("output_s", "tokens/s"),
    "w4": ("program_p95", "s"),
}
"""What each workload is judged by; all but seconds are better when more."""
_NAMES: Final = {
    "w1": "one stream, decode",
    "w2": "64 at once",
    "w3_cold": "shared prompt, cold",
    "w3_warm": "shared prompt, warm",
    "w4": "16 agents, p95 of programs",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one workload by one engine."""

    model: str
    engine: str
    workload: str
    round: int
    wall: float
    decode_s: float
    """Tokens a second of one stream after its first: the median of all turns."""
    output_s: float
    """Tokens a second of all streams together, from the first request to the last token."""
    ttft: float
    """Seconds to the first token: the median of all turns."""
    program_p50: float
    program_p95: float
    used: float
    """Of the machine, each second: bytes of memory for a single stream, else multiplications that had to be done."""
    engine_cpu: float
    """Seconds of all its processes."""
    client_cpu: float
    others_cpu: float
    """Seconds that something else on the machine took: what makes a run worth less."""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds during a run."""

    engine: float
    client: float
    others: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the machine can do at most."""

    bandwidth: float
    """Bytes a second."""
    flops: float


@dataclass(frozen=True, slots=True)
class Place:
    """Whose run it was."""

    made: Checkpoint
    engine: str
    round: int


def measured(place: Place, workload: Workload, ran: Sequence[Ran], wall: float, spent: Spent) -> Measured:
    """Make figures of what a client saw."""
    turns = [turn for one in ran for turn in one.turns]
    rates = [(len(turn.tokens) - 1) / (turn.last - turn.first) for turn in turns if turn.last > turn.first]
    decode = statistics.median(rates) if rates else 0.0
    made, outputs = place.made, sum(len(turn.tokens) for turn in turns)
    least = 2 * (made.body * workload.computed + made.head * outputs)
    single = workload.name == "w1"
    seconds = [one.seconds for one in ran]
    return Measured(
        model=made.name,
        engine=place.engine,
        workload=workload.name,
        round=place.round,
        wall=wall,
        decode_s=decode,
        output_s=outputs / wall,
        ttft=statistics.median(turn.first - turn.asked for turn in turns),
        program_p50=float(np.percentile(seconds, 50)),
        program_p95=float(np.percentile(seconds, 95)),
        used=decode * made.decoded_bytes if single else least / wall,
        engine_cpu=spent.engine,
        client_cpu=spent.client,
        others_cpu=spent.others,
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians of an engine's runs of a workload."""

    value: float
    least: float
    most: float
    fraction: float
    """Of what the machine can do."""
    told: Mapping[str, float]
    """Every number of `Measured`."""


def cells(runs: Iterable[Measured], ceiling: Ceiling) -> dict[tuple[str, str, str], Cell]:
    """Join the rounds: by model, workload and engine."""
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for one in runs:
        found.setdefault((one.model, one.workload, one.engine), []).append(one)
    return {key: _cell(some, ceiling) for key, some in found.items()}


def _cell(some: Sequence[Measured], ceiling: Ceiling) -> Cell:
    numbers = [{name: value for name, value in asdict(one).items() if isinstance(value, float)} for one in some]
    told = {name: statistics.median(each[name] for each in numbers) for name in numbers[0]}
    figure, _ = FIGURES[some[0].workload]
    values = [each[figure] for each in numbers]
    most = ceiling.bandwidth if some[0].workload == "w1" else ceiling.flops
    return Cell(told[figure], min(values), max(values), told["used"] / most, told)


def ratio(found: Mapping[tuple[str, str, str], Cell], model: str, workload: str) -> float | None:
    """Divide ours by the best peer's; None when either did not run. Less is better only where seconds are counted."""
    ours = found.get((model, workload, OURS))
    peers = [cell.value for (*at, engine), cell in found.items() if at == [model, workload] and engine not in NOT_PEERS]
    if ours is None or not peers:
        return None
    best = min(peers) if FIGURES[workload][1] == "s" else max(peers)
    return ours.value / best


def last_line(found: Mapping[tuple[str, str, str], Cell], models: Sequence[str]) -> dict[str, float | None]:
    """Give the figures: of the first model plainly, of others with their names."""
    told: dict[str, float | None] = {}
    for number, model in enumerate(models):
        behind = f"_{model}" if number else ""
        names = {"w1": "w1_ratio", "w2": "w2_ratio", "w3_warm": "w3_warm_ratio", "w4": "w4_p95_ratio"}
        for workload, name in names.items():
            told[name + behind] = _rounded(ratio(found, model, workload))
        ours = found.get((model, "w1", OURS))
        told[f"w1_roofline_fraction{behind}"] = None if ours is None else _rounded(ours.fraction)
    return told


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def table(found: Mapping[tuple[str, str, str], Cell], missing: Mapping[tuple[str, str, str], str]) -> str:
    """Lay everything out for a person; what did not come about is named with its reason."""
    lines = []
    for model, workload in dict.fromkeys(key[:2] for key in found):
        lines += [
            "",
            f"{model}, {workload}: {_NAMES[workload]} ({FIGURES[workload][1]})",
            f"{'':<16}{'median':>9}{'least':>9}{'most':>9}{'ours/its':>10}{'roofline':>10}{'ttft s':>8}"
            f"{'p50 s':>8}{'p95 s':>8}{'CPU s':>8}{'client':>8}{'others':>8}",
        ]
        ours = found.get((model, workload, OURS))
        for (*at, engine), cell in found.items():
            if at != [model, workload]:
                continue
            told, beside = cell.told, "" if ours is None else f"{ours.value / cell.value:.2f}"
            lines.append(
                f"{engine:<16}{cell.value:>9.2f}{cell.least:>9.2f}{cell.most:>9.2f}{beside:>10}"
                f"{100 * cell.fraction:>9.1f}%{told['ttft']:>8.3f}{told['program_p50']:>8.2f}"
                f"{told['program_p95']:>8.2f}{told['engine_cpu']:>8.2f}{told['client_cpu']:>8.2f}{told['others_cpu']:>8.2f}"
            )
    lines += ["", *(f"{' '.join(key)}: {why.splitlines()[0]}" for key, why in missing.items())]
    return "\n".join(lines)


def agreement(streams: Mapping[tuple[str, str], Sequence[Tokens]]) -> str:
    """Say for how many tokens each engine wrote what ours did.

    A peer whose weights were read in another way agrees with nothing; one that only rounds otherwise goes its own way
    at the first near tie, which weights from a seed have many of.
    """
    lines = []
    for (model, engine), answers in streams.items():
        if engine != OURS and (ours := streams.get((model, OURS))):
            same = [_same(*pair) for pair in zip(ours, answers, strict=True)]
            lines.append(f"{model}, {engine}: the first {', '.join(map(str, same))} tokens of single streams as ours")
    return "\n".join(lines)


def _same(one: Tokens, other: Tokens) -> int:
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one))


def picture(found: Mapping[tuple[str, str, str], Cell]) -> str:
    """Draw a bar for every engine and workload, as SVG; the whisker is from the least to the most."""
    groups = list(dict.fromkeys(key[:2] for key in found))
    height, row, left, width = 24, 18, 150, 420
    parts: list[str] = []
    for model, workload in groups:
        some = {engine: cell for (*at, engine), cell in found.items() if at == [model, workload]}
        parts.append(_text(8, height, f"{model} · {_NAMES[workload]} ({FIGURES[workload][1]})", "bold"))
        scale = width / max(cell.most for cell in some.values())
        for engine, cell in some.items():
            height += row
            colour = "#0b7285" if engine in NOT_PEERS else "#adb5bd"
            size = max(1.0, cell.value * scale)
            parts.append(_text(left - 8, height + 4, engine, "normal", "end"))
            parts.append(f'<rect x="{left}" y="{height - 6}" width="{size:.1f}" height="12" fill="{colour}"/>')
            span = (left + cell.least * scale, left + cell.most * scale)
            parts.append(f'<path d="M{span[0]:.1f} {height}H{span[1]:.1f}" stroke="#212529"/>')
            parts.append(_text(left + math.ceil(cell.most * scale) + 6, height + 4, f"{cell.value:.4g}"))
        height += 2 * row
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{height}" '
    style = 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    return head + style + "".join(parts) + "</svg>\n"


def _text(x: float, y: float, text: str, weight: str = "normal", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" text-anchor="{anchor}">{text}</text>'
