"""`ostinato dead` on the running stack: what was buried is listed, mended, sent again, dropped."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bus.connection import Connection
from bus.live import watching
from schemas.live import Outcome
from tests.system.conftest import OSTINATO, UpProcess, records
from tests.system.pseudo_terminal import PseudoTerminal

pytestmark = pytest.mark.servers

CHANGE = """import sys, pathlib
file = pathlib.Path(sys.argv[1])
file.write_text(file.read_text().replace(chr(34) + "x" + chr(34), "7"))"""
QUESTION = {"agent": "demo", "text": "What is 12 times 34?"}


def command(identity: str, **data: Any) -> bytes:
    return json.dumps({"id": identity, "data": {**QUESTION, **data}}).encode()


def bury(stack: UpProcess, thread: str, body: bytes, identity: str) -> int:
    """Send what nobody can handle, wait until its sender is told, and return the letter's number."""

    async def send() -> None:
        async with (
            await Connection.open(stack.nats_url, "test") as connection,
            watching(connection, f"live.default.command.{identity}") as watcher,
        ):
            await connection.request(f"in.default.agent.{thread}.run", body)
            outcome = await watcher.next(10)
        assert isinstance(outcome, Outcome)
        assert outcome.result == "dead"

    asyncio.run(send())
    [letter] = [letter for letter in listed(stack) if f".{thread}." in letter["subject"]]
    return int(letter["number"])


def listed(stack: UpProcess) -> list[dict[str, Any]]:
    return records(stack.cli("dead", "ls", "--json"))


def test_a_letter_is_shown_whole_and_listed_in_one_line(stack: UpProcess) -> None:
    number = str(bury(stack, "dead-shown", command("dead-shown-1", seed="x\x1b[2J"), "dead-shown-1"))
    shown = stack.cli("dead", "show", number)
    assert shown.returncode == 0, shown.stderr
    assert "$.seed" in shown.stdout
    assert '"text": "What is 12 times 34?"' in shown.stdout
    assert "\x1b" not in shown.stdout
    [line] = [line for line in stack.cli("dead", "ls").stdout.splitlines() if "dead-shown" in line]
    assert line.split()[0] == number
    assert "agent/run" in line
    assert "$.seed" in line


def test_a_mended_command_is_answered_and_its_letter_gone(stack: UpProcess, tmp_path: Path) -> None:
    number = str(bury(stack, "dead-mended", command("dead-mended-1", seed="x"), "dead-mended-1"))
    body = tmp_path / "body.json"
    body.write_bytes(command("dead-mended-1", seed="y"))
    worse = stack.cli("dead", "edit", number, "--body", str(body))
    assert worse.returncode == 1
    assert "would be dead again" in worse.stderr
    assert "$.seed" in worse.stderr
    body.write_bytes(command("dead-mended-1", seed=1))
    done = stack.cli("dead", "edit", number, "--body", str(body), "--json")
    assert done.returncode == 0, done.stderr
    assert records(done) == [{"number": int(number), "command": "dead-mended-1", "result": "accepted", "problem": ""}]
    assert not [letter for letter in listed(stack) if ".dead-mended." in letter["subject"]]
    gone = stack.cli("dead", "show", number)
    assert (gone.returncode, gone.stderr) == (1, f"ostinato: no dead letter {number}: `ostinato dead ls` lists them\n")
    # a mended command is a command like any other
    for _ in range(100):
        events = records(stack.cli("replay", "show", "dead-mended", "--json"))
        if events[-1]["kind"] == "run.finished":
            break
    assert "408" in json.dumps(events[-1])


def test_an_editor_changes_what_is_sent(stack: UpProcess, tmp_path: Path) -> None:
    number = str(bury(stack, "dead-edited", command("dead-edited-1", seed="x"), "dead-edited-1"))
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{CHANGE}' \"$1\"\n", encoding="utf-8")
    editor.chmod(0o755)
    argv = [*OSTINATO, "dead", "edit", number, "--data", str(stack.data)]
    with PseudoTerminal(argv, {"VISUAL": "", "EDITOR": str(editor)}) as screen:
        screen.until(f"{number}  accepted")
        assert screen.end() == 0
    bury(stack, "dead-unedited", command("dead-unedited-1", seed="x"), "dead-unedited-1")
    [letter] = [letter for letter in listed(stack) if ".dead-unedited." in letter["subject"]]
    argv[-3] = str(letter["number"])
    with PseudoTerminal(argv, {"VISUAL": "", "EDITOR": "/no/such/editor"}) as screen:
        screen.until("there is no editor '/no/such/editor': set EDITOR")
        assert screen.end() == 1


def test_what_is_sent_again_as_it_was_is_dead_again_under_another_number(stack: UpProcess) -> None:
    number = bury(stack, "dead-again", command("dead-again-1", seed="x"), "dead-again-1")
    again = stack.cli("dead", "redrive", str(number))
    assert again.returncode == 1
    assert again.stdout.startswith(f"{number}  dead: ")
    [letter] = [letter for letter in listed(stack) if ".dead-again." in letter["subject"]]
    assert letter["number"] > number
    dropped = stack.cli("dead", "drop", str(letter["number"]))
    assert (dropped.returncode, dropped.stdout) == (0, f"{letter['number']}  dropped\n")
    assert stack.cli("dead", "drop", str(letter["number"])).returncode == 1


def test_what_was_not_kept_to_the_last_byte_is_not_sent_as_it_is(stack: UpProcess) -> None:
    body = command("dead-cut-1") + b"\xff"
    before = {letter["number"] for letter in listed(stack)}

    async def send() -> None:
        async with await Connection.open(stack.nats_url, "test") as connection:
            await connection.request("in.default.agent.dead-cut.run", body)

    asyncio.run(send())
    for _ in range(100):
        new = [letter for letter in listed(stack) if letter["number"] not in before]
        if new:
            break
    [letter] = new
    assert letter["exact"] is False
    refused = stack.cli("dead", "redrive", str(letter["number"]))
    assert refused.returncode == 1
    assert f"`ostinato dead edit {letter['number']}`" in refused.stderr
    assert stack.cli("dead", "redrive").returncode == 1


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    up = UpProcess(None, tmp_path / "none")  # type: ignore[arg-type]
    done = up.cli("dead", "ls")
    assert done.returncode == 1
    assert "ostinato up" in done.stderr
