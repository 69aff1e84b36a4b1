"""Threads that are taken off their cores hold nobody up, and what they bring too late changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import engine.compiled
from engine.errors import PlatformUnavailable
from engine.kernels.ops import Ops, load_ops
from engine.kernels.weights import weight_in

BUSY = "while True: pass"


def native(threads: int) -> Ops:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return load_ops("native")
    except PlatformUnavailable as error:
        pytest.skip(str(error))
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def _crowded() -> Iterator[None]:
    """More who want to compute than there are cores."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(3)]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.usefixtures("_crowded")
def test_many_threads_on_few_cores_compute_the_same_bits_as_one() -> None:
    many, one = native(5), native(1)
    weights = [(torch.randn(960, 576) * 0.05).bfloat16() for _ in range(4)]
    plain = [(many.linear(weight, None), one.linear(weight, None)) for weight in weights]
    gated = [(many.gated(weight, None, "silu"), one.gated(weight, None, "silu")) for weight in weights]
    for step in range(400):
        x = torch.randn(1 + step % 9, 576).bfloat16()
        for ours, expected in (plain[step % 4], gated[step % 4]):
            assert torch.equal(ours(x), expected(x))
        if step % 50 == 49:  # weights go while somebody may be late with them
            plain[step % 4] = (many.linear(weights[step % 4], None), plain[step % 4][1])


@pytest.mark.usefixtures("_crowded")
def test_in_8_bits_too() -> None:
    many, one = native(5), native(1)
    weight = weight_in("int8", torch.randn(320, 512).bfloat16())
    ours, expected = many.linear(weight, None), one.linear(weight, None)
    for step in range(200):
        x = torch.randn(1 + step % 9, 512).bfloat16()
        assert torch.equal(ours(x), expected(x))


def test_a_thread_that_finds_no_memory_ends_its_operation_and_nothing_else(tmp_path: Path) -> None:
    native(1)
    program = tmp_path / "crew"
    headers = Path(engine.compiled.__file__).parent / "kernels" / "native"
    flags = ["-O1", "-march=native", "-std=c++20", "-pthread", f"-I{headers}", "-o", str(program)]
    source = Path(__file__).parent / "crew.cpp"
    subprocess.run([*engine.compiled._compiler(), *flags, str(source)], check=True, timeout=120)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


POOR = """
import resource, torch
from engine.kernels.ops import load_ops
from engine.kernels.weights import weight_in

torch.set_num_threads(2)
product = load_ops("native").linear(weight_in("int8", torch.randn(64, 576).bfloat16()), None)
x = torch.randn(300_000, 576).bfloat16()
expected = product(x[:9])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
all_of_it = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), all_of_it[1]))
try:
    product(x)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, all_of_it)
assert torch.equal(product(x[:9]), expected)
assert torch.equal(product(x)[:9], expected)
"""


def test_what_there_is_no_memory_for_is_an_error_of_python_and_not_its_end() -> None:
    native(1)
    done = subprocess.run([sys.executable, "-c", POOR], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "product_run finds no memory" in done.stdout
