"""Checkpoints in few bits compute what the numbers mean that they hold, whichever tool wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import CheckpointError
from engine.kernels.packing import Packed
from engine.kernels.weights import Int8Weight, whole
from engine.models.registry import load_model
from engine.models.weights import Checkpoint
from tests.engine.conftest import VOCABULARY, Tiny, platform, write_tiny
from tests.engine.models.test_logits import logits_by_steps

EXACT = 1e-4
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return write_tiny(tmp_path_factory.mktemp("plain"), "llama", **SIZES)


def projections(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            yield name, module


def words(entries: Tensor, bits: int) -> Tensor:
    """Put unsigned entries [rows, n] into int32 [rows, n * bits / 32], one after the other, the first lowest."""
    numbers, each = entries.numpy().astype(np.uint32), 32 // bits
    out = np.zeros((len(numbers), numbers.shape[1] // each), np.uint32)
    for column in range(numbers.shape[1]):
        out[:, column // each] |= numbers[:, column] << np.uint32(bits * (column % each))
    return torch.from_numpy(out.view(np.int32))


def rounded(weight: Tensor, bits: int, groups: Tensor, *, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Round [out, in], input by input in its group: entries, scales [out, groups], zeros [out, groups]."""
    most, count = (1 << bits) - 1, int(groups.max()) + 1
    scales, zeros, entries = torch.zeros(len(weight), count), torch.zeros(len(weight), count), torch.zeros_like(weight)
    for group in range(count):
        own = weight[:, groups == group]
        low, high = own.amin(1).clamp(max=0), own.amax(1).clamp(min=0)
        if symmetric:
            scales[:, group] = torch.maximum(-low, high) * 2 / most
            zeros[:, group] = (most + 1) // 2
        else:
            scales[:, group] = (high - low) / most
            zeros[:, group] = (-low / scales[:, group]).round()
        shifted = own / scales[:, group, None] + zeros[:, group, None]
        entries[:, groups == group] = shifted.round().clamp(0, most)
    return entries, scales, zeros


def meant(entries: Tensor, scales: Tensor, zeros: Tensor, groups: Tensor) -> Tensor:
    return (entries - zeros[:, groups]) * scales[:, groups]


def saved(folder: Path, model: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a checkpoint in which some projections are packed."""
    model.save_pretrained(folder)
    kept = load_file(folder / "model.safetensors")
    packed = {name.rpartition(".")[0] for name in tensors}
    kept = {name: one for name, one in kept.items() if name.removesuffix(".weight") not in packed}
    save_file({**kept, **{name: one.contiguous() for name, one in tensors.items()}}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"quantization_config": config}), encoding="utf-8")


def gptq(
    folder: Path, tiny: Tiny, bits: int, group: int, *, symmetric: bool, ordered: bool, version: int, said: int = 0
) -> Any:
    model, tensors, rng = deepcopy(tiny.reference), dict[str, Tensor](), torch.Generator().manual_seed(5)
    for name, module in projections(model):
        width = module.weight.shape[1]
        groups = torch.arange(width) // (group if group > 0 else width)
        if ordered:
            groups = groups[torch.randperm(width, generator=rng)]
        entries, scales, zeros = rounded(module.weight.data, bits, groups, symmetric=symmetric)
        module.weight.data = meant(entries, scales, zeros, groups)
        stored = (zeros - int(version == 1)).to(torch.int64) & ((1 << bits) - 1)
        tensors[f"{name}.qweight"] = words(entries, bits).T
        tensors[f"{name}.qzeros"] = words(stored.T, bits)
        tensors[f"{name}.scales"] = scales.T
        tensors[f"{name}.g_idx"] = groups.to(torch.int32)
    form = {"checkpoint_format": "gptq_v2"} if (said or version) > 1 else {}
    saved(folder, model, tensors, {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric} | form)
    return model


def awq(folder: Path, tiny: Tiny, group: int) -> Any:
    model, tensors, places = deepcopy(tiny.reference), dict[str, Tensor](), [0, 2, 4, 6, 1, 3, 5, 7]

    def in_their_order(entries: Tensor) -> Tensor:
        return words(entries.reshape(len(entries), -1, 8)[:, :, places].flatten(1), 4)

    for name, module in projections(model):
        groups = torch.arange(module.weight.shape[1]) // group
        entries, scales, zeros = rounded(module.weight.data, 4, groups, symmetric=False)
        module.weight.data = meant(entries, scales, zeros, groups)
        tensors[f"{name}.qweight"] = in_their_order(entries.T)
        tensors[f"{name}.qzeros"] = in_their_order(zeros.T)
        tensors[f"{name}.scales"] = scales.T
    saved(folder, model, tensors, {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"})
    return model


def fp8_blocks(folder: Path, tiny: Tiny, block: int) -> Any:
    model, tensors = deepcopy(tiny.reference), dict[str, Tensor]()
    for name, module in projections(model):
        weight, (out, width) = module.weight.data, module.weight.shape
        high, wide = -(-out // block), -(-width // block)
        scales = torch.zeros(high, wide)
        numbers = torch.zeros(out, width, dtype=torch.float8_e4m3fn)
        for row in range(high):
            for column in range(wide):
                at = (slice(row * block, (row + 1) * block), slice(column * block, (column + 1) * block))
                scales[row, column] = weight[at].abs().max() / 448
                numbers[at] = (weight[at] / scales[row, column]).to(torch.float8_e4m3fn)
                module.weight.data[at] = numbers[at].float() * scales[row, column]
        tensors[f"{name}.weight"], tensors[f"{name}.weight_scale_inv"] = numbers, scales
    saved(folder, model, tensors, {"quant_method": "fp8", "weight_block_size": [block, block], "fmt": "e4m3"})
    return model


def compressed(folder: Path, tiny: Tiny, preset: str) -> Any:
    """Have compressed-tensors write it; return the model with what it means."""
    model = deepcopy(tiny.reference)
    scheme = preset_name_to_scheme(preset.removesuffix("-rows"), ["Linear"])
    if preset.endswith("-rows"):
        scheme.weights = QuantizationArgs(num_bits=4, strategy="channel", group_size=-1)
    elif preset.startswith("W4"):
        scheme.weights.group_size = 32
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
    for _, module in projections(model):
        weight, wanted = module.weight.data, scheme.weights
        if (wanted.group_size or 0) > 0:
            parts = weight.reshape(len(weight), -1, wanted.group_size)
            low, high = parts.amin(-1), parts.amax(-1)
        elif wanted.strategy == "tensor":
            low, high = weight.amin().reshape(1), weight.amax().reshape(1)
        else:
            low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
        scale, _ = calculate_qparams(low, high, wanted)
        module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
        module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    assert compressor is not None
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    source, reference = Checkpoint(folder, torch.float32, torch.device("cpu")), deepcopy(tiny.reference)
    compressor.decompress_model(model)
    for name, module in projections(reference):
        module.weight.data = dict(model.named_modules())[name].weight.data.float()
        held = source.weight(name, *module.weight.shape)
        assert isinstance(held, Int8Weight if preset == "W8A8" else Packed)
        assert (whole(held) - module.weight.data).abs().max() <= 1e-6
    return reference


WAYS: dict[str, Callable[[Path, Tiny], Any]] = {
    "gptq": lambda folder, tiny: gptq(folder, tiny, 4, 32, symmetric=True, ordered=False, version=1),
    "gptq-asymmetric": lambda folder, tiny: gptq(folder, tiny, 4, 32, symmetric=False, ordered=False, version=1),
    "gptq-v2": lambda folder, tiny: gptq(folder, tiny, 4, 32, symmetric=False, ordered=False, version=2),
    "gptq-v2-unsaid": lambda folder, tiny: gptq(folder, tiny, 4, 32, symmetric=True, ordered=False, version=2, said=1),
    "gptq-ordered": lambda folder, tiny: gptq(folder, tiny, 4, 32, symmetric=False, ordered=True, version=1),
    "gptq-rows": lambda folder, tiny: gptq(folder, tiny, 4, -1, symmetric=True, ordered=False, version=1),
    "gptq-narrow": lambda folder, tiny: gptq(folder, tiny, 4, 16, symmetric=True, ordered=False, version=1),
    "gptq-8": lambda folder, tiny: gptq(folder, tiny, 8, 32, symmetric=True, ordered=False, version=1),
    "gptq-8-asymmetric": lambda folder, tiny: gptq(folder, tiny, 8, 32, symmetric=False, ordered=False, version=2),
    "awq": lambda folder, tiny: awq(folder, tiny, 32),
    "fp8-blocks": lambda folder, tiny: fp8_blocks(folder, tiny, 32),
    "compressed-w4a16": lambda folder, tiny: compressed(folder, tiny, "W4A16"),
    "compressed-w4a16-rows": lambda folder, tiny: compressed(folder, tiny, "W4A16-rows"),
    "compressed-fp8": lambda folder, tiny: compressed(folder, tiny, "FP8"),
    "compressed-fp8-dynamic": lambda folder, tiny: compressed(folder, tiny, "FP8_DYNAMIC"),
}


@pytest.mark.parametrize("ops", ["reference", "native", "triton"])
@pytest.mark.parametrize("way", WAYS)
def test_logits_equal_those_of_what_the_numbers_mean(tmp_path: Path, plain: Tiny, way: str, ops: str) -> None:
    if ops == "triton":
        pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
    reference = WAYS[way](tmp_path, plain)
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, VOCABULARY, length).tolist() for length in (1, 19, 12)]
    model = load_model(tmp_path, platform(ops))
    for tokens, found in zip(sequences, logits_by_steps(model, sequences, 16, rng), strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([tokens])).logits[0]
        assert (found - expected).abs().max() <= EXACT
        if len(tokens) > 1:
            assert (expected - plain.logits(tokens)).abs().max() > EXACT, "nothing was rounded"


def test_eight_bits_on_both_sides_are_multiplied_as_they_are_and_come_near(tmp_path: Path, plain: Tiny) -> None:
    reference = compressed(tmp_path, plain, "W8A8")
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, VOCABULARY, 30).tolist()
    found = {
        ops: logits_by_steps(load_model(tmp_path, platform(ops)), [tokens], 16, rng)[0]
        for ops in ("reference", "native")
    }
    assert (found["native"] - found["reference"]).abs().max() <= EXACT
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0]
    off = (found["native"] - expected).norm() / expected.norm()
    assert 1e-4 < off < 0.2


def test_what_is_packed_can_be_rounded_to_eight_bits(tmp_path: Path, plain: Tiny) -> None:
    reference = awq(tmp_path, plain, 32)
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, VOCABULARY, 30).tolist()
    (found,) = logits_by_steps(load_model(tmp_path, platform("native"), quantization="int8"), [tokens], 16, rng)
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0]
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"quant_method": "hqq"},
            "`quant_method` is 'hqq', and gptq, awq, compressed-tensors, fp8",
        ),
        ({"quant_method": "gptq", "bits": 3, "group_size": 32}, "`bits` is 3, and 4 and 8 can be served"),
        ({"quant_method": "gptq", "group_size": 32}, "lacks 'bits'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "`version` 'gemv'"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}}}, "`format` None"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "config.json makes it"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "`quantization_config`: "),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "is no block"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "is no block"),
    ],
)
def test_what_cannot_be_served_is_refused_by_field(
    tmp_path: Path, plain: Tiny, changes: dict[str, Any], said: str
) -> None:
    awq(tmp_path, plain, 32)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"quantization_config": changes}), encoding="utf-8")
    with pytest.raises(CheckpointError) as refused:
        load_model(tmp_path, platform("reference"))
    assert said in str(refused.value)


def test_a_tensor_that_is_missing_beside_others_is_named(tmp_path: Path, plain: Tiny) -> None:
    awq(tmp_path, plain, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("scales"))
    save_file({name: one for name, one in tensors.items() if name != gone}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="it has no 'scales'"):
        load_model(tmp_path, platform("reference"))


def test_numbers_that_are_not_what_the_format_says_are_refused(tmp_path: Path, plain: Tiny) -> None:
    name = "model.layers.0.mlp.up_proj"

    def refusal(preset: str, **changes: Callable[[Tensor], Tensor]) -> str:
        folder = tmp_path / f"{preset}-{'-'.join(changes)}"
        compressed(folder, plain, preset)
        tensors = load_file(folder / "model.safetensors")
        changed = {f"{name}.{ending}": change(tensors[f"{name}.{ending}"]) for ending, change in changes.items()}
        save_file({**tensors, **changed}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=name) as refused:
            load_model(folder, platform("reference"))
        return refused.value.problem

    assert "its numbers are torch.float32, not torch.int8" in refusal("W8A8", weight=lambda weight: weight.float() / 9)
    assert "not torch.float8_e4m3fn" in refusal("FP8", weight=lambda weight: weight.to(torch.bfloat16))
    assert "not torch.float8_e4m3fn" in refusal("FP8", weight=lambda weight: weight.to(torch.float8_e5m2))
    assert "[96, 4]" in refusal("FP8_DYNAMIC", weight_scale=lambda scale: scale.repeat(1, 4))
    assert "[95, 1]" in refusal("FP8_DYNAMIC", weight_scale=lambda scale: scale[:-1].contiguous())


def test_an_order_of_inputs_that_is_none_is_refused(tmp_path: Path, plain: Tiny) -> None:
    WAYS["gptq-ordered"](tmp_path, plain)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("g_idx"))
    for wrong in (tensors[name] + 1, tensors[name] - 1, tensors[name][:-1].clone()):
        save_file({**tensors, name: wrong}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="its 'g_idx' names groups that there are not"):
            load_model(tmp_path, platform("reference"))


def test_a_bias_of_zeros_beside_a_packed_projection_is_nothing_and_another_is_refused(
    tmp_path: Path, plain: Tiny
) -> None:
    awq(tmp_path, plain, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.bias"
    save_file({**tensors, name: torch.zeros(64)}, tmp_path / "model.safetensors")
    load_model(tmp_path, platform("reference"))
    save_file({**tensors, name: torch.ones(64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not know: 'model\.layers\.0\.self_attn\.q_proj\.bias'"):
        load_model(tmp_path, platform("reference"))
