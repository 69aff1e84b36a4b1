"""What came of generating a recorded request again, as data and as lines. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from infra.cli.terminal import PLAIN, Style, printable


class Regenerated(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request."""

    request: str
    state: Literal["same", "differs", "unknown"]
    """`unknown` where it could not be generated again."""
    tokens: int = 0
    """Of the answer, compared."""
    judged: int = 0
    """Positions of which was compared what the model made of them, to the last bit."""
    preemptions: int = 0
    """How often it had to give way when it was recorded."""
    problem: str = ""
    """Why it could not be generated again, or what is missing of its record."""
    elsewhere: str = ""
    """What is not as it was when it was recorded: a difference may come of that."""
    forged: bool = False
    """Whether the trace holds other tokens than the log, which is chained by hashes, vouches for."""
    scheduler: str = ""
    """Of the step that says otherwise."""
    step: int | None = None
    position: int | None = None
    """In prompt and answer together, from 0."""
    index: int | None = None
    """In the answer, from 0; below 0 in the prompt."""
    what: str = ""
    """`token`, `logprobs`, or `prompt` where the record contradicts itself."""
    expected: str = ""
    """What is recorded."""
    actual: str = ""
    """What comes out."""

    @property
    def excused(self) -> bool:
        """Whether it differs, and may do so because something is not as it was."""
        return self.state == "differs" and bool(self.elsewhere) and not self.forged

    def text(self, style: Style = PLAIN) -> str:
        """Write it for a terminal."""
        name, problem = printable(self.request), f": {printable(self.problem)}" if self.problem else ""
        if self.state == "unknown":
            return f"{name}: {style.problem('CANNOT BE GENERATED AGAIN')}{problem}"
        if self.state == "same":
            judged = f", {self.judged} positions judged" if self.judged else ""
            gave_way = f", gave way {self.preemptions} times" if self.preemptions else ""
            return f"{name}: same ({self.tokens} tokens{judged}{gave_way}){problem}"
        at = "" if self.step is None else f" at step {self.step} of {self.scheduler}"
        lines = [f"{name}: {style.problem('DIFFERS')}{at}{self._where()}{problem}"]
        if self.position is not None:
            lines.append(f"    the record says  {_short(printable(self.expected))}")
            lines.append(f"    comes out        {_short(printable(self.actual))}")
        if self.excused:
            lines.append(f"    {style.aside(f'which proves nothing: {printable(self.elsewhere)}')}")
        return "\n".join(lines)

    def _where(self) -> str:
        if self.position is None or self.index is None:
            return ""
        of = "of the prompt" if self.index < 0 else f"{self.index} of the answer"
        return f", position {self.position} ({self.what} {of})"


class Verdict(msgspec.Struct):
    """What came of all requests together."""

    requests: int = 0
    tokens: int = 0
    differing: int = 0
    excused: int = 0
    """Of those that differ, the ones that were recorded with something else."""
    unknown: int = 0
    seconds: float = 0.0

    def add(self, outcome: Regenerated) -> None:
        """Count one."""
        self.requests += 1
        self.tokens += outcome.tokens
        self.differing += outcome.state == "differs"
        self.excused += outcome.excused
        self.unknown += outcome.state == "unknown"

    def took(self, seconds: float) -> None:
        """Note how long it took, the loading of models included."""
        self.seconds = round(seconds, 3)

    def code(self, *, strict: bool) -> int:
        """Give the exit code: 0 same, 1 differs, 2 nobody can say."""
        if self.differing > (0 if strict else self.excused):
            return 1
        return 2 if self.differing or self.unknown else 0

    def text(self) -> str:
        """Write it for a terminal."""
        cannot = f", {self.unknown} cannot be generated again" if self.unknown else ""
        return f"{self.requests} requests, {self.differing} differ{cannot} ({self.tokens} tokens, {self.seconds:.2f} s)"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
