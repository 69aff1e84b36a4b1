"""What may come next on the command line: asked of the parser, and of real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cli.completion import candidates
from infra.cli.main import parser
from tests.system.pseudo_terminal import PseudoTerminal

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["repl"], ["replay"]),
        (["replay", ""], ["diff", "engine", "export", "fork", "import", "ls", "show", "tail", "tokens", "verify"]),
        (["replay", "show", "some-id", "--st"], ["--steps"]),
        (["replay", "show", "--data", "x", "--js"], ["--json"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["up", "--model", ""], []),
        (["up", "--kv-memory-mb", "8", "--agent-p"], ["--agent-processes"]),
        (["nonsense", ""], []),
        (["chat", "--data", "/no/such/directory", ""], []),
        (["chat", "--data", "/no/such/directory", "--thread", ""], []),
        (["replay", "fork", "--data", "/no/such/directory", "--thread", ""], []),
    ],
    ids=" ".join,
)
def test_the_last_word_is_completed_by_where_it_stands(words: list[str], found: list[str]) -> None:
    assert candidates(parser(), words) == found


def test_every_command_and_option_is_found() -> None:
    assert {"up", "demo", "chat", "run", "replay", "completion"} <= set(candidates(parser(), [""]))
    assert {"--data", "--thread", "--json", "--help"} <= set(candidates(parser(), ["chat", "--"]))


def script(shell: str) -> str:
    done = subprocess.run(
        [BIN / "ostinato", "completion", shell], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_bash_completes_what_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "completion.bash"
    file.write_text(script("bash"), encoding="utf-8")
    (tmp_path / "notes.txt").touch()
    environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PS1": "$ ", "HISTFILE": "", "TERM": "dumb"}
    with PseudoTerminal(["bash", "--norc", "--noprofile", "-i"], environment) as screen:
        screen.type(f"cd {tmp_path} && . {file} && echo rea''dy\n")
        screen.until("ready")
        screen.type("ostinato repl\tsho\t--st\t")
        screen.until("ostinato replay show --steps")
        screen.type("\x15ostinato completion --\t")
        screen.until("--help")
        screen.type("\x15ostinato up --agents no\t")
        screen.until("notes.txt")
        screen.type("\x15exit\n")
        screen.end()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_reads_its_script_without_complaint(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    file = tmp_path / "script"
    file.write_text(script(shell), encoding="utf-8")
    done = subprocess.run([program, "-n", file], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes_what_is_typed() -> None:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    code = "ostinato completion fish | source; complete -C 'ostinato repl'"
    done = subprocess.run(
        ["fish", "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stdout.split() == ["replay"]
