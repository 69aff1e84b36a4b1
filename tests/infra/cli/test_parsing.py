"""Command lines that argparse alone would misread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def ostinato(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("order", [("Hi", "--thread", "t-1"), ("--thread", "t-1", "Hi")])
def test_a_text_may_stand_behind_options(order: tuple[str, ...], tmp_path: Path) -> None:
    done = ostinato("run", "demo", *order, "--data", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "no stack runs on" in done.stderr


@pytest.mark.parametrize("argv", [("run", "demo", "Hi", "more"), ("run", "demo", "--no", "Hi"), ("replay", "ls", "x")])
def test_what_nothing_takes_is_a_usage_error(argv: tuple[str, ...]) -> None:
    done = ostinato(*argv)
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr
