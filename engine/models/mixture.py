"""Experts as checkpoints have them: a tensor for each, or one for all, as `transformers` 5 keeps them."""

from __future__ import annotations

from engine.kernels.mixing import route
from engine.kernels.ops import Ops
from engine.kernels.weights import Weight, joined, weight_in
from engine.layers.experts import Experts
from engine.layers.linear import TensorSource, load_linear
from engine.models.config import ModelConfig
from engine.models.traits import ExpertNames


def load_experts(config: ModelConfig, ops: Ops, source: TensorSource, name: str, names: ExpertNames) -> Experts:
    """Load the experts of a block whose tensors begin with `name`.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    shape = config.experts
    assert shape is not None
    apart = not source.has(f"{name}.experts.gate_up_proj")
    first, second = (_apart if apart else _together)(source, name, names, (shape.count, shape.inner, config.hidden))
    mix = ops.experts(
        [weight_in(source.quantization, weight) for weight in first],
        [weight_in(source.quantization, weight) for weight in second],
        config.activation,
    )
    router = load_linear(ops, source, f"{name}.gate", (shape.count, config.hidden), False)
    chosen_by = route if ops.rows is None or ops.rows.route is None else ops.rows.route
    return Experts(router, chosen_by, mix, shape.chosen, renormalised=shape.renormalised)


def _apart(
    source: TensorSource, name: str, names: ExpertNames, sizes: tuple[int, int, int]
) -> tuple[list[Weight], list[Weight]]:
    count, inner, hidden = sizes

    def take(expert: int, part: str, out: int, width: int) -> Weight:
        return source.weight(f"{name}.experts.{expert}.{part}", out, width)

    first = [
        joined((take(expert, names.gate, inner, hidden), take(expert, names.up, inner, hidden)))
        for expert in range(count)
    ]
    return first, [take(expert, names.down, hidden, inner) for expert in range(count)]


def _together(
    source: TensorSource, name: str, names: ExpertNames, sizes: tuple[int, int, int]
) -> tuple[list[Weight], list[Weight]]:
    count, inner, hidden = sizes
    first = source.take(f"{name}.experts.gate_up_proj", count, 2 * inner, hidden)
    second = source.take(f"{name}.experts.down_proj", count, hidden, inner)
    return list(first.unbind()), list(second.unbind())
