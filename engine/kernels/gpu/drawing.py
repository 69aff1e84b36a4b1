"""A Triton kernel that draws tokens: temperature, min-p, top-k and top-p, a program for each row, no sort.

The rules and the noise are those of `engine.sampling`: the largest of logit / temperature + Gumbel noise, which is a
function of (seed, output position, token id) alone, and ties at a border stay in. The borders of top-k and top-p are
found by halving the range of float32 numbers, in at most 32 passes over the row. Reduction order: a row in blocks from
first to last, so a token depends on its own row alone. Sums are taken in another order than `engine.sampling` does, so
a token whose chance lies within rounding of the border of top-p may be in here and out there.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.chances import Chances

_BLOCK: Final = 4096
"""Logits that are looked at together."""


@triton.jit
def _number(key):
    """The float32 that stands at this place among all, counted in int32."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _place(number):
    """Undo `_number`."""
    bits = number.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _scaled(row_ptr, o_token, n_tokens, temperature):
    return tl.load(row_ptr + o_token, mask=o_token < n_tokens, other=float("-inf")) / temperature


@triton.jit
def _least_of_best(row_ptr, n_tokens, temperature, most, top_k, BLOCK: tl.constexpr):
    """The k-th largest."""
    low, high = _place(tl.full([], float("-inf"), tl.float32)), _place(most)  # at least k are no smaller than `low`
    while low < high:
        middle = (low & high) + ((low ^ high) >> 1)
        middle += (low ^ high) & 1  # rounded up
        b_count = tl.zeros([BLOCK], tl.int32)
        for i_token in range(0, n_tokens, BLOCK):
            b_x = _scaled(row_ptr, i_token + tl.arange(0, BLOCK), n_tokens, temperature)
            b_count += (b_x >= _number(middle)).to(tl.int32)
        count = tl.sum(b_count, axis=0)
        high = tl.where(count < top_k, middle - 1, high)
        low = tl.where(count < top_k, low, middle)
        high = tl.where(count == top_k, low, high)  # no number between would let in others
    return _number(low)


@triton.jit
def _least_of_mass(row_ptr, n_tokens, temperature, most, least, top_p, BLOCK: tl.constexpr):
    """The smallest number above which there is less than a share of the mass from `least` on."""
    b_mass = tl.zeros([BLOCK], tl.float32)
    for i_token in range(0, n_tokens, BLOCK):
        b_x = _scaled(row_ptr, i_token + tl.arange(0, BLOCK), n_tokens, temperature)
        b_mass += tl.where(b_x >= least, tl.exp(b_x - most), 0.0)
    wanted = tl.sum(b_mass, axis=0) * top_p
    low, high = _place(least), _place(most)
    while low < high:
        middle = (low & high) + ((low ^ high) >> 1)
        b_mass = tl.zeros([BLOCK], tl.float32)
        for i_token in range(0, n_tokens, BLOCK):
            b_x = _scaled(row_ptr, i_token + tl.arange(0, BLOCK), n_tokens, temperature)
            b_mass += tl.where(b_x > _number(middle), tl.exp(b_x - most), 0.0)
        enough = tl.sum(b_mass, axis=0) < wanted
        low = tl.where(enough, low, middle + 1)
        high = tl.where(enough, middle, high)
    return _number(low)


@triton.jit
def _gumbel(bits):
    """32 random bits to a Gumbel variable, as `engine.sampling` does."""
    uniform = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    # log1p: a logarithm of one minus a small number has lost what is small
    near = uniform * (1 + uniform * (0.5 + uniform * (0.33333333 + uniform * (0.25 + uniform * 0.2))))
    return -tl.log(tl.where(uniform < 0.05, near, -tl.log(1 - uniform)))


@triton.jit
def _draw_kernel(
    logits_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seed_ptr, index_ptr, out_ptr, row_stride, n_tokens,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + i_row * row_stride
    temperature = tl.load(temperature_ptr + i_row)
    greedy = temperature <= 0
    temperature = tl.where(greedy, 1.0, temperature)
    QUADS: tl.constexpr = BLOCK // 4
    least = tl.full([], float("-inf"), tl.float32)
    if not greedy:
        b_most = tl.full([BLOCK], float("-inf"), tl.float32)
        for i_token in range(0, n_tokens, BLOCK):
            b_most = tl.maximum(b_most, _scaled(row_ptr, i_token + tl.arange(0, BLOCK), n_tokens, temperature))
        most = tl.max(b_most, axis=0)
        min_p, top_k, top_p = tl.load(min_p_ptr + i_row), tl.load(top_k_ptr + i_row), tl.load(top_p_ptr + i_row)
        if min_p > 0:
            least = most + tl.log(min_p)
        if (top_k > 0) & (top_k < n_tokens):
            least = tl.maximum(least, _least_of_best(row_ptr, n_tokens, temperature, most, top_k, BLOCK))
        if top_p < 1:
            least = _least_of_mass(row_ptr, n_tokens, temperature, most, least, top_p, BLOCK)

    # four tokens share a counter
    seed, index = tl.load(seed_ptr + i_row), tl.load(index_ptr + i_row).to(tl.int32)
    best, token = tl.full([], float("-inf"), tl.float32), tl.full([], 0, tl.int32)
    for i_quad in range(0, tl.cdiv(n_tokens, 4), QUADS):
        o_quad = i_quad + tl.arange(0, QUADS)
        b_zero = o_quad * 0
        bits = tl.philox(seed, o_quad, b_zero + index, b_zero, b_zero)
        b_best = tl.full([QUADS], float("-inf"), tl.float32)
        b_token = b_zero + 0x7FFFFFFF
        for i_word in tl.static_range(4):
            b_x = _scaled(row_ptr, o_quad * 4 + i_word, n_tokens, temperature)
            b_noisy = tl.where(b_x >= least, b_x + tl.where(greedy, 0.0, _gumbel(bits[i_word])), float("-inf"))
            b_token = tl.where(b_noisy > b_best, o_quad * 4 + i_word, b_token)
            b_best = tl.maximum(b_best, b_noisy)
        block_best = tl.max(b_best, axis=0)
        first = tl.min(tl.where(b_best == block_best, b_token, 0x7FFFFFFF), axis=0)
        token = tl.where(block_best > best, first, token)
        best = tl.maximum(best, block_best)
    tl.store(out_ptr + i_row, token.to(tl.int64))


def draw(logits: Tensor, chances: Chances) -> Tensor:
    """Choose one token per row: float32 [rows, vocabulary] -> int64 [rows]; rows must be contiguous."""
    rows, vocabulary = logits.shape
    out = torch.empty((rows,), dtype=torch.int64, device=logits.device)
    _draw_kernel[(rows,)](
        logits,
        *chances,
        *(out, logits.stride(0), vocabulary),
        BLOCK=max(16, min(_BLOCK, triton.next_power_of_2(vocabulary))),
        num_warps=8,
    )
    return out
