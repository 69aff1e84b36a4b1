"""From a checkpoint folder to a model that is ready to compute."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

import torch

from engine.errors import UnsupportedModel
from engine.kernels.ops import Ops, load_ops
from engine.layers.linear import TensorSource
from engine.models.config import ModelConfig, read_model_config
from engine.models.decoder import Decoder
from engine.models.families import FAMILIES
from engine.models.weights import Checkpoint
from engine.platforms import Dtype, Platform, choose_dtype

_ROTARY_BUFFER: Final = "rotary_emb.inv_freq"
"""Old checkpoints store the rotation's frequencies, which we compute."""


class Family(Protocol):
    """A model class."""

    def __call__(self, config: ModelConfig, ops: Ops, source: TensorSource) -> Decoder:
        """Take the weights from `source`."""


def find_family(architecture: str) -> Family:
    """Import and return the class of an architecture, by the name that config.json uses.

    Raises:
        UnsupportedModel: We have none.
    """
    if architecture not in FAMILIES:
        raise UnsupportedModel(architecture, FAMILIES)
    module, name = FAMILIES[architecture]
    return cast(Family, getattr(import_module(module), name))


def load_model(folder: Path, platform: Platform, dtype: Dtype = "auto") -> Decoder:
    """Load the checkpoint in `folder` onto the platform's device.

    Raises:
        CheckpointError: A file is missing, damaged, or not what the architecture needs.
        UnsupportedModel: The architecture is not one of ours.
    """
    config = read_model_config(folder)
    family = find_family(config.architecture)
    chosen = choose_dtype(platform, dtype, config.dtype, config.parameters)
    source = Checkpoint(folder, chosen, platform.device)
    with torch.inference_mode():
        model = family(config, load_ops(platform.ops), source)
    source.refuse_leftovers((_ROTARY_BUFFER, "lm_head.weight") if config.tied else (_ROTARY_BUFFER,))
    return model
