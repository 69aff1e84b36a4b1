"""What an accelerator does before the first request: its kernels are compiled, and its decoding steps captured.

Triton compiles a kernel when it is first launched, in seconds where nothing of it is on disk. Steps of made-up requests
launch all that steps of real ones will, in the sizes between which kernels are parted otherwise; then what they wrote
is cleared.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from engine.kernels.batch import PagedBatch, on_device
from engine.models.decoder import Decoder
from engine.runner.draws import draw_for, unsound_for
from engine.runner.graphs import Layers
from engine.runner.kv_cache import KvCache
from engine.sampling import Choices

log = logging.getLogger(__name__)

_STEPS: Final = ((1, 1), (1, 300), *((count, count) for count in (16, 32, 64, 128, 300, 600, 1200)))
"""(tokens, length of their request) of such steps; a single token is decoded, the later one over several spans."""


@torch.inference_mode()
def warm_up(
    model: Decoder, layers: Layers, cache: KvCache, requests: int, now: Callable[[], float] = time.perf_counter
) -> None:
    """Launch everything once, and capture graphs for up to so many requests; tell how long it took."""
    began = now()
    room = cache.blocks // cache.groups * cache.block_size
    longest = min(room, model.config.context_length)
    fitting = [(count, length) for count, length in _STEPS if length <= longest]
    for count, length in fitting:
        _step(model, layers, cache, count, length)
    written = max((length for _, length in fitting), default=0)
    cache.clear(on_device(np.arange(written), model.device))
    log.info("kernels are compiled and launched after %.1f s", now() - began)
    layers.prepare(requests, longest)


def _step(model: Decoder, layers: Layers, cache: KvCache, count: int, length: int) -> None:
    """Read the last `count` tokens of a request in the first blocks, and draw for some of them."""
    size = cache.block_size
    where = on_device(np.arange(length - count, length), model.device)
    table = on_device(np.arange(-(-length // size))[None], model.device)
    # one dictionary of what is prepared, as batches of a step have it; layers of all groups use the same blocks here
    batch = PagedBatch(where, table, np.array([count]), np.array([length]), size)
    hidden = layers(where % model.config.vocabulary, where, (batch,) * cache.groups)
    logits = model.logits(hidden[-64:])
    rows = len(logits)
    shares, whole = np.full(rows, 0.7, np.float32), np.full(rows, 5, np.int64)
    choices = Choices(temperature=shares, top_k=whole, top_p=shares, min_p=shares, seed=whole, index=whole)
    draw_for(model.ops)(logits, choices)
    unsound_for(model.ops)(logits)
