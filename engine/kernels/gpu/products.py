"""What kernels with matrix products share: how a product is told to be computed, and when operands are widened."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# Triton reads a kernel's parameters as pointers and scalars; its types are none that Python has

from __future__ import annotations

import os
from typing import Final

import torch
import triton
import triton.language as tl

INTERPRETED: Final = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run on the processor, in Triton's interpreter."""


def widened(dtype: torch.dtype) -> bool:
    """Say whether operands of this format have to become float32 before a product.

    Float32 itself is multiplied as it is and not in TF32; and Triton's interpreter takes the bits of bfloat16 for
    integers there.
    """
    return dtype == torch.float32 or (INTERPRETED and dtype == torch.bfloat16)


def converts_fp8(device: torch.device) -> bool:
    """Say whether a device has an instruction to open E4M3: NVIDIA's have it since Ada."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


@triton.jit
def product(b_left, b_right, WIDE: tl.constexpr):
    """[M, K] times [K, N], summed in float32."""
    if WIDE:
        return tl.dot(b_left.to(tl.float32), b_right.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(b_left, b_right)


@triton.jit
def sigmoid(b_x):
    """The sigmoid; far below 0 it is as good as 0, and is not asked for more, lest its exponential overflow."""
    return tl.sigmoid(tl.maximum(b_x, -80.0))
