"""What a newcomer is likely to meet first: each is one line that names the mend, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import OSTINATO, UpProcess, ask, chat, start

pytestmark = pytest.mark.servers
ROOT = Path(__file__).parents[2]


def up(data: Path, *argv: str, environment: Mapping[str, str] | None = None) -> str:
    """Start, expect a failure, and return the one line that says why; progress lines may stand before it."""
    command = [*OSTINATO, "up", "--port", "0", "--data", str(data), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("starting: ")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith("ostinato: ")
    assert done.stdout == ""
    return told[0]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system of its own on a folder, where the system lets us."""
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip(f"this system does not let us mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], timeout=10, check=True)
        folder.rmdir()


def test_a_full_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=64m"):
        line = up(tmp_path / "small" / "data")
    assert "512 MB needed" in line
    assert "free some space" in line


def test_a_data_directory_that_is_not_writable(tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "ro"):
        line = up(tmp_path / "fixed" / "data")
    assert "Read-only file system" in line
    assert "choose a folder you may write" in line


def test_a_data_directory_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "format").write_text('{"format": 9, "shards": 4}', encoding="utf-8")
    line = up(tmp_path)
    assert "has data format 9" in line
    assert "choose another data directory" in line


def unsupported(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")


def cut_short(model: Path) -> None:
    os.truncate(model / "model.safetensors", 100_000)


def without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def with_a_bad_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"a":', encoding="utf-8")


def without_a_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def without_a_configuration(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (unsupported, "GPT2LMHeadModel"),
        (cut_short, "damaged or cut short"),
        (without_weights, "model.safetensors"),
        (with_a_bad_tokenizer, "tokenizer.json"),
        (without_a_tokenizer, "tokenizer.json"),
        (without_a_configuration, "config.json"),
    ],
)
def test_a_model_that_cannot_be_served(
    system_folder: Path, tmp_path: Path, damage: Callable[[Path], None], word: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED_CHECKPOINT, model)
    damage(model)
    line = up(system_folder / damage.__name__, "--model", str(model))
    assert word in line
    assert str(model) in line or damage is unsupported


def test_the_servers_are_not_installed(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    # every package of this environment but the servers
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in site.iterdir():
        if "pgserver" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    environment = {"PATH": str(bare / "bin"), "PYTHONPATH": f"{ROOT}:{packages}"}
    for command in ("up", "doctor"):
        argv = [str(bare / "bin" / "python"), "-m", "infra.cli.main", command, "--port", "0", "--data"]
        done = subprocess.run(
            [*argv, str(tmp_path / "data")], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert done.returncode == 1
        assert "pip install 'ostinato[local]'" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_no_compiler_is_needed(system_folder: Path, tmp_path: Path) -> None:
    command = [*OSTINATO, "demo", "--data", str(system_folder / "no-compiler")]
    environment = {"PATH": str(tmp_path), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_make_names_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    # the real check, run by a Python that says it is 3.9
    told = "import sys; sys.version_info = (3, 9, 1); sys.version = '3.9.1 (old)'; "
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{told}$2"\n', encoding="utf-8")
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "needs Python 3.11 or newer, this is 3.9.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_knows_the_servers_of_the_stack_that_runs(stack: UpProcess) -> None:
    done = stack.cli("doctor", "--json", "--port", stack.url.rpartition(":")[2])
    assert done.returncode == 0, done.stdout
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "payload 8 MiB" in found["nats"]["says"]
    assert found["postgres"]["says"].startswith("18.")
    assert "running stack's" in found["http-port"]["says"]
    assert f"process {stack.runtime['pid']}" in found["data"]["says"]


def test_a_disk_with_little_more_than_what_is_needed(system_folder: Path) -> None:
    folder = system_folder / "small"
    with mounted(folder, "size=1g,mode=755"):
        own = start(folder / "data")
        try:
            assert chat(own, ask("What is 12 times 34?")).status_code == 200
        finally:
            assert own.stop() == 0
