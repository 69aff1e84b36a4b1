"""Failpoints for the agents processes, from outside: Python imports this by itself when its folder is on the path.

OSTINATO_CHAOS_FAILPOINT names a file. When it holds `<point> <n>`, the n-th time that this process passes the point
it takes the file away and kills itself with SIGKILL. Nothing of this is in the code that is shipped.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

_FILE = Path(os.environ.get("OSTINATO_CHAOS_FAILPOINT", "/nonexistent"))
_passed: dict[str, int] = {}


def _is_next(point: str) -> bool:
    """Pass a point, and say whether this is the time to die there."""
    try:
        wanted, _, count = _FILE.read_text(encoding="utf-8").partition(" ")
    except OSError:
        return False
    if wanted != point:
        return False
    _passed[point] = _passed.get(point, 0) + 1
    return _passed[point] >= int(count)


def reach(point: str) -> None:
    """Pass a point; perhaps die there."""
    if not _is_next(point):
        return
    try:
        _FILE.rename(_FILE.with_suffix(f".{os.getpid()}"))
    except OSError:
        return  # another process was first
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, point: str) -> None:
    plain: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(plain)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(point)
        return await plain(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, point: str) -> None:
    plain: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(plain)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await plain(*args, **kwargs)
        reach(point)
        return result

    setattr(owner, name, wrapped)


def _sent_without_answer() -> None:
    """An append that reaches the server, and whose sender never hears of it."""
    from bus.connection import Connection

    plain = Connection.request

    @wraps(plain)
    async def request(
        self: Connection, subject: str, data: bytes, timeout_s: float = 2.0, headers: dict[str, str] | None = None
    ) -> Any:
        if subject.startswith("ev.") and _is_next("K3"):
            await self.publish(subject, data, headers, reply=self.client.new_inbox())
            await self.flush()
            reach("K3")
        return await plain(self, subject, data, timeout_s, headers)

    Connection.request = request  # type: ignore[method-assign]


def _inject() -> None:
    from nats.aio.msg import Msg

    from actors.agent import actor
    from actors.runtime.shard import ShardOwner
    from bus.commit import ShardWriter
    from bus.lease import Leases

    _before(ShardOwner, "_handle", "K1")
    _before(ShardWriter, "_send", "K2")
    _sent_without_answer()
    _before(ShardWriter, "_announce", "K4")
    _before(actor, "_run_tool", "K5")
    _after(actor, "_run_tool", "K6")
    _after(ShardOwner, "_follow", "K7")
    _before(Msg, "ack", "K8")
    _after(Msg, "ack", "K9")
    _after(ShardWriter, "take", "K11")
    _after(Leases, "_renew", "K12")


if "infra.process" in sys.orig_argv and any(part.startswith("agents-") for part in sys.orig_argv):
    _inject()
