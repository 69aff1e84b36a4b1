"""A Triton kernel that chooses experts: a softmax over all of them, the best few, and what each of these counts.

Of equal logits the lower expert is chosen, whatever the batch: logits in bfloat16 are often equal, and the vendor's
`topk` does not say whom it takes. Reduction order: a token's logits lie in one block, so they depend on nobody else.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _route_kernel(
    logits_ptr, share_ptr, choice_ptr, row_stride, n_experts, n_chosen, RENORMALISED: tl.constexpr,
    EXPERTS: tl.constexpr,
):  # fmt: skip
    i_token = tl.program_id(0).to(tl.int64)
    o_expert = tl.arange(0, EXPERTS)
    m_expert = o_expert < n_experts
    b_logit = tl.load(logits_ptr + i_token * row_stride + o_expert, mask=m_expert, other=float("-inf")).to(tl.float32)
    b_order = tl.where(b_logit == b_logit, b_logit, float("inf"))  # there is a largest one in any case
    b_share = tl.exp(b_logit - tl.max(b_order, axis=0))
    b_share = b_share / tl.sum(b_share, axis=0)  # no number if one of the logits is none
    b_rank = o_expert * 0 - 1
    mass = 0.0
    for i_chosen in range(n_chosen):
        m_left = m_expert & (b_rank < 0)
        best = tl.max(tl.where(m_left, b_order, float("-inf")), axis=0)
        m_own = o_expert == tl.min(tl.where(m_left & (b_order == best), o_expert, EXPERTS), axis=0)
        b_rank = tl.where(m_own, i_chosen, b_rank)
        mass += tl.sum(tl.where(m_own, b_share, 0.0), axis=0)
    if RENORMALISED:
        b_share = b_share / mass
    o_out = i_token * n_chosen + b_rank
    tl.store(share_ptr + o_out, b_share, mask=b_rank >= 0)
    tl.store(choice_ptr + o_out, o_expert.to(tl.int64), mask=b_rank >= 0)


def route(logits: Tensor, chosen: int, *, renormalised: bool) -> tuple[Tensor, Tensor]:
    """As `engine.kernels.mixing.route`: the rows of `logits` must be contiguous."""
    tokens, experts = logits.shape
    shares = torch.empty((tokens, chosen), dtype=torch.float32, device=logits.device)
    choices = torch.empty((tokens, chosen), dtype=torch.int64, device=logits.device)
    _route_kernel[(tokens,)](
        *(logits, shares, choices, logits.stride(0), experts, chosen),
        RENORMALISED=renormalised,
        EXPERTS=max(16, triton.next_power_of_2(experts)),
        num_warps=1,
    )
    return shares, choices
