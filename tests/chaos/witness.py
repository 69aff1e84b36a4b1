"""What took effect, where nothing of the stack can take it back: a line in a file, synced before its writer goes on."""

from __future__ import annotations

import os
from pathlib import Path

WITNESS = Path(os.environ.get("OSTINATO_CHAOS_WITNESS", "/dev/null"))


def leave(effect: str, key: str, what: str) -> None:
    """Say that something took effect. Blocks.

    Args:
        effect: its class.
        key: its idempotency key.
        what: it was about.
    """
    file = os.open(WITNESS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{effect} {key} {what}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
