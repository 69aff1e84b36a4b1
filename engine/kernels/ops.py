"""The instruction set that layers are written in, and which implementation a platform gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from torch import Tensor

from engine.errors import PlatformUnavailable
from engine.kernels.adapters import Added, LowRank
from engine.kernels.batch import PagedBatch
from engine.kernels.chances import RowKernels
from engine.kernels.mixing import Mix
from engine.kernels.products import Activation, Linear
from engine.kernels.weights import Weight
from engine.kernels.whole import Gated, Whole, WholeDecoder
from engine.plugins import OPS, names, plugins


class Products(Protocol):
    """Operations with large weights: the first dimension is always tokens. Inputs are left as they were."""

    def embedding(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Look up rows: int64 [tokens], [vocabulary, hidden] -> [tokens, hidden]."""

    def linear(self, weight: Weight, bias: Tensor | None, *, wide: bool = False) -> Linear:
        """Prepare `x @ weight.T + bias`: weight [out, in], bias [out]; the function maps [tokens, in] to [tokens, out].

        The weight may be repacked: the function holds what it needs, the caller need not keep the tensor. If it is to
        be `wide` the outputs are float32 whatever the format of `x`. With a weight in 8 bits each row of `x` is
        rounded as `engine.kernels.weights.in_8_bits` does, and sums are exact.
        """

    def gated(self, weight: Weight, bias: Tensor | None, activation: Activation) -> Gated:
        """Prepare such a product of which the first half gates the second: [tokens, in] -> [tokens, out / 2].

        Shazeer 2020, arXiv 2002.05202; `gelu_tanh` is GELU in its approximation by a tangent, arXiv 1606.08415.
        """

    def adapted(self, adapters: Sequence[Sequence[LowRank]], outputs: int) -> Added:
        """Prepare what adapters add to a product of so many outputs: for each adapter its parts, none if it adds
        nothing. A row's numbers depend on itself and its adapter alone, where those of products do. Chen et al. 2023,
        "Punica", arXiv 2310.18547, for many adapters in one batch."""

    def experts(self, gate_up: Sequence[Weight], down: Sequence[Weight], activation: Activation) -> Mix:
        """Prepare a mixture of experts: for each a weight [2 * inner, hidden], whose first half gates the second, and
        one [hidden, inner]. What a token's experts say is added in the order in which they were chosen, in float32."""


class Ops(Products, Protocol):
    """Operations on flat batches: the first dimension is always tokens. Inputs are left as they were.

    What is the same for many calls is given first and yields a function: a weight for all steps, a batch's layout
    for all layers of a step.
    """

    @property
    def capturable(self) -> bool:
        """Whether a step in which every request brings one token can be captured as a graph.

        It then copies nothing to or from the host, takes what `engine.kernels.batch.Laid` says, gives zeros for a
        request of no length, and stores nothing where a slot is below 0.
        """

    @property
    def rows(self) -> RowKernels | None:
        """What there is of kernels for rows of logits and states."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Divide by the root mean square over the last dimension, then scale.

        `weight` is [n] or [heads, n] and matches the last dimensions of `x`; it may be float32 where `x` is not.
        Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
        """

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return the norm of `x + residual`, and the sum itself: the next residual."""

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Subtract the mean, divide by the deviation, scale, shift: [tokens, n]. Ba et al. 2016, arXiv 1607.06450."""

    def rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate pairs (i, i + n/2) of the last dimension: x [tokens, heads, n]; cos and sin [tokens, 1, n].

        `sin` is negative in its first half. Su et al. 2021, "RoFormer", arXiv 2104.09864, in the half-split layout
        of the published Llama and Qwen weights.
        """

    def gelu(self, x: Tensor) -> Tensor:
        """GELU itself, not its approximation: [tokens, n]. Hendrycks and Gimpel 2016, arXiv 1606.08415."""

    def write_kv(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        """Store [tokens, kv_heads, head_dim] twice into `cache` [blocks, block_size, 2, kv_heads, head_dim]."""

    def turn_and_store(
        self, qk: Tensor, value: Tensor, angles: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor
    ) -> Tensor:
        """Turn queries and keys, store keys and values, and return the queries: [tokens, heads, head_dim].

        `qk` [tokens, heads + kv_heads, head_dim] and `value` [tokens, kv_heads, head_dim] are as `write_kv` has them,
        `angles` the cos and sin of `rotary`; where they are narrower than a head, what is beyond does not turn.
        """

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Prepare causal attention over the paged cache, grouped-query where query heads outnumber key heads.

        The function maps (query [tokens, heads, head_dim], cache) to [tokens, heads, head_dim]; the batch's own
        keys must already be in the cache. Entries outside a request's length may be anything finite. Kwon et al.
        2023, "PagedAttention", arXiv 2309.06180; Ainslie et al. 2023, "GQA", arXiv 2305.13245.

        With a `window` a token sees that many tokens, itself included; blocks that lie wholly before the windows of
        a batch are not read. Beltagy et al. 2020, "Longformer", arXiv 2004.05150. With a `cap` each score becomes
        `cap * tanh(score / cap)` after scaling. Gemma team 2024, arXiv 2408.00118.
        """

    def whole(self, decoder: WholeDecoder) -> Whole | None:
        """Prepare all layers of a decoder as one function, if there is one for such layers."""

    def attention_both_ways(
        self, counts: Sequence[int], scale: float, reach: int | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Prepare attention in which every token of a sequence sees all of it, or what is at most `reach` tokens away.

        The function maps [tokens, 3, heads, head_dim], queries, keys and values of sequences of `counts` tokens that
        follow one another, to [tokens, heads, head_dim]. Vaswani et al. 2017, arXiv 1706.03762.
        """


_IMPLEMENTATIONS: Final = {
    "reference": ("engine.kernels.reference", "ReferenceOps"),
    "gathered": ("engine.kernels.gathered", "GatheredOps"),
    "cpu": ("engine.kernels.cpu", "CpuOps"),
    "native": ("engine.kernels.native.ops", "NativeOps"),
    "triton": ("engine.kernels.gpu.ops", "TritonOps"),
    "triton-steady": ("engine.kernels.gpu.ops", "SteadyTritonOps"),
}


def load_ops(name: str) -> Ops:
    """Import and return the implementation that a `Platform` names in its `ops`: ours, or another package's.

    Raises:
        ImportError: `triton` is asked for and not installed.
        PlatformUnavailable: No package brings ops of this name, or they cannot be made.
    """
    if name in _IMPLEMENTATIONS:
        module, kind = _IMPLEMENTATIONS[name]
        return cast(Ops, getattr(import_module(module), kind)())
    for found, factory in plugins(OPS):
        if found == name:
            try:
                return cast(Ops, factory())
            except Exception as error:
                raise PlatformUnavailable(name, f"its ops cannot be made: {error}") from error
    known = ", ".join(sorted({*_IMPLEMENTATIONS, *names(OPS)}))
    raise PlatformUnavailable(name, f"there are no ops of this name that can be loaded (known are {known})")
