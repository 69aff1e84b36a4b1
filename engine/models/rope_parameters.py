"""What a config.json says about rotation, as a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from engine.layers.rotary import Rope
from engine.layers.stretching import DynamicNtk, Linear, Llama3, LongRope, Stretch, Yarn
from engine.models.dialects import Dialect, Raw

_DEFAULT_THETA: Final = 10_000.0
"""What `transformers` assumes where an old checkpoint does not say."""


def parse_rope(raw: Raw, rope: Raw, head_dim: int, dialect: Dialect) -> Rope:
    """Read the rotation of a layer from its parameters and, where those are silent, from the whole config.json.

    Raises:
        ValueError: It is of a kind that we do not have, or that the family has not.
        KeyError: A parameter is missing.
    """
    part = float(rope.get("partial_rotary_factor") or 1.0)
    if part != 1.0 and not dialect.partial:
        raise ValueError(f"partial_rotary_factor {part:g}: in this family whole heads turn")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if dialect.partial and kind in {"su", "yarn"}:
        kind = "longrope"  # names from before Phi-3's way of stretching had one
    width = int(head_dim * part)
    theta = float(rope.get("rope_theta") or _DEFAULT_THETA)
    if kind == "default":
        return Rope(width, theta)
    if kind not in _READERS:
        raise ValueError(f"rope_type {kind!r}; supported are default, {', '.join(_READERS)}")
    stretch = _READERS[kind](raw, rope)
    if isinstance(stretch, LongRope) and not len(stretch.short) == len(stretch.long) == width // 2:
        raise ValueError(f"short_factor and long_factor must have {width // 2} entries each")
    return Rope(width, theta, stretch)


def _linear(raw: Raw, rope: Raw) -> Linear:
    return Linear(float(rope["factor"]))


def _dynamic(raw: Raw, rope: Raw) -> DynamicNtk:
    return DynamicNtk(float(rope["factor"]), int(raw["max_position_embeddings"]))


def _llama3(raw: Raw, rope: Raw) -> Llama3:
    return Llama3(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_positions=_original(raw, rope),
    )


def _yarn(raw: Raw, rope: Raw) -> Yarn:
    original = _original(raw, rope)
    factor = float(rope.get("factor") or raw["max_position_embeddings"] / original)
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        numerator, denominator = rope.get("mscale"), rope.get("mscale_all_dim")
        if numerator and denominator:
            magnitude = _sharpened(factor, numerator) / _sharpened(factor, denominator)
        else:
            magnitude = _sharpened(factor, 1.0)
    return Yarn(
        factor=factor,
        original_positions=original,
        magnitude=float(magnitude),
        fast_turns=float(rope.get("beta_fast") or 32),
        slow_turns=float(rope.get("beta_slow") or 1),
        whole=bool(rope.get("truncate", True)),
    )


def _longrope(raw: Raw, rope: Raw) -> LongRope:
    original = _original(raw, rope)
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        factor = float(rope.get("factor") or raw["max_position_embeddings"] / original)
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRope(
        short=tuple(float(factor) for factor in rope["short_factor"]),
        long=tuple(float(factor) for factor in rope["long_factor"]),
        original_positions=original,
        magnitude=float(magnitude),
    )


_READERS: Final[dict[str, Callable[[Raw, Raw], Stretch | DynamicNtk]]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}


def _original(raw: Raw, rope: Raw) -> int:
    """Return the positions before stretching; what stands outside the rotation's own parameters comes first."""
    found: Any = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return int(found or raw["max_position_embeddings"])


def _sharpened(factor: float, scale: float) -> float:
    """Return what Yarn multiplies cosines and sines by."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
