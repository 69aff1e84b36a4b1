"""Experts and adapters in plain PyTorch: what their kernels are tested against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.packing import Packed, dequantize
from engine.kernels.products import Activation, Linear

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [tokens, hidden], shares float32 [tokens, chosen], choices int64 [tokens, chosen]) -> [tokens, hidden]."""


def route(logits: Tensor, chosen: int, *, renormalised: bool) -> tuple[Tensor, Tensor]:
    """Choose experts by their logits [tokens, experts]: shares float32 and int64 choices, [tokens, chosen] each.

    A share is a softmax over all experts; `renormalised` ones of a token add up to one.
    """
    shares, choices = logits.float().softmax(-1).topk(chosen, dim=-1)
    return (shares / shares.sum(-1, keepdim=True) if renormalised else shares), choices


def mixed_apart(experts: Sequence[tuple[Linear, Linear]]) -> Mix:
    """Make a mixture of products, one expert after the other: (to what is gated, float32 and back) of each.

    Reduction order: what a token's experts say is added in the order in which they were chosen, so that its numbers
    are the same bits whoever is beside it, where the products' are.
    """

    def mixed(x: Tensor, shares: Tensor, choices: Tensor) -> Tensor:
        chosen = choices.shape[1]
        order = choices.flatten().argsort(stable=True)
        counts = torch.bincount(choices.flatten(), minlength=len(experts)).tolist()
        said = torch.empty((choices.numel(), x.shape[1]), dtype=torch.float32, device=x.device)
        begin = 0
        for (gate_up, down), count in zip(experts, counts, strict=True):
            if count:
                places = order[begin : begin + count]
                said[places] = down(gate_up(x[places // chosen]))
                begin += count
        parts = said.view(len(x), chosen, -1) * shares[..., None]
        total = parts[:, 0]
        for at in range(1, chosen):
            total = total + parts[:, at]
        return total.to(x.dtype)

    return mixed


def mix(x: Tensor, gate_up: Packed, down: Packed, shares: Tensor, choices: Tensor, activation: Activation) -> Tensor:
    """As `engine.kernels.gpu.experts.mix`, one expert after the other."""
    first, second = dequantize(gate_up), dequantize(down)
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(len(first)):
        tokens, places = (choices == expert).nonzero(as_tuple=True)
        gate, up = functional.linear(x[tokens].float(), first[expert]).chunk(2, -1)
        bent = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
        said = functional.linear((bent * up).to(x.dtype).float(), second[expert])
        out.index_add_(0, tokens, said * shares[tokens, places, None].float())
    return out.to(x.dtype)


def adapt(x: Tensor, down: Tensor, up: Tensor, scales: Tensor, adapters: Tensor) -> Tensor:
    """What adapters add: [tokens, in], [adapters, rank, in], [adapters, out, rank] -> float32 [tokens, out]."""
    out = torch.zeros((len(x), up.shape[1]), dtype=torch.float32, device=x.device)
    for token, adapter in enumerate(adapters.tolist()):
        if adapter >= 0:
            out[token] = up[adapter].float() @ (down[adapter].float() @ x[token].float()) * scales[adapter]
    return out
