"""Reads the phrasings: the files beside the code that say how things are asked, apart for training and for judging."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Split = Literal["train", "held_out"]
FOLDER: Final = Path(__file__).parent / "phrasings"


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Ways to say one thing, listed apart for training and for judging."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """Return the phrasings of one split."""
        return self.train if split == "train" else self.held_out


def read(name: str) -> dict[str, Any]:
    """Read one file of phrasings."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def phrasings(entry: Mapping[str, Any]) -> Phrasings:
    """Take both lists of one entry."""
    return Phrasings(tuple(entry["train"]), tuple(entry["held_out"]))
