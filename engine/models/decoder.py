"""The decoder that all families share, and one of its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from engine.kernels.adapters import LowRank, Routed
from engine.kernels.batch import PagedBatch
from engine.kernels.ops import Ops
from engine.kernels.weights import weight_in
from engine.kernels.whole import Turn, Whole, WholeDecoder, WholeLayer
from engine.layers.attention import Attention, HeadNorm, HeadShape, StepContext, WidthNorm
from engine.layers.embedding import Embedding, Head
from engine.layers.experts import Experts
from engine.layers.feed_forward import FeedForward
from engine.layers.linear import TensorSource, load_gated, load_linear, load_stacked
from engine.layers.norm import NoNorm, Norm, RmsNorm
from engine.layers.projection import GatedProjection, Projection
from engine.layers.rotary import Rotary
from engine.models.config import ModelConfig
from engine.models.mixture import load_experts
from engine.models.traits import Traits

Place = tuple[Projection | GatedProjection, int, int, int]
"""Where a checkpoint's projection is in a product of ours: (product, first output, outputs, inputs)."""


class Block:
    """Attention and feed-forward, each added to the residual, with norms where the family has them."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource, layer: int, traits: Traits) -> None:
        """Load the block of a layer."""
        name = f"model.layers.{layer}"
        self._config, self._traits = config, traits
        self.attention = _load_attention(config, ops, source, f"{name}.self_attn", traits)
        experts = config.experts
        self.feed_forward: FeedForward | Experts
        if experts is not None and experts.layers[layer]:
            self.feed_forward = load_experts(config, ops, source, f"{name}.{traits.experts.block}", traits.experts)
        else:
            self.feed_forward = _load_feed_forward(config, ops, source, f"{name}.mlp", traits)

        def norm(part: str | None) -> Norm:
            if part is None:
                return NoNorm()
            return RmsNorm(ops, source, f"{name}.{part}", config.hidden, config.rms_eps, offset=traits.norm_offset)

        self.before = norm(traits.norms.before)
        self.behind_attention = norm(traits.norms.behind_attention)
        self.between = norm(traits.norms.between)
        self.behind = norm(traits.norms.behind)

    def places(self) -> Iterator[tuple[str, Place]]:
        """Name the projections as its checkpoint does, within the layer, and say where they are; no experts."""
        traits, shape, attention = self._traits, self._config, self.attention
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        yield from _placed("self_attn", traits.projections.qkv, attention.qkv, (query, key, key), shape.hidden)
        yield from _placed("self_attn", ("o_proj",), attention.out, (shape.hidden,), query)
        if isinstance(self.feed_forward, FeedForward):
            gate_up, down, inner = self.feed_forward.gate_up, self.feed_forward.down, shape.inner
            yield from _placed("mlp", traits.projections.gate_up, gate_up, (inner, inner), shape.hidden)
            yield from _placed("mlp", ("down_proj",), down, (shape.hidden,), inner)

    def parts(self, turn: Turn, window: int | None, group: int) -> WholeLayer | None:
        """Give what it has, for ops that compute all layers at once; they have no experts."""
        attention, feed_forward = self.attention, self.feed_forward
        if isinstance(feed_forward, Experts):
            return None
        norm = attention.head_norm
        products = (attention.qkv, attention.out, feed_forward.gate_up, feed_forward.down)
        return WholeLayer(
            qkv=attention.qkv.product,
            out=attention.out.product,
            gate_up=feed_forward.gate_up.product,
            down=feed_forward.down.product,
            before=self.before.weight,
            behind_attention=self.behind_attention.weight,
            between=self.between.weight,
            behind=self.behind.weight,
            head_norm=None if norm is None else norm.weight,
            wide_norm=isinstance(norm, WidthNorm),
            turn=turn,
            window=window,
            group=group,
            added=(products[0].added, products[1].added, products[2].added, products[3].added),
        )

    def __call__(self, x: Tensor, residual: Tensor | None, step: StepContext, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Return this block's contribution and the residual it is to be added to, each [tokens, hidden]."""
        normal, residual = (self.before(x), x) if residual is None else self.before.add(x, residual)
        attended = self.behind_attention(self.attention(normal, step, cache))
        normal, residual = self.between.add(attended, residual)
        return self.behind(self.feed_forward(normal, step.routed)), residual


class Trunk:
    """Tokens to hidden states over a paged KV cache. Stateless: the cache is passed in."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource, traits: Traits) -> None:
        self.config = config
        self.quantization = source.quantization
        """How its products with weights are computed."""
        self.ops = ops
        self._embedding = Embedding(ops, source, (config.vocabulary, config.hidden), traits.embedding_scale)
        self._blocks = tuple(Block(config, ops, source, i, traits) for i in range(config.layers))
        self._norm = RmsNorm(ops, source, "model.norm", config.hidden, config.rms_eps, offset=traits.norm_offset)
        groups = [of for of, _ in config.groups.places]
        kinds = list(zip(groups, config.ropes, config.windows, strict=True))
        self._kinds = tuple(dict.fromkeys(kinds))
        self._kind_of = tuple(self._kinds.index(kind) for kind in kinds)
        self._rotaries = {
            rope: Rotary(rope, config.context_length, self.device) for rope in dict.fromkeys(config.ropes)
        }
        self._whole = self._as_whole(ops)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in, and that of its KV cache."""
        return self._embedding.weight.dtype

    @property
    def steady(self) -> bool:
        """Whether every step is made of the same operations, whatever its positions."""
        return all(rotary.turn is not None for rotary in self._rotaries.values())

    @property
    def places(self) -> Mapping[str, Place]:
        """Where the projections are that adapters may add to, by what the checkpoint calls them."""
        return {
            f"model.layers.{layer}.{name}": place
            for layer, block in enumerate(self._blocks)
            for name, place in block.places()
        }

    def adapt(self, adapters: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> None:
        """Take adapters on, for good: of each the small weights (down [rank, in], up [out, rank]) by what the
        checkpoint calls the projection that they are beside, see `places`. `Routed` counts them as they are here.
        """
        parts: dict[Projection | GatedProjection, list[list[LowRank]]] = {}
        for name, (product, first, _, _) in self.places.items():
            own = parts.setdefault(product, [[] for _ in adapters])
            for at, adapter in enumerate(adapters):
                if name in adapter:
                    own[at].append(LowRank(*adapter[name], first))
        for product, several in parts.items():
            product.added = self.ops.adapted(several, product.outputs) if any(several) else None
        self._whole = self._as_whole(self.ops)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        batches: Sequence[PagedBatch],
        caches: Sequence[Tensor],
        routed: Routed | None = None,
    ) -> Tensor:
        """Compute int64 [tokens] at int64 positions [tokens], writing each layer's keys and values to its cache.

        Args:
            tokens: What to compute.
            positions: Where in their requests they are.
            batches: For each of `ModelConfig.groups`, how the tokens lie in the caches of its layers.
            caches: One per layer.
            routed: The tokens that have an adapter, of those that were taken on.

        Returns:
            Hidden states after the last norm, [tokens, hidden].
        """
        x = self._embedding(tokens)
        if self._whole is not None and (done := self._whole(x, positions, batches, caches, routed)) is not None:
            return done
        steps = self._steps(positions, batches, x.dtype, routed)
        residual: Tensor | None = None
        for block, kind, cache in zip(self._blocks, self._kind_of, caches, strict=True):
            x, residual = block(x, residual, steps[kind], cache)
        return self._norm(x) if residual is None else self._norm.add(x, residual)[0]

    def _as_whole(self, ops: Ops) -> Whole | None:
        """Let the ops compute all layers at once, if they can."""
        config = self.config
        turns = {rope: rotary.turn for rope, rotary in self._rotaries.items()}
        if any(turn is None for turn in turns.values()):
            return None
        parts = [
            block.parts(turn, window, group)
            for block, rope, window, (group, _) in zip(
                self._blocks, config.ropes, config.windows, config.groups.places, strict=True
            )
            if (turn := turns[rope]) is not None
        ]
        layers = tuple(part for part in parts if part is not None)
        if len(layers) < len(parts):
            return None
        return ops.whole(
            WholeDecoder(
                layers=layers,
                last_norm=self._norm.weight,
                heads=config.heads,
                kv_heads=config.kv_heads,
                head_dim=config.head_dim,
                inner=config.inner,
                eps=config.rms_eps,
                scale=config.scale,
                cap=config.score_cap,
                activation=config.activation,
            )
        )

    def _steps(
        self, positions: Tensor, batches: Sequence[PagedBatch], dtype: torch.dtype, routed: Routed | None
    ) -> list[StepContext]:
        """Prepare a step for every kind of layer."""
        config = self.config
        angles = {rope: rotary.angles(positions, dtype) for rope, rotary in self._rotaries.items()}
        attend = {
            (group, window): self.ops.attention(batches[group], config.scale, window, config.score_cap)
            for group, window in dict.fromkeys((group, window) for group, _, window in self._kinds)
        }
        return [
            StepContext(batches[group].slots, *angles[rope], attend[group, window], routed)
            for group, rope, window in self._kinds
        ]


class Decoder(Trunk):
    """A causal language model: a trunk with a head."""

    def __init__(self, config: ModelConfig, ops: Ops, source: TensorSource, traits: Traits) -> None:
        super().__init__(config, ops, source, traits)
        weight = self._embedding.weight
        if not config.tied:
            weight = source.take("lm_head.weight", config.vocabulary, config.hidden)
        self._head = Head(ops, weight_in(source.quantization, weight), config.logit_cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> float32 [rows, vocabulary]."""
        return self._head(hidden)


def _load_attention(config: ModelConfig, ops: Ops, source: TensorSource, name: str, traits: Traits) -> Attention:
    shape = HeadShape(config.hidden, config.heads, config.kv_heads, config.head_dim)
    widths = (shape.q_width, shape.kv_width, shape.kv_width)
    parts = _parts(name, traits.projections.qkv, widths)
    qkv = Projection(load_stacked(ops, source, parts, shape.hidden, traits.qkv_bias), sum(widths))
    out = load_linear(ops, source, f"{name}.o_proj", (shape.hidden, shape.q_width), traits.out_bias)
    head_norm: HeadNorm | WidthNorm | None = None
    if traits.head_norm == "head":
        head_norm = HeadNorm(ops, source, name, shape, config.rms_eps, offset=traits.norm_offset)
    elif traits.head_norm == "width":
        head_norm = WidthNorm(ops, source, name, shape, config.rms_eps)
    return Attention(ops, shape, qkv, Projection(out, shape.hidden), head_norm)


def _load_feed_forward(config: ModelConfig, ops: Ops, source: TensorSource, name: str, traits: Traits) -> FeedForward:
    parts = _parts(name, traits.projections.gate_up, (config.inner, config.inner))
    gate_up = load_gated(ops, source, parts, config.hidden, traits.mlp_bias, config.activation)
    down = load_linear(ops, source, f"{name}.down_proj", (config.hidden, config.inner), traits.mlp_bias)
    return FeedForward(GatedProjection(gate_up, 2 * config.inner), Projection(down, config.hidden))


def _parts(block: str, names: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    """Give what a checkpoint calls the parts of a product, and their widths: a name for each, or one for all."""
    widths = widths if len(names) > 1 else (sum(widths),)
    return [(f"{block}.{name}", width) for name, width in zip(names, widths, strict=True)]


def _placed(
    block: str, names: Sequence[str], product: Projection | GatedProjection, widths: Sequence[int], inputs: int
) -> Iterator[tuple[str, Place]]:
    """Say where the parts of a product are."""
    first = 0
    for name, width in _parts(block, names, widths):
        yield name, (product, first, width, inputs)
        first += width
