"""What an adapter's adapter_config.json says, as the library `peft` writes it. Without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import CheckpointError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_ALLOWED: Final[Mapping[str, tuple[object, ...]]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "trainable_token_indices": (None, []),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "init_lora_weights": (None, False, "gaussian", "eva", "orthogonal", "mica", True),
}
"""What a field may be. Anything else asks for more than two small weights beside a projection for all tokens, or, like
PiSSA, OLoRA, CorDA and LoftQ, for weights of the model that are others than its checkpoint's."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """By what the product of an adapter's small weights is scaled."""

    alpha: float
    patterns: tuple[tuple[str, float], ...]
    """Of projections whose name ends with what a pattern says, the first that fits."""
    rooted: bool
    """Whether it is by the rank's root. Kalajdzievski 2023, arXiv 2312.03732."""

    def scale(self, projection: str, rank: int) -> float:
        """Give the factor for a projection."""
        fits = (alpha for pattern, alpha in self.patterns if re.fullmatch(rf"(.*\.)?({pattern})", projection))
        return next(fits, self.alpha) / (rank**0.5 if self.rooted else rank)


def read_lora_config(folder: Path) -> LoraConfig:
    """Read what an adapter's folder says of it, and see that its weights are there.

    Raises:
        CheckpointError: It is none, its file is damaged, or asks for what only other kinds of adapters have.
    """
    path = folder / CONFIG
    try:
        raw: Any = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(path, "missing: this folder is no adapter as `peft` writes them") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(path, "is not a JSON object")
    for field, allowed in _ALLOWED.items():
        if raw.get(field) not in allowed:
            raise CheckpointError(path, f"`{field}` is {raw.get(field)!r}, and only {allowed[-1]!r} can be served")
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(folder / WEIGHTS, "missing: save the adapter as safetensors")
    try:
        patterns = tuple((pattern, float(alpha)) for pattern, alpha in (raw.get("alpha_pattern") or {}).items())
        for pattern, _ in patterns:
            re.compile(pattern)
        return LoraConfig(float(raw["lora_alpha"]), patterns, bool(raw.get("use_rslora")))
    except KeyError as error:
        raise CheckpointError(path, f"lacks the key {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise CheckpointError(path, f"`lora_alpha` or `alpha_pattern` is no scale: {error}") from error
