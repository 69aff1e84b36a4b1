"""On which of several accelerators a thread launches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the thread's own meanwhile.

    PyTorch computes where its tensors are. Triton's launches, events, streams and graphs are the current device's,
    which is the first one in every thread that says nothing else.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
