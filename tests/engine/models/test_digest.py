"""A checkpoint's digest tells its content from any other, and does not depend on where it lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import CheckpointError
from engine.models import digest
from engine.models.digest import checkpoint_digest
from tests.engine.conftest import Tiny


@pytest.fixture
def folder(tiny: Callable[[str], Tiny], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("qwen3-tied").folder, tmp_path / "copy"))


@pytest.mark.parametrize("most", [1 << 26, 1000], ids=["read whole", "read in pieces"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_other_content_has_another_digest(
    folder: Path, tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch, file: str, most: int
) -> None:
    monkeypatch.setattr(digest, "_WHOLE", most)
    first = checkpoint_digest(folder)
    assert first == checkpoint_digest(tiny("qwen3-tied").folder)
    data = bytearray((folder / file).read_bytes())
    data[-2] ^= 1
    (folder / file).write_bytes(bytes(data))
    assert checkpoint_digest(folder) != first


def test_pieces_lie_all_over_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_WHOLE", 100)
    monkeypatch.setattr(digest, "_PIECE", 10)
    monkeypatch.setattr(digest, "_PIECES", 11)
    found = set()
    for at in range(0, 1000, 99):
        data = bytearray(1000)
        data[at] = 1
        (tmp_path / "model.safetensors").write_bytes(bytes(data))
        found.add(checkpoint_digest(tmp_path))
    assert len(found) == 11
    (tmp_path / "model.safetensors").write_bytes(bytes(1001))
    assert checkpoint_digest(tmp_path) not in found


def test_weights_that_are_made_up_do_not_count(folder: Path) -> None:
    first = checkpoint_digest(folder, "dummy")
    (folder / "model.safetensors").unlink()
    assert checkpoint_digest(folder, "dummy") == first
    assert checkpoint_digest(folder) != first


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint_digest(folder)
