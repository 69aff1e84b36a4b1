"""A thread with a picture whose object store is lost: what Postgres has comes back, and the talk goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.models.sight import LOST
from tests.actors.models.double import ProviderDouble
from tests.system.conftest import ask, chat, start
from tests.system.test_models_elsewhere import AGENTS, CANARY, CONFIGURATION, PICTURE, pictured, played
from tests.system.test_record import wait_until_recorded

pytestmark = pytest.mark.servers


def test_a_thread_goes_on_when_the_object_store_is_lost(
    system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = system_folder / tmp_path.name
    folder.mkdir()
    (folder / "outside.py").write_text(AGENTS, encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with ProviderDouble(played) as double:
        (folder / "ostinato.toml").write_text(CONFIGURATION.format(url=double.url), encoding="utf-8")
        about = ("--agents", str(folder / "outside.py"), "--config", str(folder / "ostinato.toml"))
        up = start(folder / "data", *about)
        thread = chat(up, pictured(PICTURE, model="agent/outside")).headers["X-Ostinato-Thread"]
        long = chat(up, ask("so long " * 10_000, model="agent/outside")).headers["X-Ostinato-Thread"]
        wait_until_recorded(up)
        assert up.stop() == 0
        (store,) = up.data.glob("**/streams/OBJ_BLOB")
        shutil.rmtree(store)
        up = start(folder / "data", *about)
        try:
            answers = [chat(up, ask("hi", model="agent/outside"), one) for one in (long, thread)]
            assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
            first, second = (asked.body["messages"][1]["content"] for asked in double.asked[-2:])
            assert first == "so long " * 10_000
            assert second == f"?{LOST}"
            # what is shown now is there as ever
            assert chat(up, pictured(PICTURE, model="agent/outside"), thread).status_code == 200
            assert double.asked[-1].body["messages"][-1]["content"][-1]["image_url"] == {"url": PICTURE}
            wait_until_recorded(up)
            verified = up.cli("replay", "verify", thread, long)
            assert verified.returncode == 0, verified.stdout
        finally:
            assert up.stop() == 0
