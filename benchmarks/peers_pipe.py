"""How an engine without a server is asked: a line for each request in, a line for what came of each step out.

Imports nothing but Python's own, since it runs in the peers' interpreters. In: `[name, prompt tokens, how many]`. Out:
`[[name, new tokens, whether that was all], …]`; before the first of them, `"ready"`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import NamedTuple


class Asked(NamedTuple):
    """One request."""

    name: int
    prompt: list[int]
    wanted: int


class Told(NamedTuple):
    """What came of one in a step."""

    name: int
    tokens: list[int]
    done: bool


class Pipe:
    """Standard input and output of an engine's process; whatever else it prints goes to standard error."""

    def __init__(self) -> None:
        """Take both."""
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()

    def ready(self) -> None:
        """Say that requests can come."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._say("ready")

    def take(self, wait: bool) -> list[Asked]:
        """Give the requests that came, after having waited for the first of them or at once.

        Raises:
            EOFError: There will be no more.
        """
        found: list[Asked] = []
        while True:
            try:
                asked = self._asked.get(block=wait and not found)
            except queue.Empty:
                return found
            if asked is None:
                raise EOFError
            found.append(asked)

    def tell(self, news: list[Told]) -> None:
        """Say what came of a step."""
        if news:
            self._say(news)

    def _say(self, told: object) -> None:
        self._out.write(json.dumps(told, separators=(",", ":")) + "\n")
        self._out.flush()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._asked.put(Asked(*json.loads(line)))
        self._asked.put(None)
