"""Kernels that the interpreter runs are ones that the compiler takes too, as launches of models that are served have
them; a GPU is not needed for that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

ROOT = Path(__file__).parents[3]
SHARED = {"90": 227 * 1024, "80": 163 * 1024}
"""Bytes of shared memory that a program has at most, of a Hopper's and of an A100's multiprocessor."""
SPILLED = 512
"""Bytes of a thread that may lie outside of its registers: a kernel that has more is one that waits for memory."""


def compiled(architecture: str, cache: Path) -> list[dict[str, Any]]:
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.engine.kernels.compiled", architecture]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("architecture", ["90", "80"])
def test_every_kernel_compiles_and_fits_into_a_multiprocessor(architecture: str, tmp_path: Path) -> None:
    found = compiled(architecture, cache=tmp_path)
    launched = re.compile(r"(_\w+_kernel)\[")
    kernels = (ROOT / "engine" / "kernels" / "gpu").glob("*.py")
    names = {name for file in kernels for name in launched.findall(file.read_text(encoding="utf-8"))}
    assert {one["kernel"] for one in found} == names
    assert [one for one in found if one["late"]] == []
    for one in found:
        assert one["shared"] <= SHARED[architecture], one
        # products of float32 are slow in any case
        assert one["spilled"] <= SPILLED or one["for"].get("WIDE"), one
