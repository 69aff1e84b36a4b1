"""Tells the calls of an answer while they are read: what was told stays told.

A call is told as soon as there is a name and the beginning of arguments: then its arguments, as far as they are
certain to be the beginning of a JSON object. One that comes to no end stays what it is, a call whose arguments are no
JSON, so that nobody can carry out half of what was wanted.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.text.parts import CallArguments, CallBegun, CallEnded, ParsedCall, Part


class CallTeller:
    """Tells calls one after the other."""

    def __init__(self, hear: Callable[[Part], None], most: int | None = None) -> None:
        """Begin; of calls after so many nothing is told."""
        self._hear = hear
        self._most = most
        self._name = ""
        self._pieces: list[str] = []
        self.calls: list[ParsedCall] = []
        """Those that are over."""
        self.open = False
        """Whether one is not."""

    @property
    def enough(self) -> bool:
        """Whether no more are wanted."""
        return self._most is not None and len(self.calls) >= self._most

    def begin(self, name: str) -> None:
        """A call begins."""
        assert not self.open
        self.open, self._name = True, name
        self._pieces.clear()
        self._tell(CallBegun(len(self.calls), name))

    def write(self, text: str) -> None:
        """Its arguments go on."""
        assert self.open
        if text:
            self._pieces.append(text)
            self._tell(CallArguments(len(self.calls), text))

    def end(self) -> None:
        """Its arguments are whole."""
        self._end(whole=True)

    def break_off(self) -> None:
        """Its arguments come to no end."""
        self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        assert self.open
        self.open = False
        if not self.enough:
            self._tell(CallEnded(len(self.calls), whole))
            self.calls.append(ParsedCall(self._name, "".join(self._pieces), whole))

    def _tell(self, part: Part) -> None:
        if not self.enough:
            self._hear(part)
