"""What `benchmarks/gpu.py` does on a GPU, as far as it can be done without one: in Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from benchmarks import gpu_dry, gpu_run
from benchmarks.gpu_dry import small, standing_in
from benchmarks.gpu_kernels import ODD, Case, Ceilings, cases, check
from benchmarks.gpu_models import LLAMA, QWEN, Running, Shape, idle_within
from engine.kernels.gpu.ops import TritonOps

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
FIGURES = ("decode_bandwidth_fraction_b1", "decode_bandwidth_fraction_b64", "prefill_flop_fraction", "idle_fraction")


def test_without_a_gpu_it_says_so_and_leaves_the_figures_open() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True, timeout=60)
    first, last = done.stdout.splitlines()
    assert "no GPU" in first
    assert json.loads(last) == dict.fromkeys(FIGURES)


GONE_THROUGH = (
    "kernels agree with PyTorch in torch.bfloat16",
    "ceilings: ",
    *(
        f"{shape.name}{part}"
        for shape in (LLAMA, QWEN)
        for part in (
            ": ready after",
            ", 1 requests: ",
            ", 2 requests: ",
            ", 1 request: no kernel runs in",
            ", 2 prompts of",
            ", transformers, 2 requests: ",
            ", transformers, prompts: ",
        )
    ),
    f"{LLAMA.name}, independent of neighbours, 2 requests: ",
    "attention: decode alone",
    "adapters",
)


def test_a_dry_run_goes_through_everything_without_a_gpu_and_measures_nothing() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--dry"], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last, figures = done.stdout.splitlines()
    assert json.loads(figures) == dict.fromkeys(FIGURES)
    assert "no figure is a measurement" in last
    told = [line.removeprefix("dry, no measurement: ") for line in lines]
    assert [part for part in GONE_THROUGH if not any(part in line for line in told)] == []
    assert all(line.startswith("dry, no measurement: ") for line in lines)
    assert "captured 2 of 2 graphs" in done.stderr


def test_a_dry_run_in_which_a_part_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("a mistake in Python")

    monkeypatch.setattr(gpu_run, "check_kernels", lambda _: None)
    monkeypatch.setattr(gpu_run, "run_ours", broken)
    assert gpu_dry.run(quick=True) == 1


def test_every_kernel_agrees_with_pytorch_on_odd_shapes() -> None:
    names = [case.name for case in cases(ODD, "cpu", torch.float32) if check(case, torch.float32) < 1e-4]
    assert len(names) == len(set(names)) > 20


def test_a_kernel_that_does_not_agree_is_red() -> None:
    x = torch.arange(6.0)
    with pytest.raises(AssertionError, match=r"off: off by 20\.00%"):
        check(Case("off", lambda: x + 1, lambda: x), torch.float32)
    with pytest.raises(AssertionError, match="not finite"):
        check(Case("off", lambda: x / 0, lambda: x), torch.float32)


@pytest.mark.parametrize("shape", [LLAMA, QWEN], ids=lambda shape: shape.name)
def test_its_models_decode_what_they_would_read_in_a_prompt(shape: Shape) -> None:
    torch.manual_seed(3)
    with standing_in():
        running = Running(small(shape), TritonOps(), "cpu", torch.float32, 256)
        ids = torch.randint(0, 50, (2, 8))
        expected = running.prefill(ids)
        # the prompt that was computed is still there, in the same blocks
        first, second = list(running.decode(ids, 2))
        assert first == expected
        longer = torch.cat((ids, torch.tensor(first)[:, None]), dim=1)
        assert second == running.prefill(longer)


def test_the_work_of_a_step_is_that_of_the_models() -> None:
    assert LLAMA.product_weights == pytest.approx(7.50e9, rel=0.01)  # 8.03 without the table of embeddings
    assert QWEN.product_weights == pytest.approx(3.04e9, rel=0.02)  # 3.3 without it
    assert LLAMA.step_bytes(1, 0) == 2 * LLAMA.product_weights
    assert LLAMA.step_bytes(2, 10) - LLAMA.step_bytes(2, 0) == 2 * 10 * 131072
    assert QWEN.step_bytes(1000, 0) == pytest.approx(2 * 30.2e9, rel=0.01)
    assert LLAMA.prefill_operations(1, 2048) == pytest.approx(2 * 6.98e9 * 2048, rel=0.05)


def test_idle_is_when_nothing_is_under_way() -> None:
    assert idle_within([(0, 4), (1, 2), (5, 6), (6, 10)]) == pytest.approx(0.1)
    assert idle_within([(0, 4), (5, 6), (8, 10)], least=1.0) == pytest.approx(0.2)


def test_a_part_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = list[str]()

    def ours(shape: Shape, scale: Any, ceilings: Ceilings, found: dict[str, float], few: Any) -> None:
        tried.append(shape.name)
        found["decode fraction alone"] = 0.91
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (200 << 30, 200 << 30))
    monkeypatch.setattr(gpu_run, "check_kernels", lambda _: None)
    monkeypatch.setattr(gpu_run, "measure_ceilings", lambda *_: Ceilings(1e12, 1e14))
    monkeypatch.setattr(gpu_run, "run_ours", ours)
    monkeypatch.setattr(gpu_run, "run_theirs", lambda *_: tried.append("theirs"))
    monkeypatch.setattr(gpu_run, "run_steady", lambda *_: tried.append("steady"))
    monkeypatch.setattr(gpu_run, "cases", lambda *_: [])
    figures: dict[str, float | None] = {"decode_bandwidth_fraction_b1": None, "idle_fraction": None}
    gpu_run.run(figures, quick=False)
    assert figures == {"decode_bandwidth_fraction_b1": 0.91, "idle_fraction": None}
    assert tried == [LLAMA.name, "theirs", "steady", QWEN.name, "theirs"]
    assert "Llama-3-8B: FAILED, RuntimeError: no kernel image" in capsys.readouterr().out
