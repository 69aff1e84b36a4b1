"""The models of `gpu.py`: dummy weights in the shapes of Llama-3-8B and Qwen3-30B-A3B, ours and those of transformers.

Ours are the engine's decoder over its paged cache, its steps captured as in the engine's runner. The loop is shorter
than the runner's: a step's tokens stay on the device, are the greedy ones, and go into the next step from there; there
is no scheduler, no host copy of tokens, no checks and no sampling rules. What that costs is not measured here.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.kernels.batch import PagedBatch
from engine.kernels.gpu.ops import TritonOps
from engine.kernels.weights import Quantization
from engine.layers.rotary import Rope
from engine.models.config import ExpertsConfig, ModelConfig
from engine.models.decoder import Decoder
from engine.models.traits import Traits
from engine.runner.graphs import Layers, layers_for

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A model to run."""

    name: str
    config: ModelConfig
    traits: Traits

    @property
    def product_weights(self) -> int:
        """Weights that a token is multiplied with, those of all of its experts among them."""
        own, many = self.config, self.config.experts
        attention = own.hidden * own.head_dim * 2 * (own.heads + own.kv_heads)
        feed = 3 * own.hidden * (own.inner if many is None else many.inner * many.chosen)
        routers = 0 if many is None else own.hidden * many.count
        return own.layers * (attention + feed + routers) + own.vocabulary * own.hidden

    def step_bytes(self, requests: int, context: float) -> float:
        """What a decoding step reads at least: weights once, and the keys and values of every request."""
        own, many, idle = self.config, self.config.experts, 0.0
        if many is not None:
            used = many.count * (1 - (1 - many.chosen / many.count) ** requests)
            idle = own.layers * 3 * own.hidden * many.inner * (used - many.chosen)
        kept = own.layers * 2 * own.kv_heads * own.head_dim * requests * context
        return 2 * (self.product_weights + idle + kept)

    def prefill_operations(self, prompts: int, length: int) -> float:
        """Of products and attention; logits are wanted of the last tokens alone."""
        own = self.config
        head = own.vocabulary * own.hidden
        attention = 4 * own.layers * own.heads * own.head_dim * length * (length + 1) / 2
        return 2 * (self.product_weights - head) * prompts * length + prompts * (attention + 2 * head)


def _config(**sizes: Any) -> ModelConfig:
    layers, head_dim, theta = sizes["layers"], sizes["head_dim"], sizes.pop("theta")
    fixed = {
        "ropes": (Rope(head_dim, theta),) * layers,
        "windows": (None,) * layers,
        "scale": head_dim**-0.5,
        "score_cap": None,
        "logit_cap": None,
        "activation": "silu",
        "context_length": 8192,
        "tied": False,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": torch.bfloat16,
        "stop_tokens": (),
    }
    return ModelConfig(**fixed | sizes)


LLAMA = Shape(
    "Llama-3-8B",
    _config(
        architecture="LlamaForCausalLM", vocabulary=128256, hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8,
        head_dim=128, rms_eps=1e-5, theta=500000.0,
    ),
    Traits(),
)  # fmt: skip
QWEN = Shape(
    "Qwen3-30B-A3B",
    _config(
        architecture="Qwen3MoeForCausalLM", vocabulary=151936, hidden=2048, inner=6144, layers=48, heads=32, kv_heads=4,
        head_dim=128, rms_eps=1e-6, theta=1000000.0, experts=ExpertsConfig(128, 8, 768, True, (True,) * 48),
    ),
    Traits(head_norm="head"),
)  # fmt: skip


def shortened(shape: Shape, layers: int) -> Shape:
    """Return a model of fewer layers."""
    own = shape.config
    many = None if own.experts is None else replace(own.experts, layers=own.experts.layers[:layers])
    fewer = replace(own, layers=layers, ropes=own.ropes[:layers], windows=own.windows[:layers], experts=many)
    return replace(shape, config=fewer)


class Dummy:
    """Gives tensors of any name: weights of no meaning and of a usual magnitude."""

    quantization: Quantization = "none"

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype

    def has(self, name: str) -> bool:
        """Say that experts lie together."""
        return name.endswith(".experts.gate_up_proj")

    def take(self, name: str, *shape: int) -> Tensor:
        """As `engine.layers.linear.TensorSource`."""
        made = torch.empty(shape, device=self._device, dtype=self._dtype)
        return made.fill_(1) if "norm" in name else made.normal_(0, 0.02)

    def weight(self, name: str, out: int, width: int) -> Tensor:
        """As `engine.layers.linear.TensorSource`."""
        return self.take(f"{name}.weight", out, width)


class Running:
    """Our decoder with its cache."""

    def __init__(self, shape: Shape, ops: TritonOps, device: str, dtype: torch.dtype, tokens: int) -> None:
        """Make weights up, and room for so many tokens of all requests."""
        source = Dummy(device, dtype)
        self.shape = shape
        self.model = Decoder(shape.config, ops, source, shape.traits)
        own = shape.config
        size = (own.layers, tokens // BLOCK, BLOCK, 2, own.kv_heads, own.head_dim)
        self.caches = torch.zeros(size, device=device, dtype=dtype).unbind(0)
        self.layers: Layers = layers_for(self.model, self.caches, BLOCK)

    def batch(self, tables: Tensor, starts: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, PagedBatch]:
        """Lay requests that have `starts` tokens and bring `counts` more: positions and the batch."""
        device = tables.device
        rows = np.repeat(np.arange(len(counts)), counts)
        positions = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, counts, strict=True)])
        where = torch.from_numpy(positions).to(device)
        slots = tables[torch.from_numpy(rows).to(device), where // BLOCK] * BLOCK + where % BLOCK
        held = np.array(counts, np.int64)
        return where, PagedBatch(slots, tables, held, np.array(starts, np.int64) + held, BLOCK)

    def prefill(self, tables: Tensor, length: int) -> Tensor:
        """Compute prompts of so many tokens in one step, and return their next tokens."""
        prompts, device = len(tables), tables.device
        tokens = torch.randint(0, self.shape.config.vocabulary, (prompts * length,), device=device)
        positions, batch = self.batch(tables, [0] * prompts, [length] * prompts)
        hidden = self.layers(tokens, positions, (batch,))
        last = torch.arange(1, prompts + 1, device=device) * length - 1
        return self.model.logits(hidden[last]).argmax(-1)

    def decoder(self, tables: Tensor, tokens: Tensor, length: int) -> Callable[[], Tensor]:
        """Give a function that decodes one step for requests of `length` tokens, and the next one when called again."""
        count, device = len(tables), tables.device
        at = torch.full((count,), length, device=device)
        rows, ones = torch.arange(count, device=device), np.ones(count, np.int64)
        lengths = np.full(count, length, np.int64)

        def step() -> Tensor:
            nonlocal tokens, lengths
            slots = tables[rows, at // BLOCK] * BLOCK + at % BLOCK
            lengths = lengths + 1
            hidden = self.layers(tokens, at, (PagedBatch(slots, tables, ones, lengths, BLOCK),))
            tokens = self.model.logits(hidden).argmax(-1)
            at.add_(1)
            return tokens

        return step


def tables_for(requests: int, tokens: int, device: str) -> Tensor:
    """Give every request blocks for so many tokens, scattered."""
    each = -(-tokens // BLOCK)
    order = torch.randperm(requests * each, generator=torch.Generator().manual_seed(5))
    return order.view(requests, each).to(device)


def step_seconds(step: Callable[[], Tensor], steps: int) -> float:
    """Time steps that follow one another without waiting for the host."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def idle_share(step: Callable[[], Tensor], steps: int) -> float:
    """Return the share of time in which no kernel runs, by profiler; between a step's own kernels too."""
    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return idle_within(spans)


def idle_within(spans: Sequence[tuple[float, float]]) -> float:
    """Return the share of the whole in which nothing is under way, of (begin, end) in order of their beginnings."""
    end, idle = spans[0][1], 0.0
    for begin, over in spans:
        idle += max(0.0, begin - end)
        end = max(end, over)
    return idle / (end - spans[0][0])


def theirs(shape: Shape) -> Any:
    """Build the model of `transformers` with dummy weights."""
    import transformers  # noqa: PLC0415  slow, and only here

    own = shape.config
    sizes = {
        "vocab_size": own.vocabulary,
        "hidden_size": own.hidden,
        "intermediate_size": own.inner,
        "num_hidden_layers": own.layers,
        "num_attention_heads": own.heads,
        "num_key_value_heads": own.kv_heads,
        "head_dim": own.head_dim,
        "rms_norm_eps": own.rms_eps,
        "max_position_embeddings": own.context_length,
        "pad_token_id": None,
        "eos_token_id": None,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    }
    if own.experts is not None:
        sizes |= {
            "num_experts": own.experts.count,
            "num_experts_per_tok": own.experts.chosen,
            "moe_intermediate_size": own.experts.inner,
            "norm_topk_prob": own.experts.renormalised,
        }
        config: Any = transformers.Qwen3MoeConfig(**sizes)
    else:
        config = transformers.LlamaConfig(**sizes)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    finally:
        torch.set_default_dtype(kept)


def their_seconds(model: Any, requests: int, length: int, steps: int) -> tuple[float, float]:
    """Return seconds of the prompt and of a decoding step, of `generate`."""
    ids = torch.randint(0, model.config.vocab_size, (requests, length), device="cuda")
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def spent(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=count, **given)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.inference_mode():
        spent(2)
        first = spent(1)
        return first, (spent(1 + steps) - first) / steps


def forget() -> None:
    """Give memory back."""
    gc.collect()
    torch.cuda.empty_cache()
