"""Recall by the stack's own pooling engine, on a whole stack: agents load no model for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.models.test_pooled import write
from tests.engine.test_pooling import write_tokenizer
from tests.system.conftest import UpProcess, start
from tests.system.test_erasure import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def up(system_folder: Path) -> Iterator[UpProcess]:
    encoder, settings = system_folder / "encoder", system_folder / "recalling.toml"
    encoder.mkdir()
    write(encoder, "BertModel", pad_token_id=0)
    write_tokenizer(encoder, "bert")
    settings.write_text(f'[pooling]\nmodel = "{encoder}"\nname = "vectors"\n', encoding="utf-8")
    agents = Path(__file__).parent / "recaller.py"
    process = start(system_folder / "recalling", "--config", str(settings), "--agents", str(agents))
    yield process
    assert process.stop() == 0


def run(up: UpProcess, text: str, resource: str) -> dict[str, Any]:
    asked = {"agent": "recaller", "text": text, "resource": resource, "wait_s": 60}
    answer = httpx.post(f"{up.url}/api/runs", json=asked, timeout=90)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def recalled(up: UpProcess, text: str, resource: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{up.url}/api/recall", json={"text": text, "resource": resource, "count": 1}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def test_what_was_said_is_found_by_vectors_of_the_stack_s_own_model(up: UpProcess) -> None:
    said = "two dogs slept in the warm sun"
    first = run(up, said, "ann")
    eventually(lambda: bool(recalled(up, said, "ann")))
    (hit,) = recalled(up, said, "ann")
    assert (hit["thread"], hit["content"]) == (first["thread"], said)
    assert hit["score"] > 0.999
    assert recalled(up, said, "bob") == []
    second = run(up, "TWO DOGS slept in the warm sun", "ann")  # whose tokens are the same
    events = httpx.get(f"{up.url}/api/threads/{second['thread']}/runs/{second['run']}/events", timeout=60).text
    place = f'"{first["thread"]} '
    assert '"semantic-recall"' in events
    assert place in events, "the answer's record says where what was recalled stands"
    # the model lies in the pooler's process alone
    health = httpx.get(f"{up.url}/health", timeout=10).json()["processes"]
    agents = [part["pid"] for slot, part in health.items() if slot.startswith("agents")]
    assert agents
    for pid in agents:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
