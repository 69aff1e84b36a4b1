"""Colour where it is wanted, and nothing that commands the terminal."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys

import msgspec
import pytest

from infra.cli.progress import StageLine
from infra.cli.speech import Speech
from infra.cli.terminal import Style, printable, prompt, redraws, style_for
from infra.cli.timeline import Line, ThreadLine
from schemas import codec
from schemas.live import Committed, Delta
from schemas.messages import ToolCall, Usage
from schemas.runs import Event, ModelReturned, ToolCalled, ToolFailed, ToolReturned


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("output", "environment", "colour"),
    [
        (Screen(), {"TERM": "xterm"}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {}, False),
        (Screen(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Screen(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"CLICOLOR_FORCE": "1"}, True),
        (io.StringIO(), {"CLICOLOR_FORCE": "0"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, io.StringIO) else str(value),
)
def test_colour_follows_the_terminal_and_what_the_environment_says(
    output: io.StringIO, environment: dict[str, str], colour: bool
) -> None:
    assert style_for(output, environment).colour is colour


def test_forced_colour_does_not_make_a_pipe_redraw() -> None:
    assert not redraws(io.StringIO(), {"FORCE_COLOR": "1", "TERM": "xterm"})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain\ttext\nwith ünïcödé ☂", "plain\ttext\nwith ünïcödé ☂"),
        ("\x1b[2Jcleared\x1b[31m", "cleared"),
        ("\x1b]0;title\x07here", "here"),
        ("over\rwritten\x08", "overwritten"),
        ("\x9b31mred", "31mred"),
    ],
)
def test_what_would_command_the_terminal_is_left_out(text: str, left: str) -> None:
    assert printable(text) == left


def test_styles_take_no_room_in_a_prompt() -> None:
    assert prompt(Style(True).name("a")) == "\x01\x1b[1m\x02a\x01\x1b[0m\x02"


def committed(event: Event, version: int, time: str = "2026-11-24T02:00:00.000000Z") -> Committed:
    return Committed(
        id=f"{version}-0",
        type=codec.tag(event),
        subject="r",
        thread="t",
        time=time,
        tenant="d",
        cause="",
        version=version,
        data=codec.payload(event),
    )


CALLS = (ToolCall("a", "add", '{"x": 1}'), ToolCall("b", "mail", "{}"), ToolCall("c", "nope", "{}"))


def test_calls_that_run_beside_one_another_each_get_their_result() -> None:
    output = io.StringIO()
    speech = Speech(output, Style(False))
    for frame in (
        Delta("r", "t", "r-1-m", 1, 0, "Let me"),
        committed(ModelReturned("r-1-m", "Let me see.", "tool_calls", Usage(), CALLS), 2),
        committed(ToolCalled("r-1-t0", CALLS[0], "pure"), 3),
        committed(ToolCalled("r-1-t1", CALLS[1], "once"), 4),
        committed(ToolFailed("r-1-t2", "c", "error: no tool"), 5),
        committed(ToolReturned("r-1-t1", "b", "sent"), 6, "2026-11-24T02:00:01.500000Z"),
        committed(ToolReturned("r-1-t0", "a", "2"), 7, "2026-11-24T02:00:02.000000Z"),
        Delta("r", "t", "r-2-m", 8, 0, "Done."),
    ):
        speech.say(frame)
    speech.end()
    assert output.getvalue().splitlines() == [
        "Let me see.",
        '[add {"x": 1} …]',
        "[mail {} …]",
        "[nope {} -> error: no tool]",
        "[mail {} -> sent  1.50 s]",
        '[add {"x": 1} -> 2  2.00 s]',
        "Done.",
    ]


def test_a_long_result_of_many_lines_is_part_of_one_line_and_commands_nobody() -> None:
    output = io.StringIO()
    speech = Speech(output, Style(False), {"r-1-t0": CALLS[0]})
    result = "\x1b[2J" + "first\nsecond " + "x" * 5000
    speech.say(committed(ToolFailed("r-1-t0", "a", result), 5))
    [line] = output.getvalue().splitlines()
    assert line.startswith('[add {"x": 1} -> first second xxx')
    assert line.endswith(f"x… ({len(result)} characters)]")
    assert len(line) < 400
    assert "\x1b" not in line


def stage_line(output: io.StringIO, seconds: list[float]) -> StageLine:
    return StageLine(output, [["model"], ["servers"], ["agents-0", "worker-0"], ["ready"]], lambda: seconds[-1])


def test_a_terminal_shows_what_is_under_way_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    output, seconds = Screen(), [0.0]
    line = stage_line(output, seconds)
    line("model", 0.0)
    line("servers", 1.2)
    line("agents-0", 2.04)
    seconds.append(3.4)
    line.tick()
    assert output.getvalue().split("\r\x1b[K")[-1] == "starting: model 0.0s  servers 1.2s  agents-0 2.0s  worker-0 … 3s"
    line("worker-0", 4.0)
    line("ready", 4.1)
    assert "\n" not in output.getvalue()[:-1]
    assert output.getvalue().endswith("agents-0 2.0s  worker-0 4.0s  ready 4.1s\n")
    line.tick()
    assert output.getvalue().endswith("ready 4.1s\n")


def test_a_narrow_terminal_keeps_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    output = Screen()
    line = stage_line(output, [9.0, 10.0])
    line("model", 0.0)
    line("servers", 1.2)
    line("agents-0", 2.0)
    last = output.getvalue().split("\r\x1b[K")[-1]
    assert last.endswith("worker-0 … 0s")
    assert len(last) < 40


def test_elsewhere_a_line_for_each_long_stage_and_one_at_the_end() -> None:
    output = io.StringIO()
    line = stage_line(output, [0.0])
    for stage, seconds in (("model", 0.1), ("servers", 0.9), ("agents-0", 1.5), ("worker-0", 4.0), ("ready", 4.1)):
        line(stage, seconds)
    assert output.getvalue().splitlines() == [
        "starting: worker-0 took 3.1 s",
        "started: model 0.1s  servers 0.9s  agents-0 1.5s  worker-0 4.0s  ready 4.1s",
    ]


def test_a_start_that_fails_leaves_the_cursor_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Screen()
    with stage_line(output, [0.0]) as line:
        line("model", 0.1)
    assert output.getvalue().endswith("\n")


def test_a_reader_that_goes_away_is_no_complaint() -> None:
    command = f"{sys.executable} -m infra.cli.main completion bash"
    with subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait(60) == 141
    assert complaint == b""


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">/dev/full", 1, b"ostinato: No space left on device\n"),
        (">&-", 0, b""),
        (">/dev/full 2>&-", 1, b""),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(redirection: str, code: int, told: bytes) -> None:
    command = f"{shlex.quote(sys.executable)} -m infra.cli.main config show {redirection}"
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, told)


def test_problems_of_a_timeline_are_red_and_tools_dim() -> None:
    def line(kind: str) -> str:
        at = Line(7, "1/0", "", 0.5, "tool", kind, "r", 1, "a\x1b[2Jb\nc", "", None, None, None, msgspec.Raw(b"{}"))
        return at.text(Style(True))

    assert "\x1b[31mtool.failed" in line("tool.failed")
    assert "\x1b[2mtool.called" in line("tool.called")
    assert line("run.started").endswith("ab c")


def test_a_list_of_threads_counts_in_columns() -> None:
    def line(turns: int, events: int) -> str:
        return ThreadLine("t-1", "2026-01-01T00:00:00", "agent", turns, events, "run.finished", "Hi").text()

    assert "  1 turn     1 event   run.finished" in line(1, 1)
    assert " 12 turns  108 events  run.finished" in line(12, 108)
    assert line(1, 1).index("run.") == line(12, 108).index("run.")
