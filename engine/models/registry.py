"""From a checkpoint folder to a model that is ready to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

import torch

from engine.errors import NotEnoughMemory, UnsupportedModel
from engine.kernels.ops import load_ops
from engine.kernels.weights import Quantization
from engine.models.config import ModelConfig, read_model_config
from engine.models.decoder import Decoder
from engine.models.encoders import EncoderConfig
from engine.models.families import FAMILIES
from engine.models.traits import Traits
from engine.models.weights import Checkpoint, Dummy, LoadFormat
from engine.platforms import Dtype, Platform, choose_dtype
from engine.progress import UseTqdm

_LIGHTER: Final = (
    "take dtype bfloat16 where it was float32, quantization int8, a smaller model, or free memory on the device"
)

_ROTARY_BUFFER: Final = "rotary_emb.inv_freq"
"""Old checkpoints store the rotation's frequencies, which we compute."""


class Family(Protocol):
    """What is particular about the decoders of an architecture."""

    def __call__(self, config: ModelConfig) -> Traits:
        """Return it."""


def find_family(architecture: str) -> Family:
    """Import and return what is particular about an architecture, by the name that config.json uses.

    Raises:
        UnsupportedModel: We have none.
    """
    if architecture not in FAMILIES:
        raise UnsupportedModel(architecture, FAMILIES)
    module, name = FAMILIES[architecture]
    return cast(Family, getattr(import_module(module), name))


def load_model(
    folder: Path,
    platform: Platform,
    dtype: Dtype = "auto",
    *,
    context_length: int | None = None,
    load_format: LoadFormat = "auto",
    quantization: Quantization = "none",
    use_tqdm: UseTqdm = False,
) -> Decoder:
    """Load the checkpoint in `folder` onto the platform's device, to serve the model's own positions or fewer.

    Raises:
        CheckpointError: A file is missing, damaged, or not what the architecture needs.
        UnsupportedModel: The architecture is not one of ours.
        NotEnoughMemory: The weights do not fit.
    """
    config = read_model_config(folder)
    traits = find_family(config.architecture)(config)
    if context_length is not None:
        config = replace(config, context_length=min(context_length, config.context_length))
    chosen = choose_dtype(platform, dtype, config.dtype, config.parameters)
    ops = load_ops(platform.ops)
    if load_format == "dummy":
        with fitting(weighing(config, config.parameters, chosen, quantization), platform):
            return Decoder(config, ops, Dummy(chosen, platform.device, quantization), traits)
    source = Checkpoint(folder, chosen, platform.device, quantization)
    size = weighing(config, source.size() // chosen.itemsize, chosen, quantization)
    if source.scheme is not None:
        # accelerators multiply with it as it is, processors with what it means
        kept = platform.ops.startswith("triton")
        size = source.stored() if kept else weighing(config, config.parameters, chosen, quantization)
    with fitting(size, platform), source.loading(use_tqdm):
        model = Decoder(config, ops, source, traits)
    source.refuse_leftovers((_ROTARY_BUFFER, "lm_head.weight") if config.tied else (_ROTARY_BUFFER,))
    return model


def weighing(config: ModelConfig | EncoderConfig, numbers: int, dtype: torch.dtype, quantization: Quantization) -> int:
    """Return the bytes that so many numbers of weights take: in 8 bits, but for the vectors of tokens."""
    if quantization == "none":
        return numbers * dtype.itemsize
    return numbers + config.vocabulary * config.hidden * dtype.itemsize


@contextmanager
def fitting(needed: int, platform: Platform) -> Iterator[None]:
    """Load weights of so many bytes.

    Raises:
        NotEnoughMemory: The platform has less, or turns out to have.
    """
    available = platform.free_memory()
    if available < needed:
        raise NotEnoughMemory("the model's weights", needed, available, _LIGHTER)
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory("the model's weights", needed, None, _LIGHTER) from error
