"""What the machine can do at most: reading memory in pages of 2 MiB and of 4 KiB, and multiplying bfloat16 matrices.

`python peers_roofline.py THREADS` prints one JSON object: GB/s and GFLOP/s, the best of several tries each. Reading is
a loop in C where there is a compiler, since no library's sum keeps up with two cores; else it is torch's.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

SIZE: Final = 512 << 20
"""Bytes that are read: far more than caches hold."""
HUGE: Final = 2 << 20
_TRIES: Final = 7
_SIDE: Final = 2048
_SOURCE: Final = """
#include <stdint.h>
#include <stddef.h>
/* sixteen sums beside one another, so that no addition waits for the one before it */
uint64_t total(const uint64_t *from, size_t count) {
    uint64_t sums[16] = {0}, whole = 0;
    for (size_t i = 0; i + 16 <= count; i += 16) {
        for (int j = 0; j < 16; j++) sums[j] += from[i + j];
    }
    for (int j = 0; j < 16; j++) whole += sums[j];
    return whole;
}
"""

Total = Callable[[int, int], int]
"""Reads so many words from an address."""


def main() -> None:
    """Measure and print."""
    threads = int(sys.argv[1])
    torch.set_num_threads(1)
    total = _total()
    found = {
        "read_2mib_gbs": read(total, threads, mmap.MADV_HUGEPAGE),
        "read_2mib_one_thread_gbs": read(total, 1, mmap.MADV_HUGEPAGE),
        "read_4kib_gbs": read(total, threads, mmap.MADV_NOHUGEPAGE),
        "bf16_gflops": multiplied(threads),
    }
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))  # noqa: T201


def read(total: Total, threads: int, pages: int) -> float:
    """Give GB/s of threads that each read a part of the same memory."""
    with mmap.mmap(-1, SIZE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(pages)
        view = ctypes.c_char.from_buffer(memory)
        begin = -(-ctypes.addressof(view) // HUGE) * HUGE
        ctypes.memset(begin, 1, SIZE)
        part = SIZE // threads // 128 * 128
        least = min(_timed(lambda: _together(total, begin, part, threads)) for _ in range(_TRIES))
        del view
    return part * threads / least / 1e9


def _together(total: Total, begin: int, part: int, threads: int) -> None:
    others = [threading.Thread(target=total, args=(begin + n * part, part // 8)) for n in range(1, threads)]
    for other in others:
        other.start()
    total(begin, part // 8)
    for other in others:
        other.join()


def _total() -> Total:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return _by_torch
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "total.c", Path(folder) / "total.so"
        source.write_text(_SOURCE, encoding="utf-8")
        argv = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(built)]
        if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
            return _by_torch
        function = ctypes.CDLL(str(built)).total
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_size_t)
    found: Total = function
    return found


def _by_torch(begin: int, count: int) -> int:
    words = (ctypes.c_int64 * count).from_address(begin)
    return int(torch.frombuffer(words, dtype=torch.int64).sum())


def multiplied(threads: int) -> float:
    """Give GFLOP/s of square bfloat16 matrices."""
    torch.set_num_threads(threads)
    left, right = (torch.randn(_SIDE, _SIDE).to(torch.bfloat16) for _ in range(2))
    return 2 * _SIDE**3 / min(_timed(lambda: torch.mm(left, right)) for _ in range(2 * _TRIES)) / 1e9


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
