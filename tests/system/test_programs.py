"""An engine that knows programs: agents tell it of their tools, clients of their sessions, and all of it verifies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.settings import EMBEDDED_CHECKPOINT
from tests.system.conftest import UpProcess, ask, chat, records, start
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers


@pytest.fixture
def thinking_of_programs(system_folder: Path, tmp_path: Path) -> Iterator[UpProcess]:
    file = tmp_path / "ostinato.toml"
    file.write_text('[engine]\npolicy = "agents"\n', encoding="utf-8")
    up = start(system_folder / tmp_path.name, "--config", str(file))
    yield up
    assert up.stop() == 0


def verified(up: UpProcess) -> list[dict[str, Any]]:
    """All steps of the engine, which come out the same."""
    *steps, outcome = records(up.cli("replay", "engine", "--last", "100000", "--verify", "--json"))
    assert (outcome["ok"], outcome["problem"]) == (True, "")
    return steps


def test_the_engine_hears_of_an_agents_tools_and_shows_what_it_decided(thinking_of_programs: UpProcess) -> None:
    thread = chat(thinking_of_programs, ask("What is 12 times 34?")).headers["X-Ostinato-Thread"]
    chat(thinking_of_programs, ask("And 5 more?"), thread)
    wait_until_recorded(thinking_of_programs)
    steps = verified(thinking_of_programs)
    program = f"default/{thread}"
    assert [text for step in steps for text in step["decided"]] == [f"admitted {program}: nothing else runs"]
    told = [text for step in steps for text in step["told"]]
    assert f"{program} waits for calculator" in told
    assert f"a tool of {program} returned" in told
    assert f"{program} waits for person" in told
    shown = thinking_of_programs.cli("replay", "engine", thread).stdout
    assert f"admitted {program}: nothing else runs" in shown


def test_what_a_client_says_of_a_sessions_tools_and_end_counts_as_an_agents(thinking_of_programs: UpProcess) -> None:
    url, history = thinking_of_programs.url, list(range(20, 60))
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]

    def note(**about: Any) -> httpx.Response:
        return httpx.post(f"{url}/v1/sessions/notes", json={"session_id": "s1", **about}, timeout=60)

    def turn() -> None:
        body = {"model": model, "prompt": history, "max_tokens": 4, "ignore_eos": True, "return_token_ids": True}
        answer = httpx.post(f"{url}/v1/completions", json={**body, "session_id": "s1"}, timeout=120).json()
        history.extend([*answer["choices"][0]["token_ids"], 30])

    for call in ("c1", "c2"):
        turn()
        assert note(event="tool_began", call=call, tool="lookup").json() == {"ok": True}
        assert note(event="tool_ended", call=call).status_code == 200
    turn()
    assert note(event="ended").status_code == 200
    for wrong, field in (
        ({"event": "tool_began", "call": "c1"}, "tool"),
        ({"event": "tool_ended"}, "call"),
        ({"event": "slept"}, "event"),
        ({"event": "ended", "session_id": ""}, "session_id"),
    ):
        refused = note(**wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
    turn()  # so that a plan tells of the end
    wait_until_recorded(thinking_of_programs)
    told = [text for step in verified(thinking_of_programs) for text in step["told"]]
    program = "default/session/s1"
    assert [text for text in told if program in text and not text.startswith("request")] == [
        *(f"{program} waits for lookup", f"a tool of {program} returned") * 2,
        f"{program} is over",
    ]


def test_sessions_of_clients_share_a_memory_that_is_too_small_for_all(system_folder: Path, tmp_path: Path) -> None:
    up = start(
        system_folder / tmp_path.name,
        *(str(EMBEDDED_CHECKPOINT), "--served-model-name", "mini", "--scheduling-policy", "agents"),
        *("--num-gpu-blocks-override", "40", "--block-size", "16"),
        verb="serve",
    )

    def session(number: int) -> int:
        history, cached = [10 + number, *range(20, 140)], 0
        for turn in range(4):
            body = {"model": "mini", "prompt": history, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
            named = {"session_id": f"s{number}"} if number % 2 else {}
            headers = {} if number % 2 or number == 0 else {"X-Session-ID": f"s{number}"}
            answer = httpx.post(f"{up.url}/v1/completions", json={**body, **named}, headers=headers, timeout=120).json()
            history += [*answer["choices"][0]["token_ids"], 30 + turn]
            cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached

    try:
        with ThreadPoolExecutor(8) as pool:
            cached = list(pool.map(session, range(8)))
        assert sum(cached) > 8 * 128, "most turns found what the one before had left"
        wait_until_recorded(up)
        steps = verified(up)
        decided = [text for step in steps for text in step["decided"]]
        assert {text.split()[0] for text in decided} >= {"admitted"}
        assert {text.split()[1] for text in decided if "session" in text} == {
            f"default/session/s{number}:" for number in range(1, 8)
        }
    finally:
        assert up.stop() == 0
