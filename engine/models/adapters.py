"""Adapters (LoRA) as the library `peft` writes them: a folder with adapter_config.json and adapter_model.safetensors.

Hu et al. 2021, "LoRA", arXiv 2106.09685.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import CheckpointError
from engine.models.decoder import Place, Trunk
from engine.models.lora_config import WEIGHTS, LoraConfig, read_lora_config
from engine.models.weights import find_checkpoint

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""By what a checkpoint calls a projection, the small weights beside it: down [rank, in], and up [out, rank], scaled."""

_NAME: Final = re.compile(r"base_model\.model\.(?P<projection>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_EVEN: Final = 2
"""Ranks are filled up to a multiple of this with zeros: kernels take numbers of 16 bits in pairs."""


def read_adapter(path_or_id: str, model: Trunk) -> Adapter:
    """Read the adapter in a folder, or of a hub id, for a model; its weights are in the model's number format.

    Raises:
        CheckpointError: It is not there or damaged, asks for what only other kinds of adapters have, or is for a model
            of other shapes.
    """
    folder = find_checkpoint(path_or_id)
    config = read_lora_config(folder)
    small, places = _weights(folder), model.places
    unknown = sorted(name for name in small if name not in places)
    if unknown:
        raise CheckpointError(folder / WEIGHTS, f"{_some(unknown)}: the model has no such projections to adapt")
    if not small:
        raise CheckpointError(folder / WEIGHTS, "it has no weights")
    return {name: _scaled(folder, config, name, pair, places[name], model) for name, pair in sorted(small.items())}


def _weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Read the small weights by projection and side."""
    path = folder / WEIGHTS
    found: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for called in file.keys():  # noqa: SIM118
                named = _NAME.fullmatch(called)
                if named is None:
                    raise CheckpointError(path, f"the tensor {called!r} is none of a low-rank adapter of projections")
                found.setdefault(named["projection"], {})[named["side"]] = file.get_tensor(called)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"it cannot be read: {error}") from error
    return found


def _scaled(
    folder: Path, config: LoraConfig, name: str, pair: Mapping[str, Tensor], place: Place, model: Trunk
) -> tuple[Tensor, Tensor]:
    """Put the scale into the second of two weights, and see that they fit the projection."""
    _, _, outputs, inputs = place
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None:
        raise CheckpointError(folder / WEIGHTS, f"{name} lacks its lora_{'A' if down is None else 'B'}")
    rank = len(down)
    if down.shape != (rank, inputs) or up.shape != (outputs, rank) or not rank:
        problem = f"{name} is {list(up.shape)} by {list(down.shape)}, and the model's projection {[outputs, inputs]}"
        raise CheckpointError(folder / WEIGHTS, problem)
    filled = (0, 0, 0, -rank % _EVEN)
    down = torch.nn.functional.pad(down.float(), filled)
    up = torch.nn.functional.pad(up.float() * config.scale(name, rank), (0, -rank % _EVEN))
    device, dtype = model.device, model.dtype
    return down.to(device, dtype).contiguous(), up.to(device, dtype).contiguous()


def _some(names: list[str]) -> str:
    """Name a few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
