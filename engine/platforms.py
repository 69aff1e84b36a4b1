"""What this machine computes on: device, memory, number format, and the matching set of ops."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import torch

from engine.errors import PlatformUnavailable

Kind = Literal["cuda", "rocm", "xpu", "cpu"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")

_SERVED: Final = ("cuda", "xpu")
"""Kinds of accelerator that torch may report and we serve; ROCm calls itself cuda."""

_SMALL_MODEL: Final = 100_000_000
"""Parameters below which a CPU runs a half-precision checkpoint in float32: caches hold it, and rounding is spared."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The device an engine process runs on."""

    kind: Kind
    device: torch.device
    name: str
    ops: str
    """The name under which `engine.kernels.ops.load_ops` knows this platform's implementation."""

    def free_memory(self) -> int:
        """Return the bytes that could be allocated now, other processes considered."""
        if self.kind == "cpu":
            return _free_host_memory()
        free, _total = torch.get_device_module(self.device).mem_get_info(self.device)
        return int(free)

    def describe(self) -> str:
        """Return one line for the log: what was chosen and how much memory is free."""
        gib = self.free_memory() / 2**30
        return f"{self.name} ({self.kind}, {self.device}), {gib:.1f} GiB free, ops: {self.ops}"


def detect(device: str = "auto") -> Platform:
    """Choose the device: the best one present for `auto`, else the one named (`cpu`, `cuda:1`, `xpu`).

    Raises:
        PlatformUnavailable: The named device is not present.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return _accelerator(accelerator) if accelerator is not None and accelerator.type in _SERVED else _cpu()
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise PlatformUnavailable(device, "not the name of a device") from error
    if wanted.type == "cpu":
        return _cpu()
    present = torch.accelerator.current_accelerator(check_available=True)
    if present is None or present.type != wanted.type or (wanted.index or 0) >= torch.accelerator.device_count():
        raise PlatformUnavailable(device, "not present in this machine or not supported by this build of torch")
    return _accelerator(wanted)


def choose_dtype(platform: Platform, setting: Dtype, checkpoint: torch.dtype, parameters: int) -> torch.dtype:
    """Return the number format to compute in.

    `auto` keeps the checkpoint's, except that a CPU runs models under 100 M parameters in float32.
    """
    if setting != "auto":
        return DTYPES[setting]
    if platform.kind == "cpu" and parameters < _SMALL_MODEL:
        return torch.float32
    return checkpoint


def _cpu() -> Platform:
    """Describe this machine's processor."""
    name = f"CPU with {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    packs = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return Platform(kind="cpu", device=torch.device("cpu"), name=name, ops="cpu" if packs else "gathered")


def _accelerator(device: torch.device) -> Platform:
    """Describe an accelerator that is known to be present."""
    index = device.index if device.index is not None else torch.accelerator.current_device_index()
    device = torch.device(device.type, index)
    if device.type == "xpu":
        return Platform(kind="xpu", device=device, name=torch.xpu.get_device_name(index), ops="gathered")
    if device.type == "cuda":
        kind: Kind = "rocm" if torch.version.hip else "cuda"
        return Platform(kind=kind, device=device, name=torch.cuda.get_device_name(index), ops=_cuda_ops())
    raise PlatformUnavailable(str(device), "only CUDA, ROCm, XPU and CPU are supported")


def _cuda_ops() -> str:
    """Prefer our kernels; without Triton, which is an extra, PyTorch's own calls do the same."""
    return "triton" if find_spec("triton") is not None else "gathered"


def _free_host_memory() -> int:
    """Return the bytes that the kernel would give without swapping, within the limit of our control group."""
    if not _MEMINFO.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.exists() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(most) - int(used.read_text(encoding="ascii")))
    return max(0, free)
