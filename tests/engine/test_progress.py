"""What is seen of work that takes time: a bar on a terminal, or one of the caller's own."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.llm import LLM
from engine.models.registry import load_model
from engine.platforms import NO_KERNELS, detect
from engine.runner.loading import RunnerConfig
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from tests.engine.conftest import Tiny
from tests.infra.test_checkpoint import MODEL, hub

__all__ = ["hub"]

PROGRAM = """
import sys
from engine.llm import LLM
from engine.runner.loading import RunnerConfig
from schemas.generation import Sampling
llm = LLM(sys.argv[1], device="cpu", runner=RunnerConfig(model="", blocks=64))
use_tqdm = {"none": None, "yes": True, "no": False}[sys.argv[2]]
llm.generate(["Hello", "Who are you?"], Sampling(max_tokens=4, ignore_eos=True), use_tqdm=use_tqdm)
"""


class Recorder:
    """What is called in tqdm's place, and what it makes."""

    def __init__(self) -> None:
        self.shapes: list[dict[str, Any]] = []
        self.done: list[float] = []
        self.notes: list[str] = []
        self.closed = 0

    def __call__(self, **shape: Any) -> Recorder:
        self.shapes.append(shape)
        return self

    def update(self, done: float) -> None:
        self.done.append(done)

    def set_postfix_str(self, note: str, *, refresh: bool) -> None:
        self.notes.append(note)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(str(EMBEDDED_CHECKPOINT), device="cpu", runner=RunnerConfig(model="", blocks=64))


def test_a_bar_of_the_callers_own_is_told_of_prompts_and_of_tokens_in_a_second(llm: LLM) -> None:
    bar = Recorder()
    llm.generate(["Hello", "Who are you?", "Yes"], Sampling(max_tokens=4), n=2, use_tqdm=bar)
    (shape,) = bar.shapes
    assert (shape["desc"], shape["total"]) == ("prompts", 3)
    # a prompt is done when all its answers are
    assert sum(bar.done) == 3
    assert "input" in bar.notes[-1]
    assert "output" in bar.notes[-1]
    assert bar.closed == 1


def test_texts_that_become_vectors_are_counted_too(llm: LLM) -> None:
    bar = Recorder()
    llm.embed(["Hello", "Who are you?"], use_tqdm=bar)
    assert (bar.shapes[0]["desc"], bar.shapes[0]["total"], sum(bar.done), bar.closed) == ("texts", 2, 2, 1)


def test_a_bar_is_closed_when_the_work_fails(llm: LLM) -> None:
    bar = Recorder()
    with pytest.raises(Exception, match="prompt"):
        llm.generate(["Hello", []], use_tqdm=bar)
    assert bar.closed == len(bar.shapes) == 1


def seen(*command: str, **environment: str) -> str:
    """Run a program with a terminal as its standard error; return what stood there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    done = subprocess.run(
        [sys.executable, "-c", *command],
        stderr=theirs,
        stdout=subprocess.PIPE,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    os.close(theirs)
    text = b""
    try:
        while read := os.read(ours, 65536):
            text += read
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b""), text
    return without_kernels(text.decode())


def without_kernels(told: str) -> str:
    """Leave out the line that a processor gets for which we have no kernels."""
    return "".join(line for line in told.splitlines(keepends=True) if not line.startswith(NO_KERNELS))


def test_a_terminal_shows_a_bar_unless_it_is_not_wanted() -> None:
    shown = seen(PROGRAM, str(EMBEDDED_CHECKPOINT), "none")
    assert "prompts: 100%" in shown
    assert "2/2" in shown
    assert "tokens/s" in shown
    assert not seen(PROGRAM, str(EMBEDDED_CHECKPOINT), "no")


@pytest.mark.parametrize(("use_tqdm", "shows"), [("none", False), ("yes", True)])
def test_elsewhere_nothing_is_shown_unless_it_is_asked_for(use_tqdm: str, shows: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(EMBEDDED_CHECKPOINT), use_tqdm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    shown = without_kernels(done.stderr)
    assert ("prompts: 100%" in shown) == shows
    assert bool(shown) == shows


FETCH = """
import sys
from engine.models.weights import find_checkpoint
find_checkpoint(sys.argv[1], use_tqdm=None if sys.argv[2] == "none" else False)
"""


def test_a_download_shows_the_hubs_bar_unless_it_is_not_wanted(hub: str, tmp_path: Path) -> None:
    def fetched(use_tqdm: str) -> str:
        home = str(tmp_path / use_tqdm)
        return seen(FETCH, MODEL, use_tqdm, HF_ENDPOINT=hub, HF_HOME=home, HF_HUB_OFFLINE="0")

    assert "3/3" in fetched("none")
    assert not fetched("no")


@pytest.mark.parametrize("kind", ["qwen3-tied", "llama-untied"])
def test_weights_are_counted_in_bytes_until_all_are_there(
    tiny: Callable[[str], Tiny], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    bar = Recorder()
    with caplog.at_level(logging.INFO, "engine.models.weights"):
        load_model(tiny(kind).folder, detect("cpu"), use_tqdm=bar)
    (shape,) = bar.shapes
    assert (shape["desc"], shape["unit"]) == ("weights", "B")
    assert len(bar.done) > 10
    assert sum(bar.done) == shape["total"] == size(tiny(kind).folder)
    assert bar.closed == 1
    assert "MB of weights" in caplog.text


def size(folder: Path) -> int:
    """Bytes of the tensors of a checkpoint, as its file's header has them."""
    data = (folder / "model.safetensors").read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")
