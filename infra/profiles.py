"""What a worker says that it computes with, and the same model loaded once more from that."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

import msgspec
import torch

from engine.models.digest import checkpoint_digest
from engine.models.weights import find_checkpoint
from engine.platforms import Platform, detect
from engine.profile import Computing, Profile, profile
from engine.runner.loading import RunnerConfig, load_runner
from engine.runner.model_runner import ModelRunner
from schemas.steps import WorkerBegan

_CONTEXTS = 2
"""As many KV blocks as so many requests of full length fill: what is generated again is generated alone."""


def began_with(config: RunnerConfig, device: str, platform: Platform, runner: ModelRunner) -> WorkerBegan:
    """Say what a worker computes with.

    Raises:
        CheckpointError: a file of the model cannot be read.
    """
    found = _profile(platform, runner)
    return WorkerBegan(
        worker=runner.worker,
        profile=found.id,
        parts=found.parts,
        checkpoint=_digest(config),
        loaded={**msgspec.structs.asdict(config), "device": device},
    )


class Reloaded(msgspec.Struct, frozen=True):
    """A model as it was loaded elsewhere, loaded here."""

    runner: ModelRunner
    profile: Profile
    checkpoint: str
    """Of the files that are here."""


def reload(loaded: dict[str, Any]) -> Reloaded:
    """Load a model as a worker says that it did; what it says of memory is left to this machine.

    Raises:
        EngineError: it cannot be loaded here.
    """
    known = {name: value for name, value in loaded.items() if name in RunnerConfig.__struct_fields__}
    own = {"blocks": None, "memory_share": None, "most_contexts": _CONTEXTS}
    config = msgspec.convert(known | own, RunnerConfig)
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) // 2))
    platform = detect(str(loaded.get("device", "auto")))
    runner = load_runner(config, platform, "replay")
    return Reloaded(runner, _profile(platform, runner), _digest(config))


def _digest(config: RunnerConfig) -> str:
    """Name what is in the files of a model and of its adapters."""
    own = checkpoint_digest(find_checkpoint(config.model, config.load_format, False), config.load_format)
    if not config.adapters:
        return own
    beside = ((name, checkpoint_digest(find_checkpoint(path))) for name, path in sorted(config.adapters.items()))
    return blake2b(repr((own, *beside)).encode(), digest_size=16).hexdigest()


def _profile(platform: Platform, runner: ModelRunner) -> Profile:
    model = runner.trunk
    return profile(platform, Computing(model.dtype, model.quantization, runner.block_size))
