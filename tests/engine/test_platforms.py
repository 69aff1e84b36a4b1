"""Which device computes, what other packages add to that, and what becomes of what does not work."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from engine import platforms
from engine.errors import PlatformUnavailable
from engine.kernels.ops import load_ops
from engine.llm import LLM
from engine.platforms import NO_KERNELS, Platform, choose_dtype, detect
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from tests.engine.conftest import Install

NPU = """
import torch
from engine.errors import PlatformUnavailable
from engine.kernels.reference import ReferenceOps
from engine.platforms import Platform

made = []

def detect(device):
    if device == "npu:9":
        raise PlatformUnavailable(device, "there is one only")
    if device not in {"auto", "npu"}:
        return None
    place = torch.device("cpu")
    return Platform("npu", place, "Played NPU", "npu", ("float32",), lambda device: 1 << 30)

class NpuOps(ReferenceOps):
    def __init__(self):
        made.append(self)
"""


def test_a_package_brings_a_platform_with_ops_of_its_own(install: Install) -> None:
    install("played_npu", NPU, platforms="npu = played_npu:detect", ops="npu = played_npu:NpuOps")
    found = detect()
    assert (found.kind, found.name, found.free_memory()) == ("npu", "Played NPU", 1 << 30)
    assert "1.0 GiB free, ops: npu" in found.describe()
    assert type(load_ops("npu")).__name__ == "NpuOps"
    assert detect("npu") == found or detect("npu").name == found.name
    assert detect("cpu").kind == "cpu"


def test_a_model_runs_on_it(install: Install) -> None:
    install("played_npu", NPU, platforms="npu = played_npu:detect", ops="npu = played_npu:NpuOps")
    (by_npu,) = LLM(str(EMBEDDED_CHECKPOINT), device="npu").generate(["Hello"], Sampling(max_tokens=4))
    (by_cpu,) = LLM(str(EMBEDDED_CHECKPOINT), device="cpu").generate(["Hello"], Sampling(max_tokens=4))
    assert by_npu.tokens == by_cpu.tokens
    assert sys.modules["played_npu"].made


def test_a_device_that_a_platform_knows_and_cannot_use_is_refused(install: Install) -> None:
    install("played_npu", NPU, platforms="npu = played_npu:detect")
    with pytest.raises(PlatformUnavailable, match="there is one only"):
        detect("npu:9")
    with pytest.raises(PlatformUnavailable, match=r"no ops of this name.*triton"):
        load_ops("npu")


def of_others(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said, but for the line that a processor gets for which we have no kernels."""
    return [told for record in caplog.records if not (told := record.getMessage()).startswith(NO_KERNELS)]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
        ("detect = None", "TypeError"),
        ("detect = lambda device: 1", "it gave int, no Platform"),
        ("def detect(device):\n    raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("other = 1", "AttributeError"),
    ],
)
def test_a_broken_one_is_told_in_one_line_and_left_out(
    install: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    monkeypatch.delitem(sys.modules, "broken_npu", raising=False)
    install("broken_npu", source, platforms="npu = broken_npu:detect")
    with caplog.at_level(logging.WARNING):
        assert detect("cpu").kind == "cpu"
    (told,) = of_others(caplog)
    assert says in told
    assert "'npu' of ostinato.platforms" in told
    assert "\n" not in told


def test_ops_that_cannot_be_made_are_one_error(install: Install) -> None:
    install("broken_ops", "def make():\n    raise RuntimeError('no compiler')", ops="odd = broken_ops:make")
    with pytest.raises(PlatformUnavailable, match="no compiler"):
        load_ops("odd")


def test_an_accelerator_that_fails_leaves_the_processor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(check_available: bool) -> torch.device:
        raise RuntimeError("CUDA driver initialization failed\nyou might not have a GPU")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", fails)
    assert detect().kind == "cpu"
    (told,) = of_others(caplog)
    assert told.endswith("CUDA driver initialization failed you might not have a GPU")


def test_a_processor_needs_no_other_ops_for_tokens_that_do_not_depend_on_the_batch() -> None:
    found = detect("cpu")
    assert found.steady() == found


@pytest.mark.parametrize("triton", [True, False])
def test_an_accelerator_has_ops_for_that_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, triton: bool) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Played GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(platforms, "find_spec", lambda name: object() if triton else None)
    found = detect("cuda:0")
    if triton:
        assert (found.ops, found.steady().ops) == ("triton", "triton-steady")
    else:
        with pytest.raises(PlatformUnavailable, match=r"not batch-invariant: install the extra 'gpu'"):
            found.steady()


def platform(*dtypes: str, kind: str = "npu") -> Platform:
    return Platform(kind, torch.device("cpu"), "a device", "reference", dtypes)


@pytest.mark.parametrize(
    ("has", "checkpoint", "chosen"),
    [
        (("float32", "float16", "bfloat16"), torch.bfloat16, torch.bfloat16),
        (("float32", "float16"), torch.bfloat16, torch.float16),
        (("float32", "bfloat16"), torch.float16, torch.bfloat16),
        (("float32",), torch.float16, torch.float32),
    ],
)
def test_a_number_format_that_a_platform_has_not_is_replaced(
    has: tuple[str, ...], checkpoint: torch.dtype, chosen: torch.dtype
) -> None:
    assert choose_dtype(platform(*has), "auto", checkpoint, 1 << 40) == chosen


def test_a_number_format_that_is_asked_for_and_not_there_is_refused() -> None:
    with pytest.raises(PlatformUnavailable, match=r"does not compute in bfloat16: give dtype auto, or float32"):
        choose_dtype(platform("float32"), "bfloat16", torch.bfloat16, 1)
