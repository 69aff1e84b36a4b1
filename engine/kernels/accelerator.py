"""The path of NVIDIA and AMD accelerators: Triton for norms and decoding, PyTorch's fused calls for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from engine.kernels.attention import decode
from engine.kernels.batch import PagedBatch
from engine.kernels.gathered import GatheredOps
from engine.kernels.pointwise import rms_norm


class TritonOps(GatheredOps):
    """Promises and shapes: see `engine.kernels.ops.Ops`."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def attention(
        self, batch: PagedBatch, scale: float, window: int | None = None, cap: float | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        singles = batch.singles
        if not singles:
            return super().attention(batch, scale, window, cap)
        tables = batch.tables[:singles]
        lengths = torch.from_numpy(batch.lengths[:singles]).to(tables.device)

        def attend_singles(query: Tensor, cache: Tensor) -> Tensor:
            return decode(query[:singles], cache, tables, lengths, scale, window, cap)

        if singles == len(batch.counts):
            return attend_singles
        others = replace(
            batch,
            tables=batch.tables[singles:],
            counts=batch.counts[singles:],
            lengths=batch.lengths[singles:],
            shared=batch.shared.setdefault("others", {}),
        )
        attend_others = super().attention(others, scale, window, cap)

        def attend(query: Tensor, cache: Tensor) -> Tensor:
            return torch.cat((attend_singles(query, cache), attend_others(query[singles:], cache)))

        return attend
