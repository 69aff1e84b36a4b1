"""Text that is nothing but text: what a model writes after a raw prompt, up to a stop string.

What comes out does not depend on where the input is cut: whatever may still become a stop string is held back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.text.parsers import ParsedCall


class PlainText:
    """Reads one answer in which nothing is a tool call; used as an `OutputParser` is."""

    calls: Sequence[ParsedCall] = ()

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stops = tuple(text for text in stop if text)
        self._longest = max(map(len, self._stops), default=0)
        self._search = re.compile("|".join(map(re.escape, self._stops))).search if self._stops else None
        self._held = ""
        self.stopped = False
        """Whether a stop string was met: what follows it is dropped."""

    def feed(self, text: str) -> str:
        """Take what the model wrote; return what is certain now."""
        if self.stopped or self._search is None:
            return "" if self.stopped else text
        text = self._held + text
        found = self._search(text)
        until = len(text) if found is None else found.start()
        for at in range(max(len(text) - self._longest + 1, 0), until):
            # a longer one that begins earlier may yet come to its end
            if any(stop.startswith(text[at:]) for stop in self._stops):
                self._held = text[at:]
                return text[:at]
        self._held, self.stopped = "", found is not None
        return text[:until]

    def finish(self) -> str:
        """The answer is over: return what was held back."""
        text, self._held = self._held, ""
        found = self._search(text) if self._search is not None else None
        self.stopped = self.stopped or found is not None
        return text if found is None else text[: found.start()]
