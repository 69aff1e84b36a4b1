"""Where and as whom the servers run when we are root.

Postgres refuses to run as root and nats-server should not. Both then run as `nobody`, and only folders made for
them change owner. What `nobody` cannot reach (a venv or a data directory under /root) is put under
`/var/lib/ostinato`: a copy of the programs, once per build of them; the servers' data, with a pointer left behind.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from infra.services.data_directory import DataDirectory, write_atomically

SYSTEM_FOLDER = Path("/var/lib/ostinato")


@dataclass(frozen=True, slots=True)
class Account:
    """The user a server runs as."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Say whether the user may pass through every folder above `path`, by their modes (lists are not read)."""
        return all(self._may(parent, stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH) for parent in path.absolute().parents)

    def executes(self, path: Path) -> bool:
        """Say whether the user may run the program at `path`."""
        path = path.resolve()
        return self.reaches(path) and self._may(path, stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH)

    def _may(self, path: Path, user: int, group: int, others: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & user)
        if status.st_gid == self.gid:
            return bool(status.st_mode & group)
        return bool(status.st_mode & others)


def server_account() -> Account | None:
    """Return whom the servers run as: `nobody` when we are root, and None, ourselves, otherwise."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, slots=True)
class Placement:
    """As whom the servers of one data directory run, and where their data is."""

    account: Account | None
    data: Path
    system: Path
    """Where copies of programs go that the account cannot reach."""


def place(directory: DataDirectory, system: Path = SYSTEM_FOLDER) -> Placement:
    """Decide for a held data directory; the same every time. Blocks."""
    account = server_account()
    return Placement(account, _server_data(directory, account, system), system)


def _server_data(directory: DataDirectory, account: Account | None, system: Path) -> Path:
    """Return the data directory, or a folder that `account` can reach."""
    pointer = directory.path / "elsewhere"
    if pointer.exists():
        return Path(pointer.read_text(encoding="utf-8"))
    if account is None or account.reaches(directory.path / "nats"):
        return directory.path
    digest = blake2b(str(directory.path).encode(), digest_size=8).hexdigest()
    # a folder of that name with data in it belonged to a data directory that was deleted: that data is not ours
    names = (digest if n == 0 else f"{digest}-{n}" for n in itertools.count())
    elsewhere = next(place for name in names if not _holds_data(place := system / "data" / name))
    for folder in (system, system / "data", elsewhere):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(pointer, str(elsewhere).encode())
    return elsewhere


def _holds_data(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def make_folder(path: Path, account: Account | None) -> Path:
    """Make a folder that only the server may enter, if it is not there."""
    if not path.exists():
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    return path


def reachable_program(program: Path, placement: Placement, parts: Sequence[tuple[Path, str]]) -> Path:
    """Return `program`, or its place in a copy that the account can run.

    `parts` is what must be copied together, (file or folder, its place in the copy); one of them holds `program`.
    """
    if placement.account is None or placement.account.executes(program):
        return program
    digest = blake2b(program.read_bytes(), digest_size=8).hexdigest()
    home = placement.system / "bin" / f"{program.name}-{digest}"
    if not home.exists():
        _copy(parts, home)
    for source, place in parts:
        if program.is_relative_to(source):
            return home / place / program.relative_to(source) if source != program else home / place
    raise AssertionError(f"{program} is in none of {parts}")


def _copy(parts: Sequence[tuple[Path, str]], home: Path) -> None:
    """Copy beside `home`, then rename: a crash leaves no half copy under that name, and the first of two wins."""
    home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
    try:
        for source, place in parts:
            target = fresh / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "__pycache__"))
            else:
                shutil.copy2(source, target)
        for path in (fresh, *fresh.rglob("*")):
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)
        fresh.rename(home)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not home.exists():
            raise
