"""Authors' functions that are not async: each call in a daemon thread of its own, bounded by whose function it is.

The event loop's own threads are left alone: the runtime needs them, and a function that hangs keeps its thread, for
nobody can end one. So only its own agent or tool runs out of threads, and the end of the process waits for none.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from actors.errors import NoThreadLeft

log = logging.getLogger(__name__)

MOST_THREADS = 32
"""Of one tool or agent at once: calls of more wait their turn."""


class _Threads:
    """The threads of one owner's functions. All of it runs in the event loop."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.running = 0
        self.left = 0
        """Of these, threads whose calls are over: they took too long, or were ended."""
        self._waiting = deque[Future[None]]()

    async def enter(self) -> None:
        """Take a thread, once there is one.

        Raises:
            NoThreadLeft: calls that are over have all of them.
        """
        if self.running < MOST_THREADS:
            self.running += 1
            return
        if self.left == MOST_THREADS:
            raise self._none_left()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """Give a thread to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def leave_behind(self) -> None:
        """Note that a thread goes on though its call is over."""
        self.left += 1
        log.warning("%s goes on in its thread though its call is over: %s such threads", self.owner, self.left)
        while self.left == MOST_THREADS and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(self._none_left())

    def ended_late(self) -> None:
        """Note that a thread that was left behind is over."""
        self.left -= 1
        log.info("%s ended after its call was over: %s such threads are left", self.owner, self.left)
        self.leave()

    def _none_left(self) -> NoThreadLeft:
        return NoThreadLeft(
            f"{self.owner}: {MOST_THREADS} calls of it that are over (too long, or ended) still run in their threads: "
            "it is not called until one of them returns"
        )


_BY_LOOP: WeakKeyDictionary[AbstractEventLoop, dict[str, _Threads]] = WeakKeyDictionary()
"""Of each loop those whose functions run now, by their names: threads are the process's, as this is."""


def left_behind() -> dict[str, int]:
    """Count the threads that go on though their calls are over, by whose they are. Called within a running loop."""
    known = _BY_LOOP.get(asyncio.get_running_loop(), {})
    return {owner: threads.left for owner, threads in known.items() if threads.left}


async def called(owner: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call an author's function: an async one here, any other in a thread; what it returns is awaited if it can be.

    Args:
        owner: whose it is, as errors and the log call it; the bound is per owner.
        function: what is called.
        args: for the function.
        kwargs: for the function.

    Raises:
        NoThreadLeft: calls of the owner's functions that are over have all of its threads.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    value = await _in_thread(owner, function, args, kwargs)
    return await value if inspect.isawaitable(value) else value


async def _in_thread(owner: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    loop = asyncio.get_running_loop()
    by_owner = _BY_LOOP.setdefault(loop, {})
    threads = by_owner.setdefault(owner, _Threads(owner))
    await threads.enter()
    came: Future[Any] = loop.create_future()

    def end(value: Any, error: BaseException | None) -> None:
        if came.cancelled():
            threads.ended_late()
        else:
            threads.leave()
            came.set_result(value) if error is None else came.set_exception(error)
        if not threads.running and by_owner.get(owner) is threads:
            del by_owner[owner]

    def work() -> None:
        value, error = _outcome(function, args, kwargs)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(end, value, error)

    try:
        threading.Thread(target=contextvars.copy_context().run, args=(work,), name=owner, daemon=True).start()
    except RuntimeError:  # the machine has no more
        threads.leave()
        raise
    try:
        return await came
    except asyncio.CancelledError:
        if came.cancelled():
            threads.leave_behind()
        raise


def _outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(*args, **kwargs), None
    except StopIteration as error:  # a future cannot carry one
        told = RuntimeError(f"StopIteration: {error}")
        told.__cause__ = error
        return None, told
    except BaseException as error:  # noqa: BLE001  it is raised where the function was called
        return None, error
