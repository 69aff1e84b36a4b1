"""Models of whole texts compute what `transformers` computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError, NotEnoughMemory, UnsupportedModel
from engine.models.pooled import SUPPORTED, Pooled, load_pooled
from engine.platforms import Dtype, Platform
from tests.engine.conftest import platform

VOCABULARY = 101
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "initializer_range": 0.3,
}
DECODER: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
MODERN: dict[str, Any] = {"num_hidden_layers": 5, "local_attention": 10, "pad_token_id": 0}
EXACT = 1e-4
HALF = 0.98
"""Least cosine between what bfloat16 gives and what float32 does."""


def write(folder: Path, architecture: str, **changes: Any) -> Any:
    """Write a random checkpoint; return the model that wrote it."""
    import transformers  # noqa: PLC0415  slow

    build = getattr(transformers, architecture)
    encoder = any(name in architecture for name in ("Bert", "Roberta"))
    padding = {"pad_token_id": 1 if "Roberta" in architecture else 0} if encoder else {"pad_token_id": None}
    own = MODERN if architecture.startswith("Modern") else {} if encoder else DECODER
    config = build.config_class(**SHAPE | padding | own | changes)
    torch.manual_seed(7)
    reference = build(config).eval()
    low, high = (-0.5, 0.5) if architecture.startswith("Gemma") else (0.5, 1.5)
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a mistake
        for name, weight in reference.named_parameters():
            if "norm" in name.lower() or name.endswith("bias"):
                weight.uniform_(low, high)
    reference.save_pretrained(folder)
    return reference


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    @cache
    def make(architecture: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(architecture)
        labels = {"num_labels": 3} if architecture.endswith("Classification") else {}
        return folder, write(folder, architecture, **labels)

    return make


def load(folder: Path, ops: str = "cpu", dtype: Dtype = "auto") -> Pooled:
    return load_pooled(folder, Platform(kind="cpu", device=torch.device("cpu"), name="test", ops=ops), dtype, None)


def texts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, VOCABULARY, length).tolist() for length in lengths]


def split_at(text: list[int], first: int) -> list[int]:
    """The segments of a pair whose first text has so many tokens."""
    return [0 if i < first else 1 for i in range(len(text))]


def states_of(model: Pooled, texts: list[list[int]], segments: list[list[int]]) -> tuple[torch.Tensor, ...]:
    counts = [len(text) for text in texts]
    flat, kinds = (torch.tensor([item for part in parts for item in part]) for parts in (texts, segments))
    with torch.inference_mode():
        return model.states(flat, kinds, counts).split_with_sizes(counts)


ENCODERS = ("BertModel", "ModernBertModel", "RobertaModel", "XLMRobertaModel")
TRUNKS = (*ENCODERS, *(name for name in SUPPORTED if name.endswith("Model") and name not in ENCODERS))
MIXTURES = ("MixtralModel", "Qwen3MoeModel")
HEADS = tuple(name for name in SUPPORTED if name.endswith("ForSequenceClassification"))


def given(architecture: str, text: list[int], segments: list[int]) -> dict[str, torch.Tensor]:
    """What `transformers` is called with."""
    ids = torch.tensor([text])
    kinds = {"token_type_ids": torch.tensor([segments])} if architecture.startswith("Bert") else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds}


def agrees(folder: Path, reference: Any, architecture: str, length: int = 9) -> bool:
    """The checkpoint gives one text the states of the model that wrote it."""
    (text,) = texts_of((length,))
    (found,) = states_of(load(folder), [text], [[0] * length])
    with torch.inference_mode():
        expected = reference(**given(architecture, text, [0] * length)).last_hidden_state[0]
    return bool((found - expected).abs().max() <= EXACT)


@pytest.mark.parametrize("ops", ["reference", "gathered", "cpu"])
@pytest.mark.parametrize("architecture", TRUNKS)
def test_states_equal_those_of_transformers(
    tiny: Callable[[str], tuple[Path, Any]], architecture: str, ops: str
) -> None:
    folder, reference = tiny(architecture)
    texts = texts_of((1, 1, 2, 17, 40, 64))
    segments = [split_at(text, len(text) // 2) for text in texts]
    for text, kinds, found in zip(texts, segments, states_of(load(folder, ops), texts, segments), strict=True):
        with torch.inference_mode():
            expected = reference(**given(architecture, text, kinds)).last_hidden_state[0]
        assert (found - expected).abs().max() <= EXACT


@pytest.mark.parametrize("architecture", TRUNKS)
def test_states_in_half_precision_stay_close(tiny: Callable[[str], tuple[Path, Any]], architecture: str) -> None:
    folder, reference = tiny(architecture)
    texts = texts_of((5, 40))
    segments = [split_at(text, 3) for text in texts]
    for text, kinds, found in zip(
        texts, segments, states_of(load(folder, "cpu", "bfloat16"), texts, segments), strict=True
    ):
        assert found.dtype == torch.bfloat16
        with torch.inference_mode():
            expected = reference(**given(architecture, text, kinds)).last_hidden_state[0]
        near = torch.cosine_similarity(found.float(), expected, dim=-1) > HALF
        # which of two experts that are all but equally good is asked, a rounding decides
        assert near.all() if architecture not in MIXTURES else near.float().mean() > 0.8


@pytest.mark.parametrize("ops", ["reference", "cpu", "native"])
@pytest.mark.parametrize("architecture", TRUNKS)
def test_states_in_8_bits_stay_close(tiny: Callable[[str], tuple[Path, Any]], architecture: str, ops: str) -> None:
    folder, reference = tiny(architecture)
    texts = texts_of((5, 40))
    segments = [split_at(text, 3) for text in texts]
    model = load_pooled(folder, platform(ops), "float32", None, quantization="int8")
    for text, kinds, found in zip(texts, segments, states_of(model, texts, segments), strict=True):
        with torch.inference_mode():
            expected = reference(**given(architecture, text, kinds)).last_hidden_state[0]
        off = (found - expected).norm() / expected.norm()
        assert 1e-4 < off < 0.2


@dataclass(frozen=True)
class Room(Platform):
    """A platform with room for so many bytes."""

    bytes: int = 0

    def free_memory(self) -> int:
        return self.bytes


def test_weights_in_eight_bits_fit_where_whole_ones_do_not(tiny: Callable[[str], tuple[Path, Any]]) -> None:
    for architecture in ("BertModel", "LlamaForSequenceClassification"):
        folder, _ = tiny(architecture)
        numbers = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
        taken = numbers + VOCABULARY * SHAPE["hidden_size"] * 4
        assert taken < numbers * 4
        room = Room("cpu", torch.device("cpu"), "test", "cpu", bytes=taken)
        assert load_pooled(folder, room, "float32", None, quantization="int8").states is not None
        with pytest.raises(NotEnoughMemory):
            load_pooled(folder, replace(room, bytes=taken - 1), "float32", None, quantization="int8")
        with pytest.raises(NotEnoughMemory):
            load_pooled(folder, room, "float32", None)


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("ops", ["reference", "cpu"])
def test_logits_of_labels_equal_those_of_transformers(
    tiny: Callable[[str], tuple[Path, Any]], architecture: str, ops: str
) -> None:
    folder, reference = tiny(architecture)
    model = load(folder, ops)
    assert model.head is not None
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    texts = texts_of((2, 17, 40))
    segments = [split_at(text, len(text) // 3) for text in texts]
    for text, kinds, found in zip(texts, segments, states_of(model, texts, segments), strict=True):
        with torch.inference_mode():
            expected = reference(**given(architecture, text, kinds)).logits[0]
            logits = model.head(found[-1:] if model.pooling == "last" else found[:1])[0]
        assert (logits - expected).abs().max() <= EXACT


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_every_architecture_that_is_named_loads(tiny: Callable[[str], tuple[Path, Any]], architecture: str) -> None:
    folder, reference = tiny(architecture)
    model = load(folder)
    assert model.states.width == 32
    assert (model.head is not None) == architecture.endswith("Classification")
    trunk = reference.base_model if not architecture.endswith("Model") else reference
    (text,) = texts_of((9,))
    (found,) = states_of(model, [text], [[0] * 9])
    with torch.inference_mode():
        expected = trunk(**given(architecture, text, [0] * 9)).last_hidden_state[0]
    assert (found - expected).abs().max() <= EXACT


@pytest.mark.parametrize("architecture", ["BertModel", "ModernBertModel", "RobertaModel", "Qwen3Model"])
def test_a_trunk_is_found_under_its_prefix_too(tmp_path: Path, architecture: str) -> None:
    reference = write(tmp_path, architecture)
    prefix = {"Bert": "bert.", "Mode": "model.", "Robe": "roberta.", "Qwen": "model."}[architecture[:4]]
    path = tmp_path / "model.safetensors"
    tensors = {f"{prefix}{name}": tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)
    assert agrees(tmp_path, reference, architecture)


def test_norms_may_have_their_old_names_and_heads_of_training_are_passed_over(tmp_path: Path) -> None:
    """As bert-base-uncased is published."""
    reference = write(tmp_path, "BertForMaskedLM")
    path = tmp_path / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in load_file(path).items():
        ending = ".".join(name.split(".")[-2:])
        tensors[name.removesuffix(ending) + old.get(ending, ending)] = tensor.clone()
    assert sum(name.endswith(".gamma") for name in tensors) == 6
    spare = {"cls.seq_relationship.weight": torch.zeros(2, 32), "cls.seq_relationship.bias": torch.zeros(2)}
    path.unlink()
    save_file(tensors | spare, path)
    assert agrees(tmp_path, reference.base_model, "BertForMaskedLM")


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
        {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"], "local_attention": 7},
        {"local_attention": 0},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}}},
        {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}},
    ],
)
def test_what_modern_encoders_may_differ_in_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = write(tmp_path, "ModernBertModel", max_position_embeddings=300, **changes)
    # beyond what is attended at once
    assert agrees(tmp_path, reference, "ModernBertModel", 300)


def test_a_modern_encoder_may_be_described_as_before_transformers_5(tmp_path: Path) -> None:
    thetas = {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 50.0}}
    ropes = {kind: theta | {"rope_type": "default"} for kind, theta in thetas.items()}
    layers = ["sliding_attention" if i % 2 else "full_attention" for i in range(5)]
    reference = write(tmp_path, "ModernBertModel", rope_parameters=ropes, layer_types=layers)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["rope_parameters"], raw["layer_types"]
    path.write_text(json.dumps(raw | {"global_attn_every_n_layers": 2, "global_rope_theta": 500.0}), encoding="utf-8")
    edit(tmp_path, "config.json", local_rope_theta=50.0)
    assert agrees(tmp_path, reference, "ModernBertModel", 60)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_modern_head_is_given_what_its_config_says(tmp_path: Path, pooling: str) -> None:
    architecture = "ModernBertForSequenceClassification"
    reference = write(tmp_path, architecture, num_labels=3, classifier_pooling=pooling, classifier_bias=True)
    model = load(tmp_path)
    assert model.head is not None
    assert model.pooling == pooling
    (text,) = texts_of((40,))
    (found,) = states_of(model, [text], [[0] * 40])
    with torch.inference_mode():
        expected = reference(**given(architecture, text, [0] * 40)).logits[0]
        logits = model.head(found[:1] if pooling == "cls" else found.mean(0, keepdim=True))[0]
    assert (logits - expected).abs().max() <= EXACT


@pytest.mark.parametrize("architecture", ["BertModel", "ModernBertModel", "Qwen3Model"])
def test_numbers_of_one_text_that_are_not_finite_reach_no_other(tmp_path: Path, architecture: str) -> None:
    write(tmp_path, architecture)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    (words,) = (
        tensor
        for name, tensor in tensors.items()
        if name.endswith(("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight"))
    )
    words[7] = torch.nan
    path.unlink()
    save_file(tensors, path)
    good, bad, longer = states_of(load(tmp_path), [[5, 6], [7, 8, 9], [10] * 40], [[0] * 2, [0] * 3, [0] * 40])
    assert bad.isnan().any()
    assert good.isfinite().all()
    assert longer.isfinite().all()


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(raw | changes), encoding="utf-8")


def test_an_unknown_architecture_is_refused_with_those_we_have(tmp_path: Path) -> None:
    write(tmp_path, "BertModel")
    edit(tmp_path, "config.json", architectures=["MPNetModel"])
    with pytest.raises(UnsupportedModel, match=r"BertForSequenceClassification.*Qwen3Model.*XLMRobertaModel"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"quantization_config": {}}, "quantised"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_size": "wide"}, "wrong kind"),
        ({"vocab_size": 100}, r"'embeddings\.word_embeddings\.weight' is \[101, 32\]"),
    ],
)
def test_what_the_encoder_cannot_compute_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, "BertModel")
    edit(tmp_path, "config.json", **change)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "lost"),
    [
        ("BertModel", "encoder.layer.1.output.LayerNorm.bias"),
        ("BertForSequenceClassification", "bert.pooler.dense.weight"),
        ("ModernBertModel", "layers.1.attn_norm.weight"),
        ("ModernBertForSequenceClassification", "head.norm.weight"),
        ("XLMRobertaForSequenceClassification", "classifier.out_proj.weight"),
        ("Qwen3ForSequenceClassification", "score.weight"),
    ],
)
def test_missing_and_unexpected_tensors_are_named(tmp_path: Path, architecture: str, lost: str) -> None:
    write(tmp_path, architecture)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(tensors | {"adapter.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"does not know: 'adapter\.weight'"):
        load(tmp_path)
    path.unlink()
    tensors.pop(lost)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"{lost!r} is missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation 'relu'"),
        ({"classifier_activation": "silu"}, "classifier_activation 'silu'"),
        ({"classifier_pooling": "max"}, "classifier_pooling 'max' is none of cls, mean, last"),
        ({"quantization_config": {}}, "quantised"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"num_attention_heads": 32}, "in pairs"),
        ({"layer_types": ["full_attention"]}, "1 entries for 5 layers"),
        ({"layer_types": ["chunked_attention"] * 5}, "'chunked_attention'; supported are"),
        ({"local_attention": -2}, "local_attention is -2"),
        ({"hidden_size": "wide"}, "wrong kind"),
    ],
)
def test_what_the_modern_encoder_cannot_compute_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write(tmp_path, "ModernBertModel")
    edit(tmp_path, "config.json", **change)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_config_without_a_key_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="lacks the key 'vocab_size'"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json.*missing"):
        load(tmp_path)
