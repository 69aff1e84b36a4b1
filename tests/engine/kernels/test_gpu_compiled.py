"""Kernels that the interpreter runs are ones that the compiler takes too; a GPU is not needed for that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

SHARED = 227 * 1024
"""Bytes of shared memory that a program has on Hopper."""


def test_every_kernel_compiles_for_a_hopper_gpu(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.engine.kernels.compiled", "90"]
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[3]
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    launched = re.compile(r"(_\w+_kernel)\[")
    kernels = (root / "engine" / "kernels" / "gpu").glob("*.py")
    assert set(found) == {name for file in kernels for name in launched.findall(file.read_text(encoding="utf-8"))}
    assert max(shared for variants in found.values() for shared in variants) <= SHARED
