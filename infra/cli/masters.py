"""`ostinato keys rotate-master`: another master key in the place of the one that there is."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from infra.cli.printing import say
from infra.errors import RotationUnfit
from infra.rotating import rotate, rotate_to


def main(options: argparse.Namespace) -> int:
    """Rotate, and say where the new one is."""
    if options.to is None:
        count = asyncio.run(rotate(options.data))
        say(f"{count} keys are wrapped with a new `master.key`: keep a copy of it, for the old one opens nothing more")
        return 0
    try:
        new = Path(options.to).read_bytes().strip()
    except OSError as error:
        raise RotationUnfit(f"--to {options.to!r}: {error.strerror}") from error
    count = asyncio.run(rotate_to(options.data, new))
    say(f"{count} keys are wrapped with the text of {options.to!r}: set `privacy.master_key` to it before you start")
    return 0
