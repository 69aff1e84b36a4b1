"""How a step's layers are run: launch by launch, or as a captured graph where every request brings one token.

At a few hundred launches of some microseconds each the host is what a decoding step waits for, unless the launches are
recorded once and replayed as one. A graph does the same to the same memory each time, so a step is copied into buffers
that never move; rows that fill up a graph's size stand for nobody: they have no length, and store nothing.

Graphs are captured before the first request comes, as far as time and memory that are set aside for it go: to capture
one takes tenths of a second, which every request under way would wait.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.kernels.adapters import Routed
from engine.kernels.batch import Laid, PagedBatch
from engine.models.decoder import Trunk

log = logging.getLogger(__name__)

_MOST_S: Final = 30.0
"""Seconds that graphs are captured for before the first request; what is left comes when it is needed."""

_SHARE: Final = 0.25
"""Part of the memory that is free before the first graph that all of them may fill: steps of prompts need room, too."""

Replay = Callable[[], Tensor]


class Capture(Protocol):
    """Captures graphs."""

    def __call__(self, compute: Callable[[], Tensor], /) -> Replay:
        """Record what a function launches; give what does it again, and returns the same tensor with new numbers."""

    def free(self) -> int:
        """Return the bytes of the device's memory that are free."""


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

    def prepare(self, requests: int, longest: int) -> None:
        """Do before the first step what can be done for decoding up to so many requests, none longer."""


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

    def prepare(self, requests: int, longest: int) -> None:
        """As `Layers` says: nothing."""


class CapturedLayers:
    """Replays decoding steps, and leaves others to somebody else.

    There is a graph for each size and magnitude of length, and they share their memory. One that is not there is
    captured when it is needed; where there is no room for it a larger one does.
    """

    def __init__(
        self,
        eager: EagerLayers,
        model: Trunk,
        block_size: int,
        capture: Capture,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Allocate the buffers for a model's longest context; `now` gives seconds."""
        config, most = model.config, _SIZES[-1]
        device, groups = model.device, config.groups.count
        self._eager = eager
        self._capture: Capture | None = capture
        """None once there is no room for another one."""
        self._free = capture.free
        self._least_free = capture.free() * (1 - _SHARE)
        self._block_size = block_size
        self._longest = config.context_length
        self._now = now
        self._graphs: dict[tuple[int, int], Replay] = {}

        def filled(number: int, *shape: int) -> Tensor:
            return torch.full(shape, number, dtype=torch.int64, device=device)

        self._tokens, self._positions, self._lengths = filled(0, most), filled(0, most), filled(0, most)
        self._slots = filled(-1, groups, most)  # nobody stores anything
        self._tables = filled(0, groups, most, -(-self._longest // block_size))

    def prepare(self, requests: int, longest: int) -> None:
        """As `Layers` says: capture what such steps will need; tell how many graphs, how long it took and how much.

        Short ones come first, since every request is short before it is long, and of those the largest, whose memory
        the others use again.
        """
        began, before, asked = self._now(), self._free(), list(self._likely(requests, longest))
        self._least_free = before * (1 - _SHARE)  # kernels and libraries have theirs by now
        for size, reach in asked:
            if (size, reach) in self._graphs:
                continue
            if self._now() - began > _MOST_S or self._graph(size, reach) is None:
                break
        log.info(
            "captured %d of %d graphs of decoding steps in %.1f s, in %.0f MiB",
            *(len(self._graphs), len(asked), self._now() - began, max(0, before - self._free()) / 2**20),
        )

    def _likely(self, requests: int, longest: int) -> Iterator[tuple[int, int]]:
        sizes = _SIZES[: bisect.bisect_left(_SIZES, requests) + 1]
        reach, last = _SHORTEST, _magnitude(min(longest, self._longest))
        while reach <= last:
            yield from ((size, reach) for size in reversed(sizes))
            reach *= 2

    def __call__(
        self, tokens: Tensor, positions: Tensor, batches: Sequence[PagedBatch], routed: Routed | None = None
    ) -> Tensor:
        """As `Layers` says; a step with adapters, whose tokens lie otherwise each time, is launched one by one."""
        count, longest = len(tokens), int(batches[0].lengths.max())
        fits = batches[0].singles == count <= _SIZES[-1] and longest <= self._longest
        if not fits or routed is not None:
            return self._eager(tokens, positions, batches, routed)
        size, reach = _SIZES[bisect.bisect_left(_SIZES, count)], _magnitude(longest)
        graph = self._graphs.get((size, reach))
        if graph is None and self._capture is not None:
            log.info("capturing a step of %d requests of up to %d tokens", size, reach)
            graph = self._graph(size, reach)
        if graph is None:
            larger = min((key for key in self._graphs if key[0] >= size and key[1] >= reach), default=None)
            if larger is None:
                return self._eager(tokens, positions, batches, routed)
            size, graph = larger[0], self._graphs[larger]
        self._fill(size, tokens, positions, batches)
        return graph()[:count]

    def _graph(self, size: int, reach: int) -> Replay | None:
        """Capture a step, if there is room."""
        capture, why = self._capture, "they have all the memory that is theirs"
        # a step of nobody is captured: it is done before, too
        self._lengths.zero_()
        self._slots.fill_(-1)
        if capture is not None and self._free() >= self._least_free:
            try:
                graph = self._graphs[size, reach] = capture(self._step(size, reach))
            except RuntimeError as error:  # no memory for it among others: slower is better than not at all
                why = f"a capture failed: {error}"
            else:
                return graph
        if capture is not None:
            log.warning("no more graphs after %d, other steps are launched one by one: %s", len(self._graphs), why)
            self._capture = None
        return None

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
        # one for all: cuBLAS keeps tens of MiB for every stream that it was ever called on, and graphs that share a
        # pool have to be captured on the same one
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def free(self) -> int:
        """As `Capture` says; what the allocator holds for nobody counts as free."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])

    def __call__(self, compute: Callable[[], Tensor], /) -> Replay:
        """As `Capture` says."""
        # kernels are compiled and libraries set up outside of the capture; the step may be done twice, it is the same
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # another thread may wait for an event meanwhile, which only this one must not do
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
            out = compute()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def _magnitude(longest: int) -> int:
    """Say up to which length there is a graph for requests that are so long."""
    return max(_SHORTEST, 1 << (longest - 1).bit_length())


def layers_for(model: Trunk, caches: Sequence[Tensor], block_size: int, *, captured: bool = True) -> Layers:
    """Choose how a model's layers are run: captured where device, ops and model allow it, if that is wanted."""
    eager = EagerLayers(model, caches)
    if captured and model.device.type == "cuda" and model.ops.capturable and model.steady:
        return CapturedLayers(eager, model, block_size, CudaCapture())
    return eager
