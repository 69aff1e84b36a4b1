"""What people say is in no log of any process, and what a kept answer says is gone with its thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.models.double import Asked, Played, ProviderDouble, chat_chunks, fails, says
from tests.system.conftest import UpProcess, ask, chat, start
from tests.system.test_erasure import files_with, tables_with, wait_until_erased
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers

SECRET = "Quetzalcoatlus"
AGENTS = """
from ostinato import Agent, agent_tool, tool

def odd(about):
    raise ValueError(f"odd: {about}")

@tool(effect="pure")
def break_down(word: str) -> str:
    "Break down."
    raise KeyError(word)

@tool(effect="once", needs_approval=lambda word: odd(word))
def judged(word: str) -> str:
    "Be judged."
    return word

breaks = Agent("breaks", "Be brief.", model="openai/gpt-x", tools=(break_down,), on_finish=odd)
agrees = Agent("agrees", "Be brief.", model="openai/gpt-x", tools=(judged,))
hooked = Agent("hooked", "Be brief.", model="openai/gpt-x", prepare_step=odd, on_error=odd)
asks = Agent("asks", "Be brief.", model="openai/gpt-x", tools=(agent_tool("breaks", "Helps.", before=odd),))
fallen = Agent("fallen", "Be brief.", model="careful")
quoting = Agent("quoting", "Be brief.", model="openai/gpt-x")
"""
CONFIGURATION = """
[models]
breaker_failures = 0
cache_answers = 50

[models.providers.openai]
url = "{url}/v1"

[models.providers.mine]
url = "{url}/broken"
keys = ["OPENAI_API_KEY"]

[models.chains]
careful = ["mine/gpt-y", "openai/gpt-x"]
"""
CALLED = {"breaks": "break_down", "agrees": "judged", "asks": "breaks"}


def played(asked: Asked) -> Played:
    """Quote what was asked in every way: in calls' arguments, in failures, in answers."""
    said = asked.body["messages"][-1]
    if asked.path.startswith("/broken"):
        return fails(503, f"cannot read {said['content']}")
    name = CALLED.get(str(said["content"]).partition(" ")[0])
    if said["role"] != "user" or name is None:
        return says(f"you said {said['content']}")
    arguments = f'{{"{"message" if name == "breaks" else "word"}": "{SECRET}"}}'
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return Played(chat_chunks({"tool_calls": [call]}, finish="tool_calls"))


@pytest.fixture(scope="module")
def quiet(system_folder: Path) -> Iterator[tuple[UpProcess, ProviderDouble]]:
    folder = system_folder / "quiet"
    folder.mkdir()
    (folder / "agents.py").write_text(AGENTS, encoding="utf-8")
    with ProviderDouble(played) as double, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-1")
        (folder / "ostinato.toml").write_text(CONFIGURATION.format(url=double.url), encoding="utf-8")
        up = start(folder / "data", "--agents", str(folder / "agents.py"), "--config", str(folder / "ostinato.toml"))
        try:
            yield up, double
        finally:
            assert up.stop() == 0


def test_what_breaks_with_somebodys_words_in_it_is_logged_without_them(
    quiet: tuple[UpProcess, ProviderDouble],
) -> None:
    up, _ = quiet
    for agent in ("breaks", "agrees", "hooked", "asks", "fallen"):
        begun = up.cli("run", f"agent/{agent}", f"{agent} {SECRET}", "--json")
        assert SECRET in begun.stdout + begun.stderr, (agent, begun)
    refused = chat(up, ask(SECRET, model=f"agent/{SECRET.lower()}"))
    assert refused.status_code >= 400
    logs = "".join(path.read_text(encoding="utf-8") for path in up.data.glob("logs/*.log"))
    for what in (
        "tool break_down failed: KeyError at agents.py",
        "whether judged needs approval cannot be said: ValueError at agents.py",
        "a hook of agent 'hooked' failed: ValueError at agents.py",
        "an observer of agent 'hooked' failed: ValueError at agents.py",
        "an observer of agent 'breaks' failed: ValueError at agents.py",
        "a hook around agent 'breaks' failed: ValueError at agents.py",
        "model mine/gpt-y cannot be had: ",
    ):
        assert what in logs
    assert SECRET not in logs
    assert SECRET.lower() not in logs
    assert not [path for path in files_with(up.data, SECRET) if path.suffix == ".log"]


def test_a_kept_answer_is_gone_with_the_thread_that_it_came_of(quiet: tuple[UpProcess, ProviderDouble]) -> None:
    up, double = quiet
    word = "Pterodaustro"

    def said_in(thread: str) -> int:
        """Say it, and count how often the provider is asked."""
        assert up.cli("thread", "create", thread).returncode == 0
        before = len(double.asked)
        answer = up.cli("run", "agent/quoting", f"my {word}", "--thread", thread)
        assert f"you said my {word}" in answer.stdout
        return len(double.asked) - before

    assert [said_in("first"), said_in("second")] == [1, 0]
    wait_until_recorded(up)
    assert up.cli("thread", "delete", "first").returncode == 0
    wait_until_erased(up, "first")
    assert said_in("third") == 1
    for thread in ("second", "third"):
        assert up.cli("thread", "delete", thread).returncode == 0
        wait_until_erased(up, thread)
    assert tables_with(up, word) == set()
    assert not files_with(up.data / "nats", word)
    assert not [path for path in files_with(up.data, word) if path.suffix == ".log"]
