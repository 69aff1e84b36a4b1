"""The hash of the code that folds a machine's events: a snapshot holds for that code alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import actors.memory
import schemas
from actors.runtime.machine import Machine


def reducers_of(machines: Mapping[str, Machine[Any]]) -> dict[str, str]:
    """Hash, for each machine, every source that may decide what a fold gives: its package, memory's, and all shapes."""
    others = [Path(str(package.__file__)).parent for package in (actors.memory, schemas)]
    return {name: _hashed(Path(inspect.getfile(type(machine))).parent, *others) for name, machine in machines.items()}


@cache
def _hashed(*folders: Path) -> str:
    digest = blake2b(digest_size=16)
    for folder in folders:
        for file in sorted(folder.glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
