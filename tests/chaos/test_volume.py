"""A power cut takes what was not synced, and leaves what was: otherwise its row in the table would prove nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.volume import CannotMount, Volume, mounted


@pytest.fixture
def volume(folder: Path) -> Iterator[Volume]:
    try:
        with mounted(folder) as made:
            yield made
    except CannotMount as error:
        pytest.skip(f"this system does not let us make a disk: {error}")


def test_what_was_synced_outlives_a_power_cut_and_what_was_not_is_gone(volume: Volume) -> None:
    with (volume.folder / "synced").open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    (volume.folder / "unsynced").write_bytes(b"gone" * 4096)
    volume.photograph()
    (volume.folder / "later").write_bytes(b"never")
    volume.come_back()
    assert (volume.folder / "synced").read_bytes() == b"kept"
    assert b"gone" not in (volume.folder / "unsynced").read_bytes() if (volume.folder / "unsynced").exists() else True
    assert not (volume.folder / "later").exists()


def test_a_full_disk_takes_nothing_until_it_is_emptied(volume: Volume) -> None:
    volume.fill()
    with pytest.raises(OSError, match="No space left"):
        (volume.folder / "more").write_bytes(b"x" * (1 << 20))
    volume.empty()
    (volume.folder / "more").write_bytes(b"x" * (1 << 20))
