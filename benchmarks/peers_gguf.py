"""A checkpoint of `checkpoints` as one GGUF file, which is what llama.cpp reads.

Written by hand: the format is a header, names and places of tensors, then their bytes. Weights keep their bits; norms
become float32, as llama.cpp wants them. Llama's queries and keys are turned from halves to pairs, which is how
llama.cpp rotates that family.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_ALIGNED: Final = 32
_F32, _BF16 = 0, 30
_NAMES: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE: Final = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}


def gguf(folder: Path) -> Path:
    """Give the file, made beside the weights if it is not there."""
    path = folder / "model.gguf"
    if not path.exists():
        unready = folder / "model.gguf.unready"
        _write(folder, unready)
        unready.rename(path)
    return path


def _write(folder: Path, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = [(_name(name), _turned(name, bits, config)) for name, bits in _tensors(folder / "model.safetensors")]
    keys = {**_shape(config), **_tokens(folder, config)}
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
        for key, value in keys.items():
            file.write(_text(key) + _value(value))
        at = 0
        for name, data in tensors:
            kind = _F32 if data.dtype == np.float32 else _BF16
            sizes = data.shape[::-1]  # fastest first
            file.write(_text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, at))
            at += -(-data.nbytes // _ALIGNED) * _ALIGNED
        for _, data in tensors:
            file.write(b"\0" * (-file.tell() % _ALIGNED))
            file.write(data.tobytes())
        file.write(b"\0" * (-file.tell() % _ALIGNED))


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, told in header.items():
        begin, end = told["data_offsets"]
        bits = np.fromfile(path, np.uint16, (end - begin) // 2, offset=8 + length + begin)
        yield name, bits.reshape(told["shape"])


def _name(name: str) -> str:
    whole = name.removesuffix(".weight")
    if whole in _WHOLE:
        return f"{_WHOLE[whole]}.weight"
    _, _, layer, part = whole.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _turned(name: str, bits: NDArray[np.uint16], config: Mapping[str, Any]) -> NDArray[Any]:
    if bits.ndim == 1:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if config["model_type"] != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return bits
    return pairs_from_halves(bits, config["head_dim"])


def pairs_from_halves(weight: NDArray[np.uint16], size: int) -> NDArray[np.uint16]:
    """Lay the rows of each head so that those which are turned together are neighbours."""
    rows, columns = weight.shape
    return weight.reshape(rows // size, 2, size // 2, columns).swapaxes(1, 2).reshape(rows, columns).copy()


def _shape(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config["model_type"]
    ours = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": config["head_dim"],
        "rope.freq_base": float(config["rope_theta"]),
        "vocab_size": config["vocab_size"],
    }
    told = {"general.architecture": kind, "general.name": "peers", "general.file_type": 32, "general.alignment": 32}
    return told | {f"{kind}.{key}": value for key, value in ours.items()}


def _tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    by_number = sorted(told["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["id"] for token in told["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in told["model"]["merges"]]
    control, normal = 3, 1
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in by_number],
        "tokenizer.ggml.token_type": [control if number in special else normal for _, number in by_number],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.ggml.add_bos_token": False,
    }


def _text(text: str) -> bytes:
    plain = text.encode()
    return struct.pack("<Q", len(plain)) + plain


def _value(value: str | bool | float | Sequence[Any]) -> bytes:
    """Write a value with its type before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case _:
            return struct.pack("<IIQ", 9, 5, len(value)) + np.array(value, np.int32).tobytes()
