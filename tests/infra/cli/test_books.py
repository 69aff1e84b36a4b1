"""How the books of the log are laid out, and what the command line takes."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest

from bus.projected import RunRow, ThreadRow, UsageRow
from infra.cli import books
from infra.cli.books import _as_json, _Late, _table
from infra.cli.main import parser
from infra.cli.progress import Bar
from infra.cli.timeline import ExpiredSteps, Line, expired_steps
from schemas.times import microseconds, rfc3339
from tests.infra.cli.test_terminal import Screen

NOON = 1_795_521_600_000_000
RUN = RunRow(
    "acme", "t1", "r1", "agent", "demo", "mini", "finished", "stop", False, NOON, NOON, NOON + 1_500_000,
    2, 1, 30, 12, 8,
)  # fmt: skip


def test_a_table_is_as_wide_as_what_is_in_it() -> None:
    failed = RUN._replace(run="r100", agent="", status="failed", reason="aborted", started=None)
    assert _table("runs", [RUN, failed]) == [
        "run   thread  agent  model  status            asked                  took  calls  tools  tokens",
        "r1    t1      demo   mini   finished          2026-11-24T12:00:00Z  1.5 s      2      1   30+12",
        "r100  t1      -      mini   failed (aborted)  2026-11-24T12:00:00Z             2      1   30+12",
    ]


def test_numbers_are_grouped_and_names_command_no_terminal() -> None:
    usage = UsageRow("acme", "de\x1b[31mmo", "mini", date(2026, 11, 24), 1200, 0, 1, 1, 1_000_000, 5, 0, 0)
    thread = ThreadRow("acme", "t1", "agent", "demo", "idle", 1, 0, 2, 10, 0, NOON, NOON, "", "")
    assert _table("usage", [usage])[1] == (
        "2026-11-24  acme    demo   mini   1,200       0      1      1  1,000,000       0           5"
    )
    assert _table("threads", [thread])[1].split() == [
        "t1", "agent", "demo", "idle", "2026-11-24T12:00:00Z", "1", "2", "10",
    ]  # fmt: skip


def test_times_are_text_for_programs() -> None:
    told = _as_json(RUN._replace(finished=None))
    assert (told["asked"], told["finished"]) == ("2026-11-24T12:00:00.000000Z", None)


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["retain", "--steps", "7d"], 7),
        (["retain", "--steps", "365d", "--dry-run"], 365),
    ],
)
def test_days_are_read(argv: list[str], value: int) -> None:
    assert parser().parse_args(["log", *argv]).steps == value


@pytest.mark.parametrize("argv", [
    ["retain"], ["retain", "--steps", "7"], ["retain", "--steps", "12h"], ["retain", "--steps", "0d"],
    ["retain", "--steps", "99999999d"], ["rebuild"], ["rebuild", "events"], ["usage", "--days", "99999999"],
])  # fmt: skip
def test_what_makes_no_sense_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["log", *argv])
    assert ended.value.code == 2
    assert f"usage: ostinato log {argv[0]}" in capsys.readouterr().err


def test_progress_shows_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    late = _Late(Bar(screen, "rebuilding"))
    late(1, 10)
    assert screen.getvalue() == ""
    monkeypatch.setattr(books, "_LATE_S", 0.0)
    late(2, 10)
    assert "rebuilding" in screen.getvalue()
    assert "20%" in screen.getvalue()


@pytest.mark.parametrize(
    ("gone_before", "expired"), [(NOON - 2_000_001, None), (NOON - 1_000_000, "some"), (NOON + 1, "all")]
)
def test_it_is_said_which_steps_of_a_call_have_expired(gone_before: int, expired: str | None) -> None:
    line = Line(
        1, "1/0", rfc3339(NOON), 0.0, "model", "model.returned", "r1", 1, "", "", 2.0, "e", "r", msgspec.Raw(b"{}")
    )
    found = expired_steps(line, gone_before)
    assert (None if found is None else found.expired) == expired
    if isinstance(found, ExpiredSteps):
        assert "steps have expired: those before 2026-11-24 are not kept" in found.text()
    assert microseconds(line.time) == NOON
