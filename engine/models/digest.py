"""Names what is in a checkpoint folder, so that a record says with which weights it was made.

Large files are not read whole: of each, its beginning, its size, and pieces from all over it. That tells any two models
apart, also one that was trained a little further; it is no protection against somebody who changes one number.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Final

from engine.errors import CheckpointError
from engine.models.weights import LoadFormat

_WHOLE: Final = 64 << 20
"""Bytes of a file that is read whole."""
_PIECE: Final = 64 << 10
_PIECES: Final = 256
"""Of a larger one: 16 MiB."""
_DESCRIPTIONS: Final = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    "adapter_config.json",
)


def checkpoint_digest(folder: Path, load_format: LoadFormat = "auto") -> str:
    """Name a checkpoint's content: of weights that are made up only what describes them.

    Raises:
        CheckpointError: A file cannot be read.
    """
    weights = sorted(folder.glob("*.safetensors")) if load_format == "auto" else []
    digest = blake2b(load_format.encode(), digest_size=16)
    try:
        for path in (*(folder / name for name in _DESCRIPTIONS), *weights):
            if path.exists():
                digest.update(path.name.encode() + b"\0")
                digest.update(_content(path))
    except OSError as error:
        raise CheckpointError(folder, f"{error.strerror or error}: {error.filename}") from error
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    found = blake2b(size.to_bytes(8, "little"), digest_size=16)
    with path.open("rb", buffering=0) as file:
        if size <= _WHOLE:
            while piece := file.read(1 << 20):
                found.update(piece)
        else:
            for index in range(_PIECES):
                # the first and the last piece among them: the table of contents stands at the beginning
                found.update(os.pread(file.fileno(), _PIECE, (size - _PIECE) * index // (_PIECES - 1)))
    return found.digest()
