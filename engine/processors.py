"""Logits processors of other installed packages: functions that change the logits of requests that ask for them.

A package names one in its `pyproject.toml`:

    [project.entry-points."ostinato.logits_processors"]
    upper_bound = "my_package:upper_bound" # a `LogitsProcessor`

and a request asks for it by that name, with what it is to be told: `extra_args: {"upper_bound": {"token": 7}}`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from engine.logits import Tokens, Wanted
from engine.plugins import PROCESSORS, leave_out, plugins

log = logging.getLogger(__name__)


def _guarded(tokens: Tokens) -> Tokens:
    """Give tokens that cannot be written: they are the worker's own."""
    view = tokens.view()
    view.flags.writeable = False
    return view


class LogitsProcessor(Protocol):
    """Changes the logits of one request, in place.

    It must depend on what it is given alone: a request may be preempted, or go on in another process, and is to draw
    the same tokens there.
    """

    def __call__(self, logits: Tensor, argument: Any, prompt: Tokens, output: Tokens) -> None:
        """Change float32 logits [vocabulary], given the request's argument, its prompt and its output so far.

        Raises:
            ValueError: the argument is not what it takes; the request ends with an error that says so.
        """


class Processors:
    """The processors that are installed."""

    def __init__(self) -> None:
        self._found: dict[str, LogitsProcessor] = {}
        for name, loaded in plugins(PROCESSORS):
            if callable(loaded):
                self._found[name] = loaded
            else:
                leave_out(f"{name!r} of {PROCESSORS}", f"it is a {type(loaded).__name__}, no function")

    def apply(self, logits: Tensor, wanted: Sequence[Wanted]) -> dict[int, str]:
        """Change float32 logits [rows, vocabulary] in place; say for which rows that went wrong, and how."""
        problems: dict[int, str] = {}
        for one in wanted:
            for name, argument in one.sampling.extra_args.items():
                problem = self._apply(name, argument, logits[one.row], one)
                if problem:
                    problems[one.row] = problem
                    break
        return problems

    def _apply(self, name: str, argument: Any, logits: Tensor, one: Wanted) -> str:
        processor = self._found.get(name)
        if processor is None:
            installed = ", ".join(sorted(self._found)) or "none"
            return f"extra_args: there is no logits processor {name!r}: installed are {installed}"
        try:
            processor(logits, argument, _guarded(one.prompt), _guarded(one.output))
        except ValueError as error:
            return f"extra_args.{name}: {error}"
        except Exception as error:  # whatever somebody else's code does
            log.exception("the logits processor %r broke", name)
            return f"the logits processor {name!r} broke: {error!r}"
        return f"the logits processor {name!r} made numbers that are none" if logits.isnan().any() else ""
