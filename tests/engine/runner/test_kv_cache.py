"""The memory of keys and values on a host."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.runner import kv_cache


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_pages_of_the_first_blocks_are_there_before_anybody_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "_TOUCHED", 64 << 20)
    layers, each = 4, 48 << 20
    # fresh from the system: what an allocator gives may have been another's, and be there
    memory = torch.frombuffer(mmap.mmap(-1, layers * each), dtype=torch.uint8).view(layers, each)
    memory[1, 7] = 3
    before = resident()
    kv_cache._touch(memory)
    assert 56 << 20 < resident() - before < 72 << 20
    assert int(memory[1, 7]) == 3
    assert int(memory[:, : each // 3].sum()) == 3


ENDS = """
import numpy, threading, torch
from engine.runner import kv_cache
kv_cache._PIECE = 4096
memory = torch.from_numpy(numpy.zeros((64, 8 << 20), numpy.uint8))
threading.Thread(target=kv_cache._touch, args=(memory,)).start()
"""


def test_a_process_that_ends_meanwhile_neither_waits_nor_aborts() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
