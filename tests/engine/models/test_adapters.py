"""Adapters that `peft` wrote change a model as `peft` does, and change nobody beside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError
from engine.models.adapters import read_adapter
from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.runner.inputs import RequestTable
from engine.runner.kv_cache import KvCache
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice
from tests.engine.conftest import VOCABULARY, Tiny, platform

EVERYTHING = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
KINDS = ("llama-untied", "qwen3-windowed", "phi3-partial", "gemma2", "olmo2")
EXACT = 1e-4


def written(folder: Path, tiny: Tiny, seed: int, **config: Any) -> Any:
    """Have `peft` write an adapter whose weights are all of weight; return its model."""
    torch.manual_seed(seed)
    wanted = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "init_lora_weights": False, **config})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks `transformers` by an old name
        adapted = peft.get_peft_model(deepcopy(tiny.reference), wanted)
        adapted.save_pretrained(str(folder))
    return adapted.eval()


@pytest.fixture(scope="module")
def adapted(
    tiny: Callable[[str], Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[tuple[Path, Any]]]:
    @cache
    def make(kind: str) -> list[tuple[Path, Any]]:
        fused = kind.startswith("phi3")
        made = []
        for seed, config in enumerate(
            (
                {"target_modules": list(FUSED if fused else EVERYTHING)},
                {"target_modules": ["o_proj", "down_proj"], "r": 3, "use_rslora": True},
                {
                    "target_modules": list(FUSED if fused else ("q_proj", "v_proj", "up_proj")),
                    "rank_pattern": {"down_proj" if fused else "up_proj": 5},
                    "alpha_pattern": {r"0\.self_attn\.(qkv|q)_proj": 20},
                },
            )
        ):
            folder = tmp_path_factory.mktemp("adapter")
            made.append((folder, written(folder, tiny(kind), seed, **config)))
        return made

    return make


def logits_of(reference: Any, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(reference(input_ids=torch.tensor([tokens])).logits[0])


class Paged:
    """Requests of one model, in as many steps as wanted."""

    def __init__(self, model: Decoder, names: list[str], block_size: int = 16) -> None:
        self.model = model
        groups = model.config.groups.count
        self.cache = KvCache(model, 64 * groups, block_size)
        size = (self.cache.blocks, block_size, model.device, model.config.vocabulary, groups)
        self.table = RequestTable(*size, None, names)
        self.free = list(range(self.cache.blocks))

    def admit(self, name: str, tokens: list[int], adapter: str) -> None:
        held = -(-len(tokens) // self.cache.block_size) * self.model.config.groups.count
        blocks = tuple(self.free.pop() for _ in range(held))
        self.table.admit(Arrival(name, tuple(tokens), len(tokens), Sampling(adapter=adapter), blocks, 0))

    def step(self, *slices: tuple[str, int, int]) -> dict[str, torch.Tensor]:
        flat, errors = self.table.gather([Slice(*one, (), False) for one in slices])
        assert not errors
        assert flat is not None
        with torch.inference_mode():
            hidden = self.model.forward(flat.tokens, flat.positions, flat.paged, self.cache.layers, flat.routed)
            logits = self.model.logits(hidden)
        self.table.record(flat, np.empty(0, np.int64))
        lasts = flat.last.tolist()
        return {name: logits[last - count + 1 : last + 1] for (name, _, count), last in zip(slices, lasts, strict=True)}


def loaded(
    tiny: Tiny, adapters: list[tuple[Path, Any]], ops: str, dtype: Any = "auto", quantization: Any = "none"
) -> Decoder:
    model = load_model(tiny.folder, platform(ops), dtype, quantization=quantization)
    model.adapt([read_adapter(str(folder), model) for folder, _ in adapters])
    return model


CUTS = ((0, 7), (7, 1), (8, 1), (9, 20), (29, 3))


def together(model: Decoder, prompts: Mapping[str, tuple[list[int], str]], names: list[str]) -> dict[str, torch.Tensor]:
    """Compute all of several requests in steps that mix chunks and single tokens."""
    paged, found = Paged(model, names), {name: list[torch.Tensor]() for name in prompts}
    for name, (tokens, adapter) in prompts.items():
        paged.admit(name, tokens, adapter)
    left = {name: list(CUTS) for name in prompts}
    for at, name in enumerate(prompts):  # who begins later is at another cut
        for _ in range(at % 3):
            start, count = left[name].pop(0)
            found[name].append(paged.step((name, start, count))[name])
    while any(left.values()):
        cut = {name: cuts.pop(0) for name, cuts in left.items() if cuts}
        for name, logits in paged.step(*((name, *piece) for name, piece in cut.items())).items():
            found[name].append(logits)
    return {name: torch.cat(parts) for name, parts in found.items()}


def prompts() -> dict[str, tuple[list[int], str]]:
    rng = np.random.default_rng(8)
    whose = ("a", "", "b", "a", "c", "")
    return {f"r{i}": (rng.integers(0, VOCABULARY, 32).tolist(), name) for i, name in enumerate(whose)}


@pytest.mark.parametrize("ops", ["reference", "cpu", "native", "triton"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_peft_in_a_mix_of_adapters_and_of_none(
    tiny: Callable[[str], Tiny], adapted: Callable[[str], list[tuple[Path, Any]]], kind: str, ops: str
) -> None:
    if ops == "triton":
        pytest.importorskip("triton", reason="the extra 'gpu' is not installed")
        if kind not in {"llama-untied", "phi3-partial"}:
            return  # interpreted it is slow, and nothing of it depends on the family
    wanted = prompts()
    found = together(loaded(tiny(kind), adapted(kind), ops), wanted, ["a", "b", "c"])
    for name, (tokens, adapter) in wanted.items():
        reference = adapted(kind)["abc".index(adapter)][1] if adapter else None
        expected = tiny(kind).logits(tokens) if reference is None else logits_of(reference, tokens)
        assert (found[name] - expected).abs().max() <= EXACT, (name, adapter)
    plain = tiny(kind).logits(wanted["r0"][0])
    assert (found["r0"] - plain).abs().max() > 0.1, "the adapter does nothing"


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8")])
@pytest.mark.parametrize("ops", ["cpu", "native"])
def test_a_requests_bits_depend_on_its_own_adapter_alone(
    tiny: Callable[[str], Tiny],
    adapted: Callable[[str], list[tuple[Path, Any]]],
    ops: str,
    dtype: str,
    quantization: str,
) -> None:
    kind, wanted = "llama-untied", prompts()
    model = loaded(tiny(kind), adapted(kind), ops, dtype, quantization)
    company = together(model, wanted, ["a", "b", "c"])
    for name, mine in wanted.items():
        (alone,) = together(model, {name: mine}, ["a", "b", "c"]).values()
        assert torch.equal(alone, company[name]), name
    bare = load_model(tiny(kind).folder, platform(ops), dtype, quantization=quantization)  # type: ignore[arg-type]
    (without,) = together(bare, {"r1": wanted["r1"]}, []).values()
    assert torch.equal(without, company["r1"]), "who has no adapter is computed as if there were none"


def test_attention_beside_experts_is_adapted_too(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    reference = written(tmp_path, tiny("qwen3moe"), 1, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = loaded(tiny("qwen3moe"), [(tmp_path, reference)], "native")
    wanted = {"a": (prompts()["r0"][0], "x"), "b": (prompts()["r1"][0], "")}
    found = together(model, wanted, ["x"])
    assert (found["a"] - logits_of(reference, wanted["a"][0])).abs().max() <= EXACT
    assert (found["b"] - tiny("qwen3moe").logits(wanted["b"][0])).abs().max() <= EXACT


def test_a_request_for_an_adapter_that_the_worker_lacks_fails_alone(tiny: Callable[[str], Tiny]) -> None:
    paged = Paged(load_model(tiny("llama-untied").folder, platform("native")), ["x"])
    paged.admit("r", [1, 2], "nobody")
    _, errors = paged.table.gather([Slice("r", 0, 2)])
    assert errors == [("r", "the worker has no adapter 'nobody', only ['x']")]


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "LOHA"}, "`peft_type` is 'LOHA', and only 'LORA' can be served"),
        ({"bias": "all"}, "`bias` is 'all'"),
        ({"use_dora": True}, "`use_dora` is True"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save`"),
        ({"alora_invocation_tokens": [3, 4]}, "`alora_invocation_tokens` is [3, 4]"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "`layer_replication`"),
        ({"init_lora_weights": "loftq"}, "`init_lora_weights` is 'loftq', and only True can be served"),
        ({"lora_alpha": "much"}, "`lora_alpha` or `alpha_pattern` is no scale"),
        ({"alpha_pattern": {"(": 3}}, "`lora_alpha` or `alpha_pattern` is no scale"),
    ],
)
def test_what_only_other_adapters_have_is_refused_by_field(
    tiny: Callable[[str], Tiny], tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    written(tmp_path, tiny("llama-untied"), 1, target_modules=["q_proj"])
    edit(tmp_path, **fields)
    model = load_model(tiny("llama-untied").folder, platform("reference"))
    with pytest.raises(CheckpointError) as refused:
        read_adapter(str(tmp_path), model)
    assert said in str(refused.value)


@pytest.mark.parametrize("way", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_beside_what_peft_leaves_of_the_weights_is_refused(
    tiny: Callable[[str], Tiny], tmp_path: Path, way: str
) -> None:
    wanted = prompts()["r0"][0]
    reference = written(tmp_path, tiny("llama-untied"), 1, target_modules=["q_proj"], init_lora_weights=way)
    assert (logits_of(reference, wanted) - tiny("llama-untied").logits(wanted)).abs().max() <= EXACT, "nothing is added"
    model = load_model(tiny("llama-untied").folder, platform("reference"))
    with pytest.raises(CheckpointError, match="`init_lora_weights`"):
        read_adapter(str(tmp_path), model)


def test_an_adapter_of_another_model_or_no_adapter_at_all_says_so(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    model = load_model(tiny("llama-untied").folder, platform("reference"))

    def refusal(folder: Path) -> str:
        with pytest.raises(CheckpointError) as refused:
            read_adapter(str(folder), model)
        return refused.value.problem

    assert "no adapter as `peft` writes them" in refusal(tiny("llama-untied").folder)
    written(tmp_path, tiny("phi3-partial"), 1, target_modules=["qkv_proj"])
    assert refusal(tmp_path).startswith("model.layers.0.self_attn.qkv_proj")
    written(tmp_path, tiny("llama-untied"), 1, target_modules=["q_proj"])
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name, first = next((name, tensor) for name, tensor in weights.items() if "lora_A" in name)
    save_file(weights | {name: first[:, :-1].contiguous()}, tmp_path / "adapter_model.safetensors")
    assert "the model's projection [64, 32]" in refusal(tmp_path)
    save_file({key: tensor for key, tensor in weights.items() if key != name}, tmp_path / "adapter_model.safetensors")
    assert "lacks its lora_A" in refusal(tmp_path)
    save_file(weights | {"base_model.model.lm_head.weight": first.clone()}, tmp_path / "adapter_model.safetensors")
    assert "is none of a low-rank adapter" in refusal(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 30)
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "save the adapter as safetensors" in refusal(tmp_path)
