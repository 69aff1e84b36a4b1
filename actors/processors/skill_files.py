"""The files beside a SKILL.md: listed, and read for a model that may name any path. Nothing outside the folder is.

A link is followed where it leads to a file of the folder. What is hidden is not read, nor what is no text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

MOST_FILES: Final = 100
"""That are listed of a skill."""
LONGEST_FILE: Final = 1 << 20
"""Bytes of one that is read."""
LONGEST_PART: Final = 20_000
"""Characters that are read at once."""


def files_of(folder: Path) -> tuple[str, ...]:
    """List the files beside a SKILL.md that can be read, by their paths in its folder."""
    return tuple(islice(_readable(folder), MOST_FILES))


def part_of(folder: Path, path: str, start: int) -> str:
    """Read a part of a file in a skill's folder, from a character on.

    Raises:
        LookupError: there is none, it is hidden, or it lies outside.
        ValueError: it is no text, or too long, or there is no such character in it.
    """
    text = _text(_inside(folder, path), path)
    if start and not 0 <= start < len(text):
        raise ValueError(f"start: {path!r} has {len(text)} characters: give a number below that")
    end = start + LONGEST_PART
    more = f"\n[{len(text) - end} more characters: read on with start={end}]" if end < len(text) else ""
    return text[start:end] + more


def _readable(folder: Path) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = (Path(here) / name).relative_to(folder).as_posix()
            if path != "SKILL.md" and _is_there(folder, path):
                yield path


def _is_there(folder: Path, path: str) -> bool:
    try:
        return _inside(folder, path).is_file()
    except LookupError:
        return False


def _inside(folder: Path, path: str) -> Path:
    """Find a file of a folder, wherever links lead to.

    Raises:
        LookupError: it is not one.
    """
    parts, root = PurePosixPath(path).parts, folder.resolve()
    try:
        found = root.joinpath(*parts).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # there is none, its name cannot be one, or links go round
        raise _no(path) from error
    if not parts or not found.is_relative_to(root):
        raise _no(path)
    if any(part.startswith(".") for part in found.relative_to(root).parts):
        raise _no(path)
    return found


def _no(path: str) -> LookupError:
    """Say the same of what is outside as of what is not there."""
    return LookupError(f"there is no file {path[:200]!r} in this skill's folder")


def _text(file: Path, path: str) -> str:
    try:
        # neither waits for what is no file, nor follows what became a link meanwhile
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise _no(path) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _no(path)
        with os.fdopen(handle, "rb", closefd=False) as opened:
            data = opened.read(LONGEST_FILE + 1)
    finally:
        os.close(handle)
    if len(data) > LONGEST_FILE:
        raise ValueError(f"{path!r} is longer than {LONGEST_FILE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is no text") from error
