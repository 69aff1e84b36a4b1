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


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--dataset-name", "custom"), "needs --dataset-path"),
        (("--goodput", "speed:3"), "'speed:3' is no limit"),
        (("--request-rate", "0"), "0 is not more than 0"),
        (("--random-range-ratio", "1"), "1 is no share"),
        (("--metric-percentiles", "50,101"), "from 0 to 100"),
        (("--seed", "-1"), "-1 is less than 0"),
    ],
)
def test_a_load_that_cannot_be_is_a_usage_error(argv: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "infra.cli.main", "bench", "serve", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    command = [sys.executable, "-m", "infra.cli.main", "bench", "serve", "--base-url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "does not say which models it serves" in done.stderr
