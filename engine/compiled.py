"""The kernels in C++: built where this machine can, kept, and loaded.

What is kept is named after all that it depends on: the sources, the compiler, and the processor. So it never has to be
thrown away, and its name tells two builds apart that may round differently.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

from engine.errors import PlatformUnavailable

NEEDED: Final = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})
"""What the processor must have, as /proc/cpuinfo names it."""

_SOURCES: Final = Path(__file__).parent / "kernels" / "native"
_CPUINFO: Final = Path("/proc/cpuinfo")
# products and sums are fused where the source says so and nowhere else: the same numbers in every function
_FLAGS: Final = ("-O3", "-march=native", "-ffp-contract=off", "-std=c++20", "-fPIC", "-pthread")
_COMPILERS: Final = ("g++", "clang++", "c++")
_BUILD_S: Final = 300
_ASKED_S: Final = 20

_POINTER, _INT, _FLOATS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p


class _Done(ctypes.c_int64):
    """What a function returns that does something."""


_FUNCTIONS: Final[dict[str, tuple[object, Sequence[object]]]] = {
    "crew_new": (_POINTER, (_INT,)),
    "crew_free": (None, (_POINTER,)),
    "product_new": (_POINTER, (_INT, _POINTER, _FLOATS, _FLOATS, _INT, _INT, _INT)),
    "product_free": (None, (_INT, _POINTER)),
    "product_run": (_Done, (_POINTER, _INT, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT)),
    "product_run_gated": (_Done, (_POINTER, _INT, _POINTER, _POINTER, _INT, _INT, _INT, _POINTER, _POINTER)),
    "trunk_new": (_POINTER, (_INT, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _FLOATS)),
    "trunk_free": (None, (_INT, _POINTER)),
    "trunk_forward": (_Done, (_POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER)),
    "attention_run": (
        _Done,
        (_POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER, _POINTER),
    ),
    "cache_write": (None, (_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER, _POINTER)),
    "unsound_run": (_INT, (_POINTER, _INT, _POINTER, _INT, _INT, _INT, _POINTER)),
    "draw_run": (_Done, (_POINTER, _FLOATS, _INT, _INT, _INT, _POINTER, _POINTER)),
}
"""Of `native.cpp`: what each returns, and what it takes."""


def library() -> ctypes.CDLL:
    """Load the kernels, having built them if they are not kept.

    Raises:
        PlatformUnavailable: This machine cannot run or build them, and why.
    """
    found = _library()
    if isinstance(found, PlatformUnavailable):
        raise PlatformUnavailable(found.platform, found.problem)
    return found


@cache
def _library() -> ctypes.CDLL | PlatformUnavailable:
    """Try once: a compiler that hangs or fails is not asked again."""
    try:
        lacking = sorted(NEEDED - _processor())
        if lacking:
            return PlatformUnavailable("native", f"the processor has no {', '.join(lacking)}")
        return _loaded(_built())
    except PlatformUnavailable as error:
        return error


def _loaded(built: Path) -> ctypes.CDLL:
    """Load what was built, and once more from its sources if what was kept is damaged."""
    try:
        found = ctypes.CDLL(str(built))
    except OSError:  # not whole, or in a place from which nothing may run
        try:
            built.unlink(missing_ok=True)
            _build(_compiler(), built)
            found = ctypes.CDLL(str(built))
        except OSError as error:
            raise PlatformUnavailable("native", f"what was built cannot be loaded: {error}") from error
    for name, (returned, taken) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = returned, taken
        if returned in {_Done, _POINTER}:
            function.errcheck = _checked
    return found


def _checked(result: _Done | int | None, function: Any, _: object) -> int:
    """Return the handle of what was made, or 0.

    Raises:
        MemoryError: The kernels found none.
    """
    value = result.value if isinstance(result, _Done) else result
    if value is None or value < 0:
        raise MemoryError(f"the native kernel {function.__name__} finds no memory: free some, or take smaller batches")
    return value


def profile() -> str:
    """Name what decides how the kernels round: two machines with the same name compute the same bits.

    Raises:
        PlatformUnavailable: As `library`.
    """
    return _built().stem


def _processor() -> frozenset[str]:
    """List what the processor can."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


@cache
def _built() -> Path:
    """Build the kernels unless they are there; return where."""
    compiler = _compiler()
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in {".h", ".cpp"})
    digest = hashlib.sha256()
    machine = (" ".join(sorted(_processor())), *platform.libc_ver())
    for part in (_version(compiler), " ".join((*compiler[1:], *_FLAGS)), *machine):
        digest.update(part.encode() + b"\0")
    for path in sources:
        digest.update(path.read_bytes() + b"\0")
    try:
        kept = _folder() / f"native-{digest.hexdigest()[:16]}.so"
        if not kept.exists():
            _build(compiler, kept)
    except OSError as error:
        raise PlatformUnavailable("native", f"the kernels cannot be kept: {error}") from error
    return kept


def _compiler() -> tuple[str, ...]:
    """Find a compiler, and what `CXX` wants said to it."""
    named = os.environ.get("CXX")
    wanted = [shlex.split(named)] if named else [[name] for name in _COMPILERS]
    found = next((words for words in wanted if words and shutil.which(words[0])), None)
    if found is None:
        what = f"CXX is {named!r}, which is no program" if named else f"neither {' nor '.join(_COMPILERS)} is there"
        raise PlatformUnavailable("native", f"there is no C++ compiler: {what}")
    return tuple(found)


def _version(compiler: Sequence[str]) -> str:
    """Ask the compiler what it is."""
    try:
        told = _run([*compiler, "--version"], _ASKED_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise PlatformUnavailable("native", f"{shlex.join(compiler)} does not run: {error}") from error
    if told.returncode != 0:
        raise PlatformUnavailable("native", f"{shlex.join(compiler)} does not run: exit {told.returncode}")
    return told.stdout


def _run(command: Sequence[str], most_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command that is asked nothing and answers in English, whatever bytes it uses."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},
        timeout=most_s,
        check=False,
    )


def _folder() -> Path:
    """Return where to keep what was built: the user's cache, or if that cannot be written one of this process alone."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        wanted = (Path(root) if root else Path.home() / ".cache") / "ostinato"
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
    except (OSError, RuntimeError):  # the latter: nobody knows where home is
        pass
    own = tempfile.mkdtemp(prefix="ostinato-native-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)


def _build(compiler: Sequence[str], kept: Path) -> None:
    """Compile beside where it is to be, then move: several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder) / kept.name
        parts = {path: made.with_name(f"{path.stem}.o") for path in _SOURCES.glob("*.cpp")}
        compiling = [[*compiler, *_FLAGS, "-c", str(path), "-o", str(part)] for path, part in parts.items()]
        with ThreadPoolExecutor(len(parts)) as pool:
            for _ in pool.map(_compiled, compiling):
                pass
        _compiled([*compiler, *_FLAGS, "-shared", *map(str, parts.values()), "-o", str(made)])
        made.replace(kept)


def _compiled(command: Sequence[str]) -> None:
    """Run a compiler.

    Raises:
        PlatformUnavailable: It does not do it, and what it says.
    """
    try:
        done = _run(command, _BUILD_S)
    except subprocess.TimeoutExpired as error:
        raise PlatformUnavailable("native", f"{command[0]} was not done in {_BUILD_S} s") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise PlatformUnavailable("native", f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit {done.returncode}")
        raise PlatformUnavailable("native", f"{command[0]} cannot build the kernels: {said}")
