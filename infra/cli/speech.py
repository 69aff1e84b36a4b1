"""Frames of a run as a person reads them in a terminal: text as it comes, tool calls in brackets."""

from __future__ import annotations

from typing import TextIO

import msgspec

from schemas import codec
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import ToolCall
from schemas.runs import Problem, ToolCalled, ToolFailed, ToolReturned


class Speech:
    """Prints one run."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self.problem: Problem | None = None
        """Why there is no answer."""

    def note(self, frame: Frame) -> None:
        """Remember a failure, whether or not it is printed."""
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Committed(type="run.failed", data=data):
                self.problem = codec.decode(msgspec.json.decode(data, type=dict[str, msgspec.Raw])["problem"], Problem)
            case _:
                pass

    def say(self, frame: Frame) -> None:
        """Print what a frame adds."""
        match frame:
            case Delta(text=text):
                self._output.write(text)
            case Committed(type="tool.called", data=data):
                call: ToolCall = codec.decode(data, ToolCalled).call
                self._output.write(f"[{call.name} {call.arguments}")
            case Committed(type="tool.returned", data=data):
                self._output.write(f" -> {codec.decode(data, ToolReturned).content}]\n")
            case Committed(type="tool.failed", data=data):
                self._output.write(f" -> {codec.decode(data, ToolFailed).content}]\n")
            case _:
                pass
