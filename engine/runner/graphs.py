"""How a step's layers are run: launch by launch, or as a captured graph where every request brings one token.

At a few hundred launches of some microseconds each the host is what a decoding step waits for, unless the launches are
recorded once and replayed as one. A graph does the same to the same memory each time, so a step is copied into buffers
that never move; rows that fill up a graph's size stand for nobody: they have no length, and store nothing.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.batch import Laid, PagedBatch
from engine.models.decoder import Trunk

log = logging.getLogger(__name__)

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
"""Record what a function launches, and give what does it again, and returns the same tensor with new numbers."""

_SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Requests that there are graphs for; a step takes the next larger one."""

_SHORTEST: Final = 1024
"""Tokens that a graph is captured for at least; then twice as many, and so on."""


class Layers(Protocol):
    """Runs all layers for a step."""

    def __call__(
        self, tokens: Tensor, positions: Tensor, batches: Sequence[PagedBatch], routed: Routed | None = None
    ) -> Tensor:
        """As `Trunk.forward`. What is returned is overwritten by the next step."""


class EagerLayers:
    """Launch by launch."""

    def __init__(self, model: Trunk, caches: Sequence[Tensor]) -> None:
        self._model = model
        self._caches = caches

    def __call__(
        self, tokens: Tensor, positions: Tensor, batches: Sequence[PagedBatch], routed: Routed | None = None
    ) -> Tensor:
        """As `Layers` says."""
        return self._model.forward(tokens, positions, batches, self._caches, routed)


class CapturedLayers:
    """Replays decoding steps, and leaves others to somebody else.

    Graphs are captured when they are first needed, one for each size and magnitude of length, and share their memory.
    """

    def __init__(self, eager: EagerLayers, model: Trunk, block_size: int, capture: Capture) -> None:
        """Allocate the buffers for a model's longest context."""
        config, most = model.config, _SIZES[-1]
        device, groups = model.device, config.groups.count
        self._eager = eager
        self._capture: Capture | None = capture
        """None once one could not be captured."""
        self._block_size = block_size
        self._longest = config.context_length
        self._graphs: dict[tuple[int, int], Replay] = {}

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self._tokens, self._positions, self._lengths = zeros(most), zeros(most), zeros(most)
        self._slots = zeros(groups, most)
        self._tables = zeros(groups, most, -(-self._longest // block_size))

    def __call__(
        self, tokens: Tensor, positions: Tensor, batches: Sequence[PagedBatch], routed: Routed | None = None
    ) -> Tensor:
        """As `Layers` says; a step with adapters, whose tokens lie otherwise each time, is launched one by one."""
        count, longest = len(tokens), int(batches[0].lengths.max())
        fits = batches[0].singles == count <= _SIZES[-1] and longest <= self._longest
        if not fits or routed is not None or self._capture is None:
            return self._eager(tokens, positions, batches, routed)
        size = _SIZES[bisect.bisect_left(_SIZES, count)]
        reach = max(_SHORTEST, 1 << (longest - 1).bit_length())
        self._fill(size, tokens, positions, batches)
        graph = self._graphs.get((size, reach))
        if graph is None:
            log.info("capturing a step of %d requests of up to %d tokens", size, reach)
            try:
                graph = self._graphs[size, reach] = self._capture(self._step(size, reach))
            except RuntimeError as error:  # no memory for it among others: slower is better than not at all
                log.warning("no more graphs, steps are launched one by one: a capture failed: %s", error)
                self._capture = None
                self._graphs.clear()
                return self._eager(tokens, positions, batches, None)
        return graph()[:count]

    def _fill(self, size: int, tokens: Tensor, positions: Tensor, batches: Sequence[PagedBatch]) -> None:
        count = len(tokens)
        self._tokens[:count].copy_(tokens)
        self._positions[:count].copy_(positions)
        torch.add(positions, 1, out=self._lengths[:count])
        self._lengths[count:size].zero_()
        self._slots[:, count:size].fill_(-1)
        for group, batch in enumerate(batches):
            self._slots[group, :count].copy_(batch.slots)
            self._tables[group, :count, : batch.tables.shape[1]].copy_(batch.tables)

    def _step(self, size: int, reach: int) -> Callable[[], Tensor]:
        """Give the step over the first rows of the buffers."""
        tokens, positions = self._tokens[:size], self._positions[:size]

        def compute() -> Tensor:
            laid = Laid(self._lengths[:size], reach, {})
            ones = np.ones(size, np.int64)
            batches = [
                PagedBatch(slots[:size], table[:size], ones, ones, self._block_size, {Laid: laid})
                for slots, table in zip(self._slots, self._tables, strict=True)
            ]
            return self._eager(tokens, positions, batches, None)

        return compute


class CudaCapture:
    """Captures into CUDA graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Replay:
        """As `Capture` says."""
        # kernels are compiled and libraries set up outside of the capture; the step may be done twice, it is the same
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # another thread may wait for an event meanwhile, which only this one must not do
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = compute()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def layers_for(model: Trunk, caches: Sequence[Tensor], block_size: int, *, captured: bool = True) -> Layers:
    """Choose how a model's layers are run: captured where device, ops and model allow it, if that is wanted."""
    eager = EagerLayers(model, caches)
    if captured and model.device.type == "cuda" and model.ops.capturable and model.steady:
        return CapturedLayers(eager, model, block_size, CudaCapture())
    return eager
