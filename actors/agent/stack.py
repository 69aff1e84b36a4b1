"""The stack that an agent's own methods reach: that of the innermost `connect` or `inline` block around."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from actors.errors import NotConnected


class Stack(Protocol):
    """Runs agents by their names."""

    async def run(self, agent: str, text: str, **about: Any) -> Any:
        """Run one, and return its answer."""

    def stream(self, agent: str, text: str, **about: Any) -> Any:
        """Run one, and return what is iterated over to hear of it."""


_AROUND: ContextVar[Stack | None] = ContextVar("stack", default=None)


@contextmanager
def around(stack: Stack) -> Iterator[None]:
    """Have agents reach a stack for as long as the block runs."""
    before = _AROUND.get()
    _AROUND.set(stack)
    try:
        yield
    finally:
        _AROUND.set(before)


def reached(agent: str) -> Stack:
    """Give the stack around.

    Raises:
        NotConnected: there is none.
    """
    stack = _AROUND.get()
    if stack is None:
        raise NotConnected(
            f"agent {agent!r} has no stack to run on: do it within `async with connect():` where one is up, "
            "or within `async with inline(__file__):`, which brings one along"
        )
    return stack
