"""Frames of a run as a person reads them in a terminal: text as it comes, tool calls in brackets as they run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TextIO

import msgspec

from infra.cli.terminal import Style, printable, style_for
from schemas import codec
from schemas.generation import BROKEN_OFF
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import ToolCall
from schemas.runs import (
    NEEDS_PERSON,
    ModelReturned,
    Problem,
    RetryScheduled,
    RunQueued,
    ToolCalled,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)

_BRIEF = 300
"""Characters of a tool's arguments or result that are shown."""


class Speech:
    """Prints one run or generation."""

    def __init__(
        self, output: TextIO, style: Style | None = None, wanted: Mapping[str, ToolCall] | None = None
    ) -> None:
        """Make it.

        Args:
            output: where to print.
            style: how; as suits the output, unless given.
            wanted: tool calls that the model asked for earlier, by effect.
        """
        self._output = output
        self._style = style or style_for(output)
        self._clean = printable if output.isatty() else str
        self._wanted = dict(wanted or {})
        """Tool calls that the model asked for, by effect."""
        self._began: dict[str, str] = {}
        """When those that run began, by effect."""
        self._bracket = ""
        """Effect of the tool call whose line is not ended."""
        self._effect, self._length = "", 0
        self._fresh = True
        """Whether the line needs no end before a new one begins."""
        self.text = ""
        """What the model has said in its last call."""
        self.problem: Problem | None = None
        """Why there is no answer."""
        self.needs_person = False
        """Whether a tool was not called because nobody could be asked."""

    def note(self, frame: Frame) -> None:
        """Remember a failure, whether or not it is printed."""
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Committed(type="run.failed" | "model.failed", data=data):
                self.problem = codec.decode(msgspec.json.decode(data, type=dict[str, msgspec.Raw])["problem"], Problem)
            case Committed(type="retry.scheduled"):
                self.problem = None  # there may be an answer yet
            case Committed(type="model.returned", data=data):
                answer: ModelReturned = codec.decode(data, ModelReturned)
                self.text = answer.text
                if answer.finish_reason in BROKEN_OFF:
                    message = f"the model's answer was broken off ({answer.finish_reason})"
                    self.problem = Problem(kind="engine", message=message)
            case Committed(type="tool.failed", data=data):
                self.needs_person = self.needs_person or NEEDS_PERSON in codec.decode(data, ToolFailed).content
            case _:
                pass

    def say(self, frame: Frame) -> None:
        """Print what a frame adds."""
        match frame:
            case Delta(effect=effect, text=text):
                self._say_text(effect, text)
            case Committed(type="model.returned", data=data):
                said: ModelReturned = codec.decode(data, ModelReturned)
                self._say_text(said.effect, said.text[self._length if said.effect == self._effect else 0 :])
                for index, call in enumerate(said.tool_calls):
                    self._wanted[f"{said.effect.rpartition('-m')[0]}-t{index}"] = call
            case Committed(type="run.queued", data=data):
                self._aside(f"[waits for run {codec.decode(data, RunQueued).behind}]\n")
            case Committed(type="retry.scheduled", data=data):
                retry: RetryScheduled = codec.decode(data, RetryScheduled)
                seconds = (retry.at - retry.decided) / 1e6
                self.end()
                self._aside(f"[{retry.kind}: the model is asked again in {seconds:.1f} s, attempt {retry.attempt}]\n")
            case Committed(type="tool.called", data=data, time=time):
                self._begin(codec.decode(data, ToolCalled), time)
            case Committed(type="tool.returned", data=data, time=time):
                self._end(codec.decode(data, ToolReturned), time)
            case Committed(type="tool.failed", data=data, time=time):
                self._end(codec.decode(data, ToolFailed), time)
            case Committed(type="tool.indeterminate", data=data, time=time):
                self._end(codec.decode(data, ToolIndeterminate), time)
            case _:
                pass

    def end(self) -> None:
        """End the line, if something stands on it; a tool that still runs will have another."""
        if self._bracket:
            self._aside(" …]\n")
        elif not self._fresh:
            self._output.write("\n")
        self._fresh, self._bracket = True, ""

    def _say_text(self, effect: str, text: str) -> None:
        if effect != self._effect:
            self._effect, self._length = effect, 0
        if not text:
            return
        self._length += len(text)
        if self._bracket:
            self.end()
        clean = self._clean(text)
        self._output.write(clean)
        self._fresh = clean.endswith("\n") if clean else self._fresh

    def _begin(self, called: ToolCalled, time: str) -> None:
        self._wanted[called.effect], self._began[called.effect] = called.call, time
        self.end()
        self._open(called.effect)
        self._bracket = called.effect

    def _end(self, result: ToolReturned | ToolFailed | ToolIndeterminate, time: str) -> None:
        began = self._began.pop(result.effect, None)
        if self._bracket != result.effect:
            # another call's line came between, or the tool was never called
            self.end()
            self._open(result.effect)
        seconds = "" if began is None else f"  {_seconds(began, time):.2f} s"
        text = f" -> {_brief(result.content)}"
        failed = not isinstance(result, ToolReturned)
        self._output.write(self._style.problem(text) if failed else self._style.aside(text))
        self._aside(f"{seconds}]\n")
        self._bracket = ""

    def _open(self, effect: str) -> None:
        call = self._wanted.get(effect)
        self._aside("[tool" if call is None else f"[{call.name} {_brief(call.arguments)}")

    def _aside(self, text: str) -> None:
        body = printable(text).rstrip("\n")
        self._output.write(self._style.aside(body) + ("\n" if text.endswith("\n") else ""))
        self._fresh = text.endswith("\n")


def _brief(text: str) -> str:
    """Give what a tool was told or said as part of a line; the record has all of it."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _BRIEF else f"{line[:_BRIEF]}… ({len(text)} characters)"


def _seconds(began: str, ended: str) -> float:
    """Between two times of the log."""
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
