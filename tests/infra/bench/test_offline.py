"""`ostinato bench` on the embedded checkpoint, as small as can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest


def bench(verb: str, file: Path, *argv: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "infra.cli.main", "bench", verb, "--input-len", "6", "--output-len", "3", *argv]
    done = subprocess.run(
        [*command, "--output-json", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    told: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return told


def test_latency_times_one_batch_again_and_again(tmp_path: Path) -> None:
    sizes = ("--batch-size", "2", "--num-iters-warmup", "1", "--num-iters", "3")
    told = bench("latency", tmp_path / "out.json", *sizes)
    assert len(told["latencies"]) == 3
    assert told["avg_latency"] == pytest.approx(sum(told["latencies"]) / 3)
    assert set(told["percentiles"]) == {"10", "25", "50", "75", "90", "99"}


def test_throughput_counts_every_token(tmp_path: Path) -> None:
    told = bench("throughput", tmp_path / "out.json", "--num-prompts", "5")
    assert (told["num_requests"], told["total_num_tokens"]) == (5, 5 * (6 + 3))
    assert told["output_tokens_per_second"] == pytest.approx(15 / told["elapsed_time"])
