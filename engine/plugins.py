"""What other installed packages bring: platforms and ops, found by entry points.

A package names in its `pyproject.toml` what is to be loaded:

    [project.entry-points."ostinato.platforms"]
    npu = "my_package:detect"         # a `PlatformFactory`
    [project.entry-points."ostinato.ops"]
    npu = "my_package.kernels:NpuOps" # a class or function that gives `Ops`

`engine.processors` says what a logits processor is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

log = logging.getLogger(__name__)

PLATFORMS: Final = "ostinato.platforms"
OPS: Final = "ostinato.ops"
PROCESSORS: Final = "ostinato.logits_processors"


def names(group: str) -> list[str]:
    """Name what is installed, whether or not it can be loaded."""
    return sorted({entry.name for entry in entry_points(group=group)})


def plugins(group: str) -> Iterator[tuple[str, Any]]:
    """Load what is installed, by name; what is broken is told in one line and left out."""
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            loaded = entry.load()
        except Exception as error:  # noqa: BLE001  whatever somebody else's package does when it is imported
            leave_out(entry, error)
            continue
        yield entry.name, loaded


def leave_out(what: EntryPoint | str, error: Exception | str) -> None:
    """Tell in one line that a plug-in is not used."""
    named = what if isinstance(what, str) else f"{what.name!r} of {what.group} ({what.value})"
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    log.warning("plug-in %s is left out: %s", named, " ".join(reason.split()))
