"""One step of attention along the keys of a request: what decoding and prompts share.

Dao et al. 2022, "FlashAttention", arXiv 2205.14135, for the running softmax.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from engine.kernels.gpu.products import product, sigmoid


@dataclass(frozen=True, slots=True)
class Look:
    """How attention looks at keys."""

    scale: float
    """Applied to scores."""
    window: int | None = None
    """How many keys are seen, the last ones; all if `None`."""
    cap: float | None = None
    """What scores are kept below by a tangent, if anything."""


@triton.jit
def attended(
    b_q, state, cache_ptr, table_ptr, o_place, m_place, o_dim, m_dim, m_seen, entry_stride, value_offset, scale, cap,
    BLOCK_SIZE: tl.constexpr, CAPPED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Add keys at some places to `state`: the greatest score [ROWS], the mass [ROWS], the sum of values [ROWS, DIM].

    `m_place` are those that may be read, `m_seen` [ROWS or 1, KEYS] those that a row sees.
    """
    b_most, b_mass, b_sum = state
    block = tl.load(table_ptr + o_place // BLOCK_SIZE, mask=m_place, other=0).to(tl.int64)
    slot = block * BLOCK_SIZE + o_place % BLOCK_SIZE
    entries = cache_ptr + (slot * entry_stride)[:, None] + o_dim[None, :]
    m_entry = m_place[:, None] & m_dim[None, :]
    b_key = tl.load(entries, mask=m_entry, other=0.0)  # [KEYS, DIM]
    b_value = tl.load(entries + value_offset, mask=m_entry, other=0.0)  # [KEYS, DIM]
    b_score = product(b_q, tl.trans(b_key), WIDE) * scale  # [ROWS, KEYS]
    if CAPPED:  # cap * tanh(score / cap)
        b_score = cap * (2 * sigmoid(2 * b_score / cap) - 1)
    b_score = tl.where(m_seen, b_score, float("-inf"))
    b_new = tl.maximum(b_most, tl.max(b_score, axis=1))
    b_safe = tl.where(b_new == float("-inf"), 0.0, b_new)  # nothing seen so far
    b_weight = tl.exp(b_score - b_safe[:, None])
    b_keep = tl.exp(b_most - b_safe)
    b_mass = b_mass * b_keep + tl.sum(b_weight, axis=1)
    b_sum = b_sum * b_keep[:, None] + product(b_weight.to(b_value.dtype), b_value, WIDE)
    return b_new, b_mass, b_sum


@triton.jit
def averaged(b_mass, b_sum):
    """The values' average; zeros where nothing was seen."""
    return b_sum / tl.where(b_mass > 0, b_mass, 1.0)[:, None]
