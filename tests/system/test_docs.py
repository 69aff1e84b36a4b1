"""Every code block of the pages under docs/ does what the page says."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nats
import numpy as np
import pytest
from nats.aio.client import Client

from actors.agent.profiles import profile_of
from actors.toolsets import Surroundings
from engine.models.families import FAMILIES
from engine.models.pooled import SUPPORTED
from infra.cli.main import parser
from schemas.commands import RunAgent
from tests.system.conftest import OSTINATO, UpProcess, start

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
COMMAND_S = 60.0
FRAMES_S = 30.0


def blocks(page: str, *kinds: str) -> list[tuple[str, str]]:
    """The page's blocks of some kinds, in order."""
    return [found for found in re.findall(r"```(\w*)\n(.*?)```", PAGES[page], re.DOTALL) if found[0] in kinds]


def commands(page: str) -> list[str]:
    """What the page's reader types."""
    typed = [line for _, block in blocks(page, "sh") for line in block.splitlines()]
    shown = [line[2:] for _, block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in (*typed, *shown) if line.strip()]


OURS = [(page, line) for page in PAGES for line in commands(page) if re.match(r"(\.venv/bin/)?ostinato ", line)]


@pytest.mark.parametrize(("page", "line"), OURS)
def test_every_command_of_ours_is_one_that_the_cli_takes(page: str, line: str) -> None:
    options = parser().parse_args(shlex.split(line, comments=True)[1:])
    assert options.module, page


@pytest.mark.parametrize("page", PAGES)
def test_every_link_inside_the_repository_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (ROOT / "docs" / link).exists(), link


@pytest.fixture
def written(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[str]]:
    """What the Python of a page names, and the lines that it prints."""
    monkeypatch.chdir(ROOT)
    named: dict[str, Any] = {}
    for _, block in blocks(request.param, "py"):
        exec(block, named)
    return named, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("written", ["sampling.md"], indirect=True)
def test_what_the_page_on_sampling_writes_in_python_runs(written: tuple[dict[str, Any], list[str]]) -> None:
    named, (city, alike, *rest) = written
    scored, (first, second, *streamed) = rest[:3], rest[3:-4]
    for token, line in zip((70, 3, 80), scored, strict=True):
        tokens, numbers = (ast.literal_eval(part) for part in re.findall(r"[(\[].*?[)\]]", line))
        assert tokens == (token, token, 81, 82)
        assert numbers[0] == numbers[1] < 0
    assert re.fullmatch(r"\{'city': .*\} stop", city)
    assert alike == "True"
    assert all(re.fullmatch(r"(['\"]).*\1 (length|stop) \d", answer) for answer in (first, second))
    assert ast.literal_eval(first.rsplit(" ", 2)[0]).splitlines() == streamed
    found = written[1][-4:]
    scores = [float(line.split()[0]) for line in found]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    logits = np.zeros(4)
    named["never_twice"](logits, argument=True, prompt=[1], output=[2])
    assert logits.tolist() == [0, 0, -np.inf, 0]


@pytest.mark.parametrize("written", ["memory.md"], indirect=True)
def test_what_the_page_on_memory_writes_in_python_runs(written: tuple[dict[str, Any], list[str]]) -> None:
    assert written[1] == ["update_working_memory"]


@pytest.mark.anyio
@pytest.mark.parametrize("written", ["steering.md"], indirect=True)
async def test_what_the_page_on_steering_writes_in_python_runs(written: tuple[dict[str, Any], list[str]]) -> None:
    named, _ = written
    left = {tool.name: tool.binding.approval for tool in await named["files"].tools(Surroundings())}
    assert left == {"read_file": False, "write_file": True}
    plan, _build = (await profile_of(named["editor"], RunAgent(agent="editor"), Surroundings(), "m")).modes
    assert plan.active_tools == ("read_file", "ask_user", "submit_plan")
    assert named["sorter"].judge is named["judge"]


@pytest.mark.parametrize("written", ["mcp.md"], indirect=True)
def test_what_the_page_on_mcp_writes_in_python_runs(written: tuple[dict[str, Any], list[str]]) -> None:
    assert written[0]["librarian"].name == "librarian"
    ((_, config),) = blocks("mcp.md", "json")
    server = json.loads(config)["mcpServers"]["ostinato"]
    assert parser().parse_args(server["args"]).module == "infra.cli.mcp"


@pytest.mark.parametrize("written", ["models.md"], indirect=True)
def test_what_the_page_on_models_writes_in_python_runs(written: tuple[dict[str, Any], list[str]]) -> None:
    named, (best, second) = written
    assert best.endswith(" What is 12 times 7?")
    assert float(best.split()[0]) > float(second.split()[0])
    assert [vector.shape for vector in named["vectors"]] == [(64,)] * 3


def test_the_page_on_models_names_every_architecture() -> None:
    assert set(re.findall(r"`(\w+(?:ForCausalLM|ForMaskedLM|Classification|Model))`", PAGES["models.md"])) == set(
        SUPPORTED
    )
    assert set(FAMILIES) < set(SUPPORTED)


@pytest.mark.servers
def test_what_the_page_on_http_asks_is_answered(stack: UpProcess) -> None:
    env = {**os.environ, "OPENAI_BASE_URL": f"{stack.url}/v1"}
    ((_, python),) = blocks("http-api.md", "python")
    ((_, shell),) = blocks("http-api.md", "sh")
    said, told = (
        subprocess.run(argv, env=env, capture_output=True, text=True, timeout=COMMAND_S, check=True).stdout
        for argv in ([sys.executable, "-c", python], ["bash", "-c", shell])
    )
    assert said.startswith("finished ")
    assert "408" in said
    assert told.startswith("id: 1\nevent: run.started\n")
    assert told.endswith("event: run.finished\n")


@pytest.mark.servers
def test_the_card_that_the_page_on_a2a_asks_for_is_there(stack: UpProcess) -> None:
    ((_, shell),) = blocks("a2a.md", "sh")
    env = {**os.environ, "OPENAI_BASE_URL": f"{stack.url}/v1"}
    told = subprocess.run(["bash", "-c", shell], env=env, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    assert told.stdout.split() == ['"protocolBinding":"JSONRPC"', '"protocolBinding":"HTTP+JSON"']


@pytest.mark.servers
def test_what_the_page_on_batches_writes_in_python_runs(stack: UpProcess, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, block),) = blocks("batches.md", "py")
    named: dict[str, Any] = {}
    exec(block.replace("http://localhost:8000", stack.url), named)
    named["client"].close()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [f"question-{n}" for n in range(20)]
    assert all(len(line.split()) > 1 for line in printed)


@pytest.fixture(scope="module")
def tutorial(system_folder: Path) -> Iterator[UpProcess]:
    """The stack that the tutorial starts, in the folder it writes its agents to."""
    folder = system_folder / "tutorial"
    folder.mkdir()
    ((_, agents),) = blocks("tutorial.md", "python")
    (folder / "till.py").write_text(agents, encoding="utf-8")
    up = start(folder / ".ostinato", "--agents", "till.py", cwd=folder)
    yield up
    assert up.stop() == 0


def comparable(line: str) -> str:
    """Leave out of a printed line what differs from run to run, and how the model words what it says."""
    line = re.sub(r"\b[tr]01\w{10,}", "ID", line)
    line = re.sub(r"\d+\.\d+ ?s\b|\b\d+ ms\b|\b\d+(\(\d+\))?\+\d+\b", "", line)
    if re.search(r"(model\.returned|run\.finished).*'|^[A-Z]", line):
        kind, _, said = line.partition("'") if "'" in line else ("", "", line)
        line = " ".join([kind, *re.findall(r"\d+", said)])
    return " ".join(line.split())


@pytest.mark.servers
def test_the_tutorial_prints_what_it_says(tutorial: UpProcess) -> None:
    threads: dict[str, str] = {}
    for _, block in blocks("tutorial.md", "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            typed, *expected = part.splitlines()
            typed = typed.replace("THREAD", threads.get("fragile", "")).replace("FORK", threads.get("fork", ""))
            argv = shlex.split(typed)
            if argv[0] == "rm":
                (tutorial.data.parent / argv[1]).unlink()
                continue
            printed = ostinato(tutorial, *argv[1:])
            if argv[1] == "run":
                (threads[argv[2]],) = re.findall(r"^thread (\w+)", printed, re.MULTILINE)
            if argv[2] == "fork":
                (threads["fork"],) = re.findall(r"^thread (\w+),", printed, re.MULTILINE)
            found = printed.splitlines()
            if expected[-1] == "...":
                expected.pop()
                found = found[: len(expected)]
            assert [comparable(line) for line in found] == [comparable(line) for line in expected], printed
    health = httpx.get(f"{tutorial.url}/health", timeout=10).json()
    assert health["processes"]["agents-0"]["restarts"] == 2


def ostinato(up: UpProcess, *argv: str) -> str:
    """Run `ostinato` as the reader does; return what a terminal would show."""
    done = subprocess.run(
        [*OSTINATO, *argv, "--data", str(up.data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_S,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == (1 if "diff" in argv else 0), done.stdout
    return done.stdout


class Shell:
    """Does with nats-py what the `nats` command lines of a page ask for."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._heard: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    async def run(self, line: str) -> dict[str, Any] | None:
        """Do one line; return the acknowledgement of a request."""
        words = shlex.split(line)
        headers = {}
        while "-H" in words:
            at = words.index("-H")
            name, _, value = words[at + 1].partition(":")
            headers[name] = value
            del words[at : at + 2]
        match [word for word in words if word != "--raw"]:
            case ["nats", "sub", subject]:
                await self._client.subscribe(subject, cb=self._hear)
                await self._client.flush()
            case ["nats", "req", subject, body]:
                reply = await self._client.request(subject, body.encode(), timeout=10, headers=headers or None)
                found: dict[str, Any] = json.loads(reply.data)
                return found
            case ["nats", "pub", subject, body]:
                json.loads(body)
                await self._client.publish(subject, body.encode(), headers=headers or None)
            case ["nats", "stream", "info" | "view", stream]:
                assert (await self._client.jetstream().stream_info(stream)).config.name == stream
            case ["nats", "stream", "get", stream, sequence]:
                assert (await self._client.jetstream().get_msg(stream, int(sequence))).data
            case other:
                assert other[0] == "export", f"nobody knows how to do {line!r}"
        return None

    async def until(self, **wanted: str) -> dict[str, Any]:
        """Wait for a frame with these values."""
        async with asyncio.timeout(FRAMES_S):
            while True:
                for frame in self._heard:
                    if all(frame.get(name) == value for name, value in wanted.items()):
                        return frame
                self._more.clear()
                await self._more.wait()

    def count(self, kind: str) -> int:
        """How many events of a type were heard."""
        return sum(frame.get("type") == kind for frame in self._heard)

    async def _hear(self, message: Any) -> None:
        self._heard.append(json.loads(message.data))
        self._more.set()


def identity(frame: dict[str, Any]) -> dict[str, str]:
    """What a documented frame is found by among those heard."""
    return {name: frame[name] for name in ("frame", "type", "command", "subject", "text") if name in frame}


@pytest.mark.servers
def test_what_the_page_on_publishing_publishes_gets_the_answers_it_shows(stack: UpProcess) -> None:
    async def follow_the_page() -> None:
        client = await nats.connect(stack.nats_url)
        shell = Shell(client)
        acknowledged: dict[str, Any] | None = None
        for kind, block in blocks("publishing.md", "sh", "json", "jsonl"):
            for line in block.splitlines():
                if kind == "sh":
                    acknowledged = await shell.run(line)
                elif kind == "json":
                    assert acknowledged is not None
                    assert acknowledged.keys() == json.loads(line).keys()
                else:
                    told = json.loads(line)
                    heard = await shell.until(**identity(told))
                    assert same_shape(heard, told), f"{heard} is not {told}"
        for command in ("yes-1", "no-1"):
            assert (await shell.until(frame="outcome", command=command))["result"] == "refused"
        await shell.until(frame="outcome", command="gen-1")
        await shell.until(type="model.returned", subject="gen-1")
        # sent once more without the header: answered again, not run again
        (again,) = [line for line in commands("publishing.md") if '"source": "shell"' in line]
        await shell.run(re.sub(r'-H "[^"]+"', "", again))
        await shell.run('nats req in.default.agent.shop-1.run \'{"id": "last", "data": {"agent": "nobody"}}\'')
        await shell.until(frame="outcome", command="last")
        assert shell.count("run.started") == shell.count("run.finished") == 1
        await client.close()

    async def bounded() -> None:
        async with asyncio.timeout(2 * FRAMES_S):
            await follow_the_page()

    asyncio.run(bounded())


def same_shape(heard: Any, told: Any) -> bool:
    """Whether the same names are there, with the same words in `result` and `kind`."""
    if not isinstance(told, dict):
        return type(heard) is type(told)
    chosen = [name for name in ("frame", "type", "result", "kind", "thread", "field") if name in told]
    return (
        isinstance(heard, dict)
        and heard.keys() == told.keys()
        and all(heard[name] == told[name] for name in chosen)
        and all(same_shape(heard[name], told[name]) for name in told)
    )


@pytest.mark.servers
def test_the_page_on_processes_names_those_that_run_and_their_logs(stack: UpProcess) -> None:
    page = PAGES["processes.md"]
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| `(logs/[\w.-]+)` \|$", page, re.MULTILINE))
    health = httpx.get(f"{stack.url}/health", timeout=10).json()
    assert set(rows) == {"host", *health["processes"], *(stack.runtime["pids"])}
    for log in rows.values():
        assert (stack.data / log).is_file(), log
    ((_, shown),) = blocks("processes.md", "json")
    assert same_shape(health, json.loads(shown))
    for name in re.findall(r"`((?:infra|engine|actors|bus)/[\w./]+)`", page):
        assert (ROOT / name).exists(), name
    (ps,) = [line for line in commands("processes.md") if line.startswith("ps ")]
    listed = subprocess.run(["sh", "-c", ps], capture_output=True, text=True, timeout=10, check=True).stdout
    pids = {int(line.split()[0]) for line in listed.splitlines()}
    assert set(stack.children()) <= pids
