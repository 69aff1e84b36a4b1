"""Agents past the point where their contexts do not fit into the KV memory: what each policy makes of them.

Without a server it is simulated: the real scheduler with each policy, over a clock that is only counted (a step takes
12 ms and 0.6 ms a token), in seconds and without a model. `default` is `fcfs` with the cache's oldest given up first,
what an engine does that knows no programs; `priority` goes by the age of programs; `cap N` is a client that lets only
N programs go on at once.

With servers, all of the same model and as many KV blocks, each gets the same programs in turn, A B B A:

    python benchmarks/agents_trace.py --model M --server default=http://localhost:8001 \\
        --server priority=http://localhost:8002 --server agents=http://localhost:8000

vLLM says what it had in its cache only if it is started with `--enable-prompt-tokens-details`; of a server that does
not say so the share that was computed again is unknown.

The last line is JSON; the ratios are those of `agents` to `default`, and to the best of all others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.agents_client import Server, serve
from benchmarks.agents_outcome import Outcome, row
from benchmarks.agents_programs import Shape, programs
from benchmarks.agents_simulator import Rival, Simulation, alone_s

POOLS = {"no pressure": 65_536, "cliff": 16_384, "deep": 8_192}
"""Tokens that the KV memory has room for."""
OURS = "agents"
_COLUMNS = (
    *("rival", "mean_s", "p50_s", "p95_s", "p99_s", "good_per_min", "ttft_first_p95_s", "ttft_later_p95_s"),
    *("recomputed", "tok_s", "preemptions", "pauses"),
)


def rivals(caps: Sequence[int]) -> list[Rival]:
    """List what is simulated."""
    return [
        Rival(OURS, "agents"),
        Rival("agents, unhinted", "agents", hints=False),
        Rival("default"),
        Rival("priority", "priority"),
        *(Rival(f"cap {cap}", cap=cap) for cap in caps),
    ]


def simulated(job: tuple[Shape, Rival, int, int]) -> Outcome:
    """Run one rival over the programs of one seed."""
    shape, rival, pool, seed = job
    return Simulation(programs(shape, seed), rival, pool, seed).run()


def simulate(shape: Shape, seeds: Sequence[int], regimes: Sequence[str], caps: Sequence[int]) -> dict[str, Any]:
    """Simulate all rivals in all regimes, two at a time; print a table of each."""
    summed: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(2) as pool:
        jobs = {
            (regime, rival.name): [pool.submit(simulated, (shape, rival, POOLS[regime], seed)) for seed in seeds]
            for regime, rival in product(regimes, rivals(caps))
            if regime != "no pressure" or rival.name in {OURS, "default"}
        }
        for regime in regimes:
            summed[regime] = [
                summary([job.result() for job in several], shape, seeds)
                for (name, _), several in jobs.items()
                if name == regime
            ]
            table(f"simulated, {regime}: {POOLS[regime]} tokens of KV memory", summed[regime])
    figures = ratios(summed["cliff"])
    if "no pressure" in summed:
        without = ratios(summed["no pressure"])
        figures["no_pressure_ratio"] = without["mean_ratio_vs_default"]
    return {"simulated": True, **figures}


def summary(outcomes: list[Outcome], shape: Shape, seeds: Sequence[int]) -> dict[str, Any]:
    """Sum up one rival's runs, programs of all seeds together."""
    alone = {(seed, one.program): alone_s(one) for seed in seeds for one in programs(shape, seed)}
    return row(outcomes, alone, seeds)


async def measure(servers: Sequence[Server], shape: Shape, seeds: Sequence[int]) -> dict[str, Any]:
    """Run all servers over the same programs, one after the other, in turn forwards and backwards."""
    outcomes: dict[str, list[Outcome]] = {server.name: [] for server in servers}
    for at, seed in enumerate(seeds):
        for server in servers if at % 2 == 0 else servers[::-1]:
            outcome = await serve(server, programs(shape, seed), seed)
            outcomes[server.name].append(outcome)
            table(f"seed {seed}, digest {outcome.digest}", [row([outcome])])
    summed = [row(several) for several in outcomes.values()]
    table("measured", summed)
    return {"simulated": False, **ratios(summed)}


def ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare ours with the others; what did not run is null."""
    by_name = {one["rival"]: one for one in rows}
    ours, default = by_name.get(OURS), by_name.get("default")
    others = [one["mean_s"] for name, one in by_name.items() if not name.startswith(OURS)]
    figures: dict[str, Any] = dict.fromkeys(
        ("mean_ratio_vs_default", "p95_ratio_vs_default", "mean_ratio_vs_best", "recomputed_share")
    )
    if ours is None:
        return figures
    figures["recomputed_share"] = ours["recomputed"]
    if default is not None:
        figures["mean_ratio_vs_default"] = round(ours["mean_s"] / default["mean_s"], 3)
        figures["p95_ratio_vs_default"] = round(ours["p95_s"] / default["p95_s"], 3)
    if others:
        figures["mean_ratio_vs_best"] = round(ours["mean_s"] / min(others), 3)
    return figures


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under their names."""
    columns = [name for name in _COLUMNS if any(name in one for one in rows)]
    cells = [[str(one[name]) if one.get(name) is not None else "" for name in columns] for one in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *cells, strict=True)]
    say(title)
    for line in (columns, *cells):
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say(text: str) -> None:
    """Print it at once: runs are long."""
    print(text, flush=True)  # noqa: T201


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer programs and rivals, under 50 s")
    parser.add_argument("--programs", type=int, default=120)
    parser.add_argument("--rate", type=float, default=0.4, help="programs a second")
    parser.add_argument("--kind", choices=("even", "heavy"), default="even", help="how many turns programs have")
    parser.add_argument("--tools", choices=("office", "tracelab"), default="office", help="how long tools take")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--caps", default="4,6,8,10,12,16", help="clients' limits that are tried on `default`")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=URL", help="ask this one")
    parser.add_argument("--model", default="model", help="its name on all servers")
    return parser.parse_args()


def servers_of(options: argparse.Namespace, caps: Sequence[int]) -> list[Server]:
    """List who is asked: those named, and `default` by clients that hold programs back."""
    servers = []
    for name, _, url in [text.partition("=") for text in options.server]:
        hints = name.startswith(OURS) and "unhinted" not in name
        servers.append(Server(name, url, options.model, hints=hints, by_age=name == "priority"))
        if name == "default":
            servers += [Server(f"cap {cap}", url, options.model, cap=cap, hints=False) for cap in caps]
    return servers


def main() -> None:
    """Simulate, or ask servers."""
    options = parsed()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    caps = [int(cap) for cap in options.caps.split(",") if cap]
    shape, regimes = Shape(options.programs, options.rate, options.kind, options.tools), list(POOLS)
    if options.quick:
        seeds, caps, regimes = seeds[:3], [10], ["no pressure", "cliff"]
        shape = Shape(60, 0.5, options.kind, options.tools)
    if options.server:
        figures = asyncio.run(measure(servers_of(options, caps), shape, seeds))
    else:
        figures = simulate(shape, seeds, regimes, caps)
    say(json.dumps(figures))


if __name__ == "__main__":
    main()
