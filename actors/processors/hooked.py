"""A processor's hook, called: whoever wrote it, it ends in time and gives what it should, or it stops the call.

A processor that breaks may be one that takes secrets out, so what it did not look at goes nowhere. Its words may hold
what it found: nobody is told them, and the log of the process has them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from actors.errors import CallFailed
from actors.models.provider import ModelAnswer
from actors.processors.processor import About, Processor, Stream, Tripped
from bus.errors import BusError
from schemas.faults import fault
from schemas.messages import Message, ToolSpec
from schemas.processing import Hook
from schemas.runs import Problem

log = logging.getLogger(__name__)


async def hooked(processor: Processor, hook: Hook, about: About, *given: Any) -> Any:
    """Call a hook.

    Raises:
        Tripped: it stops the call, or it breaks, gives something else than it should, or takes too long.
        CallFailed: the model that it asks failed.
        BusError: what it asks over the bus cannot be reached.
    """
    limit = asyncio.timeout(processor.timeout_s or None)
    try:
        with about.timing(processor, hook):
            async with limit:
                told = await getattr(processor, hook)(*given, about)
            return _fitting(hook, told)
    except Tripped as tripped:
        tripped.processor = processor
        raise
    except (CallFailed, BusError):
        raise
    except Exception as error:
        late = f"it took longer than {processor.timeout_s:g} s" if limit.expired() else ""
        raise _broken(processor, hook, error, late) from error


def shown(processor: Processor, about: About, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> Any:
    """Have a processor choose tools; as `hooked`."""
    try:
        with about.timing(processor, "prompt"):
            told = processor.tools_shown(tools, messages)
        return _all_are(told, ToolSpec)
    except Tripped as tripped:
        tripped.processor = processor
        raise
    except Exception as error:
        raise _broken(processor, "tools_shown", error) from error


class Hooked:
    """A stream of a processor's; as `hooked`, and what it gives is Unicode."""

    def __init__(self, processor: Processor, inner: Stream, about: About) -> None:
        self._processor = processor
        self._inner = inner
        self._about = about

    def feed(self, text: str) -> str:
        """Take more."""
        return self._called(lambda: self._inner.feed(text))

    def end(self) -> str:
        """Give the rest."""
        return self._called(self._inner.end)

    def _called(self, work: Callable[[], str]) -> str:
        try:
            with self._about.timing(self._processor, "stream"):
                return unicode(_is(work(), str))
        except Tripped as tripped:
            tripped.processor = self._processor
            raise
        except Exception as error:
            raise _broken(self._processor, "stream", error) from error


def stream_of(processor: Processor, about: About) -> Hooked | None:
    """Give the stream of a processor, if it has one; as `hooked`."""
    try:
        stream = processor.stream(about)
    except Exception as error:
        raise _broken(processor, "stream", error) from error
    return None if stream is None else Hooked(processor, stream, about)


def unicode(text: str) -> str:
    """Make any text one that the log can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _broken(processor: Processor, hook: str, error: Exception, late: str = "") -> Tripped:
    reason = late or f"it broke ({type(error).__name__})"
    log.warning("processor %r stops a call, in %r: %s", processor.name, hook, late or fault(error))
    tripped = Tripped(reason)
    tripped.processor = processor
    return tripped


def _fitting(hook: Hook, told: Any) -> Any:
    if hook == "prompt":
        return _all_are(told, Message)
    return told if hook not in _GIVES else _is(told, _GIVES[hook])


_GIVES: Final[Mapping[str, type]] = {"answer": ModelAnswer, "result": ModelAnswer, "tool_result": str, "error": Problem}


def _all_are(told: Any, shape: type) -> Any:
    return tuple(_is(one, shape) for one in told)


def _is(told: Any, shape: type) -> Any:
    if not isinstance(told, shape):
        raise TypeError(f"it gave {type(told).__name__}, not {shape.__name__}")
    return told
