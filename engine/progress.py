"""How far work has come, told on standard error: a bar where that is a terminal, nothing elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

UseTqdm = bool | Callable[..., Any] | None
"""Whether a bar is drawn: `None` where standard error is a terminal. Or what is called in `tqdm`'s place, with its
arguments, and makes what has its `update`, `set_postfix_str` and `close`."""


class Bar:
    """A line that fills; a context manager, which ends it."""

    def __init__(self, use_tqdm: UseTqdm, what: str, total: int, **shape: Any) -> None:
        """Begin one.

        Args:
            use_tqdm: whether, or with what, it is drawn.
            what: is done, in a word.
            total: how much of it.
            shape: what else `tqdm` is told.
        """
        given = {"desc": what, "total": total, "dynamic_ncols": True, "miniters": 0, **shape}
        disable = None if use_tqdm is None else not use_tqdm
        self._bar = use_tqdm(**given) if callable(use_tqdm) else tqdm(disable=disable, **given)
        self._left = total
        self.shown = not getattr(self._bar, "disable", False)
        """Whether anybody sees it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, done: int, note: Callable[[], str] | None = None) -> None:
        """Tell that so much more is done; `note` is asked for what stands beside the bar if there is one."""
        if not self.shown:
            return
        self._left -= done
        if note is not None:
            self._bar.set_postfix_str(note(), refresh=False)
        self._bar.update(done)

    def fill(self) -> None:
        """Tell that nothing is left to do."""
        self.add(self._left)


class Rates:
    """How many tokens there are in a second, since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._counts: dict[str, int] = {}

    def add(self, **counts: int) -> None:
        """Count tokens of some kinds."""
        for kind, count in counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count

    def __str__(self) -> str:
        """Tell them by kind."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return ", ".join(f"{kind} {count / seconds:,.1f} tokens/s" for kind, count in self._counts.items())
