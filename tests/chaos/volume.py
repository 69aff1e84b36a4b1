"""A disk of the stack's own, which can be full and whose power can fail: ext4 in a file, by root and a loop device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE = 3 << 30
"""Most of it is a hole in the file."""
_TRIES = 20
_BLOCK = 4096


class CannotMount(Exception):
    """This system does not let us make a disk of our own."""


class Volume:
    """A mounted disk."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder
        """Where it is mounted."""

    def mount(self) -> None:
        """Put it in place. Blocks.

        Raises:
            CannotMount: the system does not let us.
        """
        # few commits beside those that the servers ask for: while nothing runs, nothing is to be written
        _run("mount", "-o", "loop,commit=60", str(self._image), str(self.folder))
        self.folder.chmod(0o755)

    def unmount(self) -> None:
        """Take it away; nobody uses it any more. Blocks."""
        if self.folder.is_mount():
            _run("umount", str(self.folder))

    def photograph(self) -> None:
        """Copy what the disk itself holds at this moment, without what waits in memory to be written. Blocks.

        Those who write are stopped. The kernel may write on by itself: a copy that is older at its end than at its
        beginning is taken again.

        Raises:
            CannotMount: the disk was never at rest.
        """
        copy = self._image.with_suffix(".copy")
        for _ in range(_TRIES):
            before = self._written()
            _run("cp", "--sparse=always", str(self._image), str(copy))
            if self._written() == before:
                return
        raise CannotMount("the disk was never at rest while it was copied")

    def come_back(self) -> None:
        """Be what was copied, as after a power cut: nobody uses the disk any more. Blocks."""
        self.unmount()
        self._image.with_suffix(".copy").replace(self._image)
        self.mount()

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes free. Blocks."""
        with (self.folder / "filling").open("ab") as file:
            size = shutil.disk_usage(self.folder).free - left
            while size >= _BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError:  # somebody wrote meanwhile, or the file's own map needs some blocks
                    size //= 2
                else:
                    size = shutil.disk_usage(self.folder).free - left

    def empty(self) -> None:
        """Give the space back. Blocks."""
        (self.folder / "filling").unlink(missing_ok=True)

    def _written(self) -> str:
        """Say how much was ever written to the device."""
        device = _run("findmnt", "-n", "-o", "SOURCE", str(self.folder)).strip()
        return Path(f"/sys/block/{Path(device).name}/stat").read_text(encoding="utf-8").split()[6]


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Volume]:
    """Make a disk and mount it on `folder / "disk"` until the block ends.

    Raises:
        CannotMount: the system does not let us.
    """
    if os.geteuid() != 0:
        raise CannotMount("needs root")
    volume = Volume(folder / "disk.img", folder / "disk")
    with (folder / "disk.img").open("wb") as image:
        image.truncate(SIZE)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0", str(folder / "disk.img"))
    volume.folder.mkdir()
    try:
        volume.mount()
        yield volume
    finally:
        volume.unmount()


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotMount(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        raise CannotMount(f"{argv[0]}: {done.stderr.strip()}")
    return done.stdout
