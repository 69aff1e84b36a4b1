"""What an engine is told of the programs whose turns it computes, and what it decides about them.

A program is what asks again and again with a history that grows: a thread of an agent, a session of a client. Between
two turns it waits for tools, or for a person.
"""

from __future__ import annotations

from typing import Final, Literal

from schemas.wire import Record, Wire

PERSON: Final = "person"
"""The tool that a program waits for whose run is over: somebody who may or may not say more."""


def program_id(tenant: str, thread: str = "", session: str = "") -> str:
    """Name a program: a thread's, or that of a session that a client says its requests belong to."""
    return f"{tenant}/{thread}" if thread else f"{tenant}/session/{session}"


class ToolBegan(Wire, frozen=True, tag="began"):
    """A program waits for a tool."""

    program: str
    call: str
    """Names the call within the program."""
    tool: str
    """What kind of tool: calls of a kind take as long as others of it did."""


class ToolEnded(Wire, frozen=True, tag="ended"):
    """A tool has returned, or failed: once all of a program's have it goes on."""

    program: str
    call: str


class ProgramEnded(Wire, frozen=True, tag="over"):
    """A program has no further turn."""

    program: str


ProgramNote = ToolBegan | ToolEnded | ProgramEnded
"""`gen.<engine>.note`."""


class Decision(Record, frozen=True):
    """What a scheduler decided about a program, in the step in which it did."""

    program: str
    what: Literal["admitted", "paused"]
    why: str
