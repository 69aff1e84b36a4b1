"""What a product with a weight is to whoever calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Activation = Literal["silu", "gelu_tanh"]

Linear = Callable[[Tensor], Tensor]
"""[tokens, in] -> [tokens, out]."""
