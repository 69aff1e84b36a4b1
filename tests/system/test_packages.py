"""The wheel and the sdist hold what they should, and run the demo where nothing else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "bus", "engine", "actors", "infra")
LARGEST_SDIST = 16 << 20
BUILD_S = 120.0
INSTALL_S = 300.0
DEMO_S = 90.0
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


def done(*command: str | Path, cwd: Path, timeout: float) -> str:
    """Run a program that knows nothing of this checkout; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OSTINATO"))}
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        timeout=timeout,
        env=environment | {"OMP_WAIT_POLICY": "PASSIVE", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="session")
def tracked() -> set[str]:
    """Every file of the checkout that git does not ignore."""
    listed = done("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT, timeout=30)
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="session")
def sdist_and_its_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What `python -m build` makes: the sdist, and a wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder, timeout=BUILD_S)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def wheel_of_the_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built straight from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    done(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder, timeout=BUILD_S)
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, int]:
    """Each file's checksum, by name."""
    with zipfile.ZipFile(wheel) as opened:
        return {info.filename: info.CRC for info in opened.infolist()}


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel_of_the_tree: Path, tracked: set[str]) -> None:
    held = {name for name in contents(wheel_of_the_tree) if ".dist-info/" not in name}
    ours = {name for name in tracked if name.split("/")[0] in PACKAGES}
    assert held == ours | {"ostinato.py", "ostinato-stubs/__init__.pyi"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    assert (ROOT / "ostinato-stubs" / "__init__.pyi").read_bytes() == (ROOT / "ostinato.py").read_bytes()
    for suffix in (".safetensors", ".jinja", ".toml", ".sql"):
        assert any(name.endswith(suffix) for name in held), suffix


def test_the_sdist_holds_what_it_takes_to_build_and_test_and_is_small(
    sdist_and_its_wheel: tuple[Path, Path], tracked: set[str]
) -> None:
    sdist, _ = sdist_and_its_wheel
    with tarfile.open(sdist) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert held == tracked | {"PKG-INFO"}
    assert sdist.stat().st_size < LARGEST_SDIST


def test_the_wheel_built_from_the_sdist_is_the_wheel_built_from_the_tree(
    sdist_and_its_wheel: tuple[Path, Path], wheel_of_the_tree: Path
) -> None:
    assert contents(sdist_and_its_wheel[1]) == contents(wheel_of_the_tree)


def test_the_metadata_is_what_a_registry_takes(wheel_of_the_tree: Path) -> None:
    with zipfile.ZipFile(wheel_of_the_tree) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        raw = opened.read(name)
        assert "Apache License" in opened.read(name.replace("METADATA", "licenses/LICENSE")).decode()
    metadata = Metadata.from_email(raw)  # raises where a field breaks the rules
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Typing :: Typed" in (metadata.classifiers or ())
    assert {"local", "gpu", "dev"} <= set(metadata.provides_extra or ())


@pytest.mark.servers
def test_both_wheels_run_the_demo_in_an_environment_that_was_empty(
    sdist_and_its_wheel: tuple[Path, Path], wheel_of_the_tree: Path, system_folder: Path
) -> None:
    """The heavy dependencies are installed once: the two wheels are put on top of them one after the other."""
    room = system_folder / "installed"
    done(sys.executable, "-m", "venv", room / "venv", cwd=system_folder, timeout=60)
    python = room / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    # as the Makefile does it: torch first and alone, so that the CPU index serves nothing else
    index = os.environ.get("TORCH_INDEX", "" if shutil.which("nvidia-smi") else CPU_TORCH)
    extra = ("--extra-index-url", index, "--retries", "0", "--timeout", "10") if index else ()
    torch = f"torch=={version('torch').partition('+')[0]}"
    done(*pip, "install", "--no-deps", *extra, torch, cwd=room, timeout=INSTALL_S)
    done(*pip, "install", f"{wheel_of_the_tree}[local]", cwd=room, timeout=INSTALL_S)
    done(*pip, "check", cwd=room, timeout=60)
    _run_the_demo(python, room / "from the tree")
    done(*pip, "uninstall", "--yes", "ostinato", cwd=room, timeout=60)
    done(*pip, "install", "--no-deps", sdist_and_its_wheel[1], cwd=room, timeout=60)
    _run_the_demo(python, room / "from the sdist")


def _run_the_demo(python: Path, nowhere: Path) -> None:
    nowhere.mkdir()
    module = Path(done(python, "-c", "import ostinato; print(ostinato.__file__)", cwd=nowhere, timeout=30).strip())
    assert module.is_relative_to(python.parents[1])
    told = done(python.with_name("ostinato"), "demo", cwd=nowhere, timeout=DEMO_S)
    assert "6223" in told
    assert "Biscuit" in told
    assert [path.name for path in nowhere.iterdir()] == [".ostinato"]
