"""What `benchmarks/gpu.py` does on a GPU, as far as it can be done without one: in Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

from benchmarks import gpu_run
from benchmarks.gpu_kernels import ODD, Case, Ceilings, cases, check
from benchmarks.gpu_models import BLOCK, LLAMA, QWEN, Running, Shape, idle_within, shortened, tables_for
from engine.kernels.gpu.ops import TritonOps

SMALL = {"vocabulary": 50, "hidden": 32, "inner": 24, "heads": 4, "kv_heads": 2}


def small(shape: Shape) -> Shape:
    few = shortened(shape, 2)
    experts = few.config.experts and replace(few.config.experts, count=4, chosen=2, inner=16)
    return replace(few, config=replace(few.config, context_length=64, experts=experts, **SMALL))


def test_without_a_gpu_it_says_so_and_leaves_the_figures_open() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, check=True, timeout=60)
    first, last = done.stdout.splitlines()
    assert "no GPU" in first
    assert json.loads(last) == dict.fromkeys(
        (
            "decode_bandwidth_fraction_b1",
            "decode_bandwidth_fraction_b64",
            "prefill_flop_fraction",
            "idle_fraction",
        )
    )


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
    with torch.inference_mode():
        running = Running(small(shape), TritonOps(), "cpu", torch.float32, 64 * BLOCK)
        tables = tables_for(2, 40, "cpu")
        ids = torch.randint(0, 50, (2, 8))

        def read(length: int) -> torch.Tensor:
            positions, batch = running.batch(tables, [0, 0], [length, length])
            hidden = running.layers(ids[:, :length].reshape(-1), positions, (batch,))
            return running.model.logits(hidden[[length - 1, 2 * length - 1]]).argmax(-1)

        expected = read(7)
        step = running.decoder(tables, ids[:, 6].clone(), 6)  # what comes after is written again before it is read
        assert torch.equal(step(), expected)
        assert running.prefill(tables, 2).shape == (2,)


def test_the_work_of_a_step_is_that_of_the_models() -> None:
    assert LLAMA.product_weights == pytest.approx(7.50e9, rel=0.01)  # 8.03 without the table of embeddings
    assert QWEN.product_weights == pytest.approx(3.04e9, rel=0.02)  # 3.3 without it
    assert LLAMA.step_bytes(1, 0) == 2 * LLAMA.product_weights
    assert LLAMA.step_bytes(2, 10) - LLAMA.step_bytes(2, 0) == 2 * 10 * 131072
    assert QWEN.step_bytes(1000, 0) == pytest.approx(2 * 30.2e9, rel=0.01)
    assert LLAMA.prefill_operations(1, 2048) == pytest.approx(2 * 6.98e9 * 2048, rel=0.05)


def test_idle_is_when_nothing_is_under_way() -> None:
    assert idle_within([(0, 4), (1, 2), (5, 6), (6, 10)]) == pytest.approx(0.1)


def test_a_part_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = list[str]()

    def ours(shape: Shape, ceilings: Ceilings, found: dict[str, float]) -> None:
        tried.append(shape.name)
        found["decode fraction 1"] = 0.91
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (200 << 30, 200 << 30))
    monkeypatch.setattr(gpu_run, "check_kernels", lambda: None)
    monkeypatch.setattr(gpu_run, "measure_ceilings", lambda: Ceilings(1e12, 1e14))
    monkeypatch.setattr(gpu_run, "run_ours", ours)
    monkeypatch.setattr(gpu_run, "run_theirs", lambda *_: tried.append("theirs"))
    monkeypatch.setattr(gpu_run, "run_steady", lambda *_: tried.append("steady"))
    monkeypatch.setattr(gpu_run, "cases", lambda *_: [])
    figures: dict[str, float | None] = {"decode_bandwidth_fraction_b1": None, "idle_fraction": None}
    gpu_run.run(figures, quick=False)
    assert figures == {"decode_bandwidth_fraction_b1": 0.91, "idle_fraction": None}
    assert tried == [LLAMA.name, "theirs", "steady", QWEN.name, "theirs"]
    assert "Llama-3-8B: FAILED, RuntimeError: no kernel image" in capsys.readouterr().out
