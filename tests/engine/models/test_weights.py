"""Whatever is wrong with a checkpoint is said by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError, NotEnoughMemory, UnsupportedModel
from engine.kernels.batch import PagedBatch
from engine.models.config import read_model_config
from engine.models.registry import load_model
from engine.models.weights import Checkpoint, find_checkpoint
from engine.platforms import Dtype, Platform, choose_dtype
from engine.runner.kv_cache import KvCache
from tests.engine.conftest import Tiny

CPU = Platform(kind="cpu", device=torch.device("cpu"), name="test", ops="cpu")


@pytest.fixture
def folder(tiny: Callable[[str], Tiny], tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(tiny("qwen3-tied").folder, copy)
    return copy


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}), encoding="utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def shard(folder: Path) -> None:
    """Split the one file in two, with an index."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name].clone() for name in part}, folder / file)
    where = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    path.unlink()


def test_a_sharded_checkpoint_loads_like_a_whole_one(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    shard(folder)
    source = Checkpoint(folder, torch.float32, torch.device("cpu"))
    for name, tensor in whole.items():
        assert torch.equal(source.take(name, *tensor.shape), tensor)
    load_model(folder, CPU)


def test_a_tensor_of_the_right_format_is_the_mapped_file_itself(folder: Path) -> None:
    source = Checkpoint(folder, torch.float32, torch.device("cpu"))
    first, again = (source.take("model.norm.weight", 32) for _ in range(2))
    assert first.data_ptr() == again.data_ptr()


def test_a_folder_without_config_is_not_a_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json.*missing"):
        load_model(folder, CPU)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_not_an_object_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(folder, CPU)


def test_a_config_without_a_key_names_it(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=None)
    with pytest.raises(CheckpointError, match="'num_hidden_layers'"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"use_sliding_window": True, "layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"quantization_config": {}}, "`quant_method` is None"),
        (
            {"rope_parameters": {"rope_type": "mrope"}},
            "'mrope'; supported are default, linear, dynamic, yarn, longrope, llama3",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks the key 'factor'"),
        ({"num_key_value_heads": 3}, "3 key and value heads"),
        ({"hidden_size": "wide"}, "wrong kind"),
        ({"vocab_size": 0}, "vocabulary is 0"),
        ({"head_dim": 7}, "in pairs"),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_config(folder, **change)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, CPU)


def test_an_unknown_architecture_is_refused_with_those_we_have(folder: Path) -> None:
    edit_config(folder, architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM, MistralForCausalLM") as refused:
        load_model(folder, CPU)
    assert refused.value.architecture == "MambaForCausalLM"


def test_a_missing_tensor_is_named(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.1.self_attn.k_norm.weight"))
    with pytest.raises(CheckpointError, match=r"'model\.layers\.1\.self_attn\.k_norm\.weight' is missing"):
        load_model(folder, CPU)


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.extra\.weight'"):
        load_model(folder, CPU)


def test_a_tied_checkpoint_may_carry_its_head_all_the_same(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(101, 32)}))
    load_model(folder, CPU)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    edit_config(folder, intermediate_size=40)
    with pytest.raises(CheckpointError, match=r"gate_proj.*\[48, 32\].*\[40, 32\]"):
        load_model(folder, CPU)


def test_a_file_cut_short_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_model(folder, CPU)


def test_a_file_that_is_no_safetensors_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\0" * 8 + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*damaged"):
        load_model(folder, CPU)


def test_a_folder_without_weights_says_what_it_looked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(folder, CPU)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors.*missing"):
        load_model(folder, CPU)


def test_a_broken_index_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load_model(folder, CPU)


def test_a_folder_is_taken_as_it_is_and_a_file_refused(folder: Path) -> None:
    assert find_checkpoint(str(folder)) == folder
    with pytest.raises(CheckpointError, match="is a file"):
        find_checkpoint(str(folder / "config.json"))


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither a folder"):
        find_checkpoint("/no/such/checkpoint")


@dataclass(frozen=True)
class Small(Platform):
    """A platform with a few bytes."""

    def free_memory(self) -> int:
        return 1000


def test_weights_that_do_not_fit_say_what_they_take_and_what_would_make_them_fit(folder: Path) -> None:
    small = Small("cpu", torch.device("cpu"), "test", "cpu")
    size = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    sizes: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
    for dtype, width in sizes.items():
        with pytest.raises(NotEnoughMemory, match=r"weights: .*\(1,000 bytes\) .*: take dtype bfloat16") as lacking:
            load_model(folder, small, dtype)
        assert (lacking.value.needed, lacking.value.available) == (size * width, 1000)
    with pytest.raises(NotEnoughMemory, match="weights"):
        load_model(folder, small, load_format="dummy")


def test_dummy_weights_need_a_config_alone_and_are_always_the_same(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tokens, positions = torch.tensor([3, 1, 4]), torch.arange(3)
    batch = PagedBatch(positions, torch.tensor([[0]]), np.array([3]), np.array([3]), 4)

    def logits() -> torch.Tensor:
        model = load_model(folder, CPU, load_format="dummy")
        with torch.inference_mode():
            hidden = model.forward(tokens, positions, [batch], KvCache(model, 1, 4).layers)
            return model.logits(hidden)

    first = logits()
    assert first.isfinite().all()
    assert first.std() > 0.1
    assert torch.equal(first, logits())


def test_stop_tokens_come_from_both_configs_once_each(folder: Path) -> None:
    edit_config(folder, eos_token_id=[5, 6])
    (folder / "generation_config.json").write_text('{"eos_token_id": 6}', encoding="utf-8")
    assert read_model_config(folder).stop_tokens == (6, 5)


def test_old_and_new_spellings_of_the_rotation_mean_the_same(folder: Path) -> None:
    new = read_model_config(folder)
    edit_config(folder, rope_parameters=None, rope_theta=10000.0, rope_scaling=None)
    assert read_model_config(folder) == new


def test_a_small_half_precision_model_runs_in_float32_on_a_cpu_and_a_large_one_does_not() -> None:
    assert choose_dtype(CPU, "auto", torch.bfloat16, 5_000_000) == torch.float32
    assert choose_dtype(CPU, "auto", torch.bfloat16, 600_000_000) == torch.bfloat16
    assert choose_dtype(CPU, "float16", torch.bfloat16, 5_000_000) == torch.float16
