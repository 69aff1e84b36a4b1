"""What decides how an engine rounds, beside the weights and the request: named, so that records can be compared.

Two processes with the same profile compute the same bits. Two with different ones may: a profile names what could make
a difference, not what does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch

from engine import compiled
from engine.kernels.weights import Quantization
from engine.platforms import Platform

_CPUINFO: Final = Path("/proc/cpuinfo")
_LIBRARIES: Final = ("numpy", "llguidance")
"""Beside torch: the one has a part in drawing, the other says what a grammar leaves."""
_HEEDED: Final = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
)
"""Variables of the environment by which libraries choose their kernels."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What decides the bits, by name."""

    parts: Mapping[str, str]

    @property
    def id(self) -> str:
        """Name all of it: the same parts, in whatever order, have the same name, and no others."""
        digest = blake2b(digest_size=8)
        for pair in sorted(self.parts.items()):
            for text in pair:
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return f"k{digest.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Computing:
    """In what numbers a model is computed."""

    dtype: torch.dtype
    quantization: Quantization
    block_size: int
    """Tokens per KV block."""


def profile(platform: Platform, computing: Computing, environment: Mapping[str, str] = os.environ) -> Profile:
    """Say what decides the bits of a model that is computed in this process, on this platform."""
    parts = {
        "ops": platform.ops,
        "numbers": str(computing.dtype).removeprefix("torch."),
        "quantization": computing.quantization,
        "layout": f"blocks of {computing.block_size}",
        "torch": f"{torch.__version__} {_short(torch.__config__.show())}",
        **_versions(_LIBRARIES),
        **{name: environment[name] for name in _HEEDED if name in environment},
    }
    return Profile(parts | (_processor(platform) if platform.device.type == "cpu" else _accelerator(platform)))


def _processor(platform: Platform) -> dict[str, str]:
    """Say what a processor's kernels go by. Libraries choose theirs by the model, too: its caches decide how a sum is
    parted.
    """
    parts = {
        "processor": _model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        # torch parts some sums among its threads
        "threads": str(torch.get_num_threads()),
    }
    return parts | {"kernels": compiled.profile()} if platform.ops == "native" else parts


def _accelerator(platform: Platform) -> dict[str, str]:
    parts = {
        "device": platform.name,
        "driver": str(torch.version.cuda or torch.version.hip or ""),
        "matmul": torch.get_float32_matmul_precision(),
    }
    if platform.kind == "cuda":
        parts["capability"] = ".".join(map(str, torch.cuda.get_device_capability(platform.device)))
    return parts | _versions(("triton",) if platform.ops.startswith("triton") else ())


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _model() -> str:
    """Name the processor: what it calls itself, and what it can."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    known: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        known.setdefault(name.strip(), value.strip())
    # those of Arm call it so, and have parts in place of a model
    named = known.get("model name") or " ".join(known.get(name, "") for name in ("CPU implementer", "CPU part"))
    can = known.get("flags") or known.get("Features", "")
    return f"{named} {_short(' '.join(sorted(can.split())))}"


def _short(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
