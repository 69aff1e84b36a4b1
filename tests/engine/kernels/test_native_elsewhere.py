"""Our kernels on processors that lack what this one has: built without it, the tests of the kernels hold too."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import engine.compiled
from engine.errors import PlatformUnavailable

HERE = Path(__file__).parent


def test_without_products_of_bf16_they_do_the_same_by_floats() -> None:
    try:
        with_them = engine.compiled.profile()
        engine.compiled.library()
    except PlatformUnavailable as error:
        pytest.skip(error.problem)
    if "avx512_bf16" not in engine.compiled._processor():
        pytest.skip("this processor has none: the other tests are of the same")
    compiler = shlex.join((*engine.compiled._compiler(), "-mno-avx512bf16"))
    tests = [str(HERE / name) for name in ("test_ops.py", "test_shared_beginnings.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "native or shared", *tests]
    program = [sys.executable, "-c", "import engine.compiled; print(engine.compiled.profile())"]
    environment = os.environ | {"CXX": compiler}
    named = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True, env=environment)
    assert named.stdout.strip() not in {"", with_them}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
