"""Every code block of README does what README says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from actors.agent.definition import Agent
from infra.agents import load_agents
from infra.cli.main import parser
from tests.system.conftest import UpProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SHELL = [line.split("#")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def python_block(word: str) -> str:
    (block,) = [block for kind, block in BLOCKS if kind == "python" and word in block]
    return block


def test_readme_is_short() -> None:
    assert len(README.split()) < 800


@pytest.mark.servers
def test_the_openai_block_works_as_pasted(stack: UpProcess, capsys: pytest.CaptureFixture[str]) -> None:
    block = python_block("from openai import OpenAI").replace("http://127.0.0.1:8000", stack.url)
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), namespace)
    namespace["client"].close()
    printed = capsys.readouterr().out
    assert "408" in printed
    assert re.search(r"thread t\w+", printed)


def test_the_agent_block_defines_an_agent_that_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "my_agents.py"
    file.write_text(python_block("from ostinato import"), encoding="utf-8")
    agents: dict[str, Agent] = {agent.name: agent for agent in load_agents([str(file)])}
    tool = next(iter(agents["doubler"].tools))
    assert tool is not None
    assert tool.effect == "pure"
    assert tool.parameters["properties"] == {"number": {"type": "integer"}}


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith(".venv/bin/ostinato")])
def test_every_command_in_readme_is_one_that_the_cli_takes(line: str) -> None:
    options = parser().parse_args(shlex.split(line)[1:])
    assert options.module


@pytest.mark.servers
def test_every_command_in_readme_for_a_running_stack_does_its_work(stack: UpProcess) -> None:
    lines = [line for line in SHELL if re.match(r"\.venv/bin/ostinato (run|chat|replay|doctor)", line)]
    assert len(lines) >= 5
    thread = ""
    for line in lines:
        done = stack.cli(*(thread if word == "ID" else word for word in shlex.split(line)[1:]))
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        thread = next(iter(re.findall(r"--thread (t\w+)", done.stderr)), thread)


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make ")])
def test_every_make_target_in_readme_exists(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
