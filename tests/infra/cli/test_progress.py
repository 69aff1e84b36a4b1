"""The line that says what a start waits for, where lines can be drawn again and where they cannot."""

from __future__ import annotations

import io

import pytest

from infra.cli.progress import Bar, StageLine

GROUPS = (("model",), ("servers",), ("ready",))


class Terminal(io.StringIO):
    """What a terminal would get."""

    def isatty(self) -> bool:
        return True


class Seconds:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_a_note_now_and_then_and_a_line_for_what_took_long() -> None:
    output, clock = io.StringIO(), Seconds()
    with StageLine(output, GROUPS, clock) as line:
        for second in range(25):
            clock.now = float(second)
            line.note(f"downloading a/b: {second} of 25 MB")
        line("model", 25.0)
        line("servers", 25.5)
        line("ready", 26.0)
    assert output.getvalue().splitlines() == [
        "downloading a/b: 0 of 25 MB",
        "downloading a/b: 10 of 25 MB",
        "downloading a/b: 20 of 25 MB",
        "starting: model took 25.0 s",
        "started: model 25.0s  servers 25.5s  ready 26.0s",
    ]


def test_a_terminal_shows_the_note_in_place_of_the_stage_until_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    output, clock = Terminal(), Seconds()
    with StageLine(output, GROUPS, clock) as line:
        line.tick()
        clock.now = 3.0
        line.note("downloading a/b: 7 of 25 MB")
        line("model", 4.0)
        line.tick()
    drawn = output.getvalue().split("\r\x1b[K")
    assert drawn[1] == "starting: model … 0s"
    assert drawn[2] == "starting: downloading a/b: 7 of 25 MB … 3s"
    assert drawn[3] == "starting: model 4.0s  servers … 3s"


def test_a_bar_fills_in_a_terminal_and_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    output, clock = Terminal(), Seconds()
    with Bar(output, "verifying", clock) as bar:
        bar(0, 4)
        bar(1, 4, "too soon to be drawn")
        clock.now = 1.0
        bar(1, 4, "9 threads")
        bar(4, 4)
    drawn = output.getvalue().split("\r\x1b[K")
    assert [line.count("█") for line in drawn[1:-1]] == [0, 10, 40]
    assert "25%  9 threads" in drawn[2]
    assert drawn[-1] == ""


def test_a_bar_is_nothing_where_lines_cannot_be_drawn_again() -> None:
    output = io.StringIO()
    with Bar(output, "verifying") as bar:
        bar(1, 2)
    assert output.getvalue() == ""
