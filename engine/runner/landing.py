"""How numbers come back from a device: copied as soon as they are made, and waited for only where they are read.

To wait for a number is to wait for all that the device was given before it. So a step copies what the host has to know
into memory that the device writes by itself, notes where in the device's work that is done, and goes on; whoever wants
to read it waits for that place, and not for what was launched since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.decoder import Trunk

Numbers = Mapping[str, npt.NDArray[Any]]


class Landed(Protocol):
    """Numbers on their way."""

    def wait(self) -> None:
        """Wait until they are there, in any thread."""

    def read(self) -> Numbers:
        """Give them; waits too."""


Landing = Callable[[Mapping[str, Tensor]], Landed]
"""Sends tensors on their way. Nothing waits."""


class Here:
    """Of a processor, or of a device that the host waits for at every step."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def wait(self) -> None:
        """See `Landed`."""

    def read(self) -> Numbers:
        """See `Landed`."""
        return {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}


class Pinned:
    """Of CUDA and ROCm: pinned memory, and an event behind the copies."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._there = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            for name, tensor in tensors.items()
        }
        # whoever waits sleeps: the core is others' meanwhile
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> None:
        """See `Landed`."""
        self._event.synchronize()

    def read(self) -> Numbers:
        """See `Landed`."""
        self.wait()
        return {name: tensor.numpy() for name, tensor in self._there.items()}


def landing_for(model: Trunk) -> Landing:
    """Choose how results come back: apart from the steps, where nothing else in a step waits for the device.

    See `engine.kernels.chances.RowKernels`.
    """
    rows = model.ops.rows
    return Pinned if model.device.type == "cuda" and rows is not None and rows.run_ahead else Here


class _Nothing:
    def wait(self) -> None:
        """See `Landed`."""

    def read(self) -> Numbers:
        """See `Landed`."""
        return {"tokens": np.empty(0, np.int64)}


NOTHING: Final = _Nothing()
"""Of a step in which there was nothing to compute."""
