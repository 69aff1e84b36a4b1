"""Command lines that we tell people to type next, as they can type them here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_DATA = ".ostinato"


def program() -> str:
    """Name this command as the user can type it here: by name if it is on the path, else by where it is."""
    found = shutil.which("ostinato")
    own = Path(sys.executable).parent / "ostinato"
    if found is not None and Path(found).samefile(own):
        return "ostinato"
    return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))


def on_data(data: str) -> str:
    """Give the flag that names a data directory, with a space before it; nothing for the usual one."""
    return "" if data == _DATA else f" --data {shlex.quote(data)}"


def chat_on(agent: str, thread: str, data: str) -> str:
    """Give the command line that goes on with a thread in a conversation."""
    return f"{program()} chat {agent} --thread {thread}{on_data(data)}"
