"""The models of `gpu.py`: dummy weights in the shapes of Llama-3-8B and Qwen3-30B-A3B, ours and those of transformers.

Ours are run as an engine's worker runs them (`engine.runner.model_runner`): plans in, results out, a plan launched
while the step before it is under way, tokens drawn greedily and copied to the host. Plans are made here, without a
scheduler, and no bus carries them.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from engine.kernels.gpu.ops import TritonOps
from engine.kernels.weights import Quantization
from engine.layers.rotary import Rope
from engine.models.config import ExpertsConfig, ModelConfig
from engine.models.decoder import Decoder
from engine.models.traits import Traits
from engine.runner.kv_cache import KvCache
from engine.runner.model_runner import ModelRunner
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice, StepPlan, StepResult

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
    """Our model in a worker's runner."""

    def __init__(self, shape: Shape, ops: TritonOps, device: str, dtype: torch.dtype, tokens: int) -> None:
        """Make weights up, and room for so many tokens of all requests."""
        self.shape = shape
        with torch.inference_mode():
            model = Decoder(shape.config, ops, Dummy(device, dtype), shape.traits)
        self._runner = ModelRunner(model, KvCache(model, -(-tokens // BLOCK), BLOCK), "gpu.py")
        self._n = 0

    def warm_up(self, requests: int) -> None:
        """As a worker does before its first plan."""
        self._runner.warm_up(requests)

    def _plan(self, slices: Sequence[Slice], arrivals: Sequence[Arrival] = ()) -> StepPlan:
        self._n += 1
        full = bool(arrivals)  # whoever was there before is forgotten
        return StepPlan(self._n, "gpu", 0, full, tuple(arrivals), tuple(slices), ())

    def _arrivals(self, ids: Tensor, computed: int, tokens: int) -> list[Arrival]:
        """Let requests of int64 `ids` [requests, length] come, with scattered blocks for so many tokens each."""
        each = -(-tokens // BLOCK)
        order = torch.randperm(len(ids) * each, generator=torch.Generator().manual_seed(5)).view(len(ids), each)
        return [
            Arrival(str(at), tuple(row), len(row), Sampling(), tuple(blocks), computed)
            for at, (row, blocks) in enumerate(zip(ids.tolist(), order.tolist(), strict=True))
        ]

    def prefill(self, ids: Tensor) -> list[int]:
        """Compute prompts int64 [requests, length] in one step, and return their next tokens."""
        requests, length = ids.shape
        slices = [Slice(str(at), 0, length) for at in range(requests)]
        return _tokens(self._runner.execute(self._plan(slices, self._arrivals(ids, 0, length + 1))))

    def decode(self, ids: Tensor, steps: int) -> Iterator[list[int]]:
        """Decode so many steps for requests int64 [requests, length]; all but the last of their tokens are computed.

        A step is launched before the tokens of the one before are asked for. What is in the cache is what was there.
        """
        requests, length = ids.shape
        arrivals = self._arrivals(ids, length - 1, length + steps)
        launched = deque([self._runner.launch(self._plan(_next(requests, length - 1), arrivals))])
        for at in range(length, length + steps - 1):
            launched.append(self._runner.launch(self._plan(_next(requests, at))))
            yield _tokens(launched.popleft().result())
        yield _tokens(launched.popleft().result())

    def decode_seconds(self, requests: int, length: int, steps: int) -> float:
        """Time steps that follow one another, the first few left out."""
        warm = 4
        decoding = self.decode(self._zeros(requests, length), warm + steps)
        for _ in range(warm):
            next(decoding)
        began = time.perf_counter()
        for _ in decoding:
            pass
        return (time.perf_counter() - began) / steps

    def prefill_seconds(self, requests: int, length: int) -> float:
        """Time a step of prompts until its tokens are there, the second time."""
        ids = self._zeros(requests, length)
        self.prefill(ids)
        began = time.perf_counter()
        self.prefill(ids)
        return time.perf_counter() - began

    def idle(self, requests: int, length: int, steps: int) -> tuple[float, float]:
        """Return the shares of time in which no kernel runs, by profiler: all, and what is in gaps of over 5 us.

        Kernels of a graph follow one another in gaps of a microsecond or so: longer ones are those of the host.
        """
        decoding = self.decode(self._zeros(requests, length), 4 + steps)
        for _ in range(4):
            next(decoding)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in decoding:
                pass
            torch.cuda.synchronize()
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        return idle_within(spans), idle_within(spans, least=5.0)

    def _zeros(self, requests: int, length: int) -> Tensor:
        return torch.zeros((requests, length), dtype=torch.int64)


def _next(requests: int, at: int) -> list[Slice]:
    """One token of each request."""
    return [Slice(str(request), at, 1) for request in range(requests)]


def _tokens(result: StepResult) -> list[int]:
    assert not result.errors, result.errors
    return [token for _, token in result.tokens]


def idle_within(spans: Sequence[tuple[float, float]], least: float = 0.0) -> float:
    """Return the share of the whole in which nothing is under way, of (begin, end) in order of their beginnings.

    Gaps shorter than `least` are not counted.
    """
    end, idle = spans[0][1], 0.0
    for begin, over in spans:
        idle += begin - end if begin - end > least else 0.0
        end = max(end, over)
    return idle / (end - spans[0][0])


def theirs(shape: Shape, device: str) -> Any:
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
        with torch.device(device):
            return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    finally:
        torch.set_default_dtype(kept)


def their_seconds(model: Any, requests: int, length: int, steps: int) -> tuple[float, float]:
    """Return seconds of the prompt and of a decoding step, of `generate`."""
    ids = torch.randint(0, model.config.vocab_size, (requests, length), device=model.device)
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
