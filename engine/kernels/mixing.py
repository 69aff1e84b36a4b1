"""Experts and adapters in plain PyTorch: what their kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.packing import Packed, dequantize
from engine.kernels.whole import Activation


def route(logits: Tensor, chosen: int, *, renormalised: bool) -> tuple[Tensor, Tensor]:
    """Choose experts by their logits [tokens, experts]: shares float32 and int64 choices, [tokens, chosen] each.

    A share is a softmax over all experts; `renormalised` ones of a token add up to one.
    """
    shares, choices = logits.float().softmax(-1).topk(chosen, dim=-1)
    return (shares / shares.sum(-1, keepdim=True) if renormalised else shares), choices


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
