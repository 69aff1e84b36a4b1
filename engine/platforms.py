"""What this machine computes on: device, memory, number format, and the matching set of ops."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, Protocol

import torch

from engine.compiled import library
from engine.errors import PlatformUnavailable
from engine.plugins import PLATFORMS, leave_out, plugins

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

NO_KERNELS: Final = "our own kernels cannot be used, PyTorch's serve"
"""How the line begins that says so."""

_FALLBACKS: Final = ("float16", "bfloat16", "float32")

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")

_SERVED: Final = ("cuda", "xpu")
"""Kinds of accelerator that torch may report and we serve; ROCm calls itself cuda."""

_SMALL_MODEL: Final = 100_000_000
"""Parameters below which a CPU runs a half-precision checkpoint in float32: caches hold it, and rounding is spared."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The device an engine process runs on."""

    kind: str
    """`cuda`, `rocm`, `xpu`, `cpu`, or what another package calls its own."""
    device: torch.device
    name: str
    ops: str
    """The name under which `engine.kernels.ops.load_ops` knows this platform's implementation."""
    dtypes: tuple[str, ...] = tuple(DTYPES)
    """Number formats that it computes in."""
    memory: Callable[[torch.device], int] | None = None
    """How its free memory is asked for, where torch does not know."""
    steady_ops: str = ""
    """The name of ops with which a request's numbers do not depend on what is computed beside it; empty if there are
    none."""

    def steady(self) -> Platform:
        """Give it with ops with which a request's tokens do not depend on the batch.

        Raises:
            PlatformUnavailable: It has none.
        """
        if not self.steady_ops:
            mend = "install the extra 'gpu' where it is CUDA or ROCm, or set engine.batch_invariant to false"
            raise PlatformUnavailable(str(self.device), f"its ops are not batch-invariant: {mend}")
        return replace(self, ops=self.steady_ops)

    def free_memory(self) -> int:
        """Return the bytes that could be allocated now, other processes considered."""
        if self.memory is not None:
            return self.memory(self.device)
        if self.device.type == "cpu":
            return _free_host_memory()
        free, _total = torch.get_device_module(self.device).mem_get_info(self.device)
        return int(free)

    def describe(self) -> str:
        """Return one line for the log: what was chosen and how much memory is free."""
        gib = self.free_memory() / 2**30
        return f"{self.name} ({self.kind}, {self.device}), {gib:.1f} GiB free, ops: {self.ops}"


class PlatformFactory(Protocol):
    """What a package offers as an entry point of `ostinato.platforms`."""

    def __call__(self, device: str) -> Platform | None:
        """Describe the device of this name, or for `auto` the best of its own.

        None when the name is not one of its own, or none of its devices is present. One that it knows and cannot use
        it raises `PlatformUnavailable` for.
        """


def detect(device: str = "auto") -> Platform:
    """Choose the device: the best one present for `auto`, else the one named (`cpu`, `cuda:1`, `xpu`).

    What other packages bring is asked first. For `auto` an accelerator that cannot be used is told in one line, and
    the processor serves.

    Raises:
        PlatformUnavailable: The named device is not present.
    """
    found = _out_of_tree(device)
    if found is not None:
        return found
    if device == "auto":
        return _best()
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


def _out_of_tree(device: str) -> Platform | None:
    """Ask the platforms of other packages, by name; one that breaks is told in one line and left out.

    Raises:
        PlatformUnavailable: One of them knows the named device, and cannot use it.
    """
    for name, factory in plugins(PLATFORMS):
        try:
            found = factory(device)
        except PlatformUnavailable as error:
            if device != "auto":
                raise
            leave_out(f"{name!r} of {PLATFORMS}", error)
            continue
        except Exception as error:  # noqa: BLE001  whatever somebody else's package does
            leave_out(f"{name!r} of {PLATFORMS}", error)
            continue
        if isinstance(found, Platform):
            return found
        if found is not None:
            leave_out(f"{name!r} of {PLATFORMS}", f"it gave {type(found).__name__}, no Platform")
    return None


def _best() -> Platform:
    """Choose the best device that torch knows; an accelerator that fails is told in one line."""
    try:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is not None and accelerator.type in _SERVED:
            return _accelerator(accelerator)
    except (RuntimeError, PlatformUnavailable) as error:  # drivers fail in many ways, torch tells all of them so
        log.warning("the accelerator cannot be used, the processor serves: %s", " ".join(str(error).split()))
    return _cpu()


def choose_dtype(platform: Platform, setting: Dtype, checkpoint: torch.dtype, parameters: int) -> torch.dtype:
    """Return the number format to compute in.

    `auto` keeps the checkpoint's, except that a CPU runs models under 100 M parameters in float32, and that one which
    the platform has not becomes the first of float16, bfloat16 and float32 that it has.

    Raises:
        PlatformUnavailable: The platform does not compute in the format asked for.
    """
    if setting != "auto":
        if setting not in platform.dtypes:
            known = ", ".join(platform.dtypes)
            raise PlatformUnavailable(platform.kind, f"it does not compute in {setting}: give dtype auto, or {known}")
        return DTYPES[setting]
    if platform.kind == "cpu" and parameters < _SMALL_MODEL:
        return torch.float32
    served = [DTYPES[name] for name in _FALLBACKS if name in platform.dtypes]
    return checkpoint if checkpoint in served or not served else served[0]


def _cpu() -> Platform:
    """Describe this machine's processor."""
    name = f"CPU with {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    ops = _cpu_ops()
    return Platform(kind="cpu", device=torch.device("cpu"), name=name, ops=ops, steady_ops=ops)


def _cpu_ops() -> str:
    """Prefer our kernels; where they cannot be built PyTorch's do the same, with packed weights if it has those."""
    try:
        library()
    except PlatformUnavailable as error:
        log.warning("%s: %s", NO_KERNELS, error.problem)
        return "cpu" if torch.backends.mkldnn.is_available() else "gathered"  # type: ignore[no-untyped-call]
    return "native"


def _accelerator(device: torch.device) -> Platform:
    """Describe an accelerator that is known to be present."""
    index = device.index if device.index is not None else torch.accelerator.current_device_index()
    device = torch.device(device.type, index)
    if device.type == "xpu":
        return Platform(kind="xpu", device=device, name=torch.xpu.get_device_name(index), ops="gathered")
    if device.type == "cuda":
        kind = "rocm" if torch.version.hip else "cuda"
        name = torch.cuda.get_device_name(index)
        ops, steady = _cuda_ops()
        return Platform(kind=kind, device=device, name=name, ops=ops, dtypes=_cuda_dtypes(), steady_ops=steady)
    raise PlatformUnavailable(str(device), "only CUDA, ROCm, XPU and CPU are supported")


def _cuda_ops() -> tuple[str, str]:
    """Prefer our kernels; without Triton, which is an extra, PyTorch's own calls do the same, but not steadily."""
    return ("triton", "triton-steady") if find_spec("triton") is not None else ("gathered", "")


def _cuda_dtypes() -> tuple[str, ...]:
    """Leave bfloat16 out where the device would only emulate it (before Ampere)."""
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return tuple(name for name in DTYPES if native or name != "bfloat16")


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
