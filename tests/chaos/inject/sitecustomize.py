"""Faults inside processes, from outside: Python imports this by itself when its folder is on the path.

Four variables, the first three of which name files that may come and go:

- OSTINATO_CHAOS_FAILPOINT: when it holds `<point> <n>`, the n-th time that an agents process passes the point it
  takes the file away and kills itself with SIGKILL.
- OSTINATO_CHAOS_SKEW: when it holds `<slot> <seconds>`, the clock of that agents process is so much ahead.
- OSTINATO_CHAOS_FREE: how many bytes the host is to believe are free on the disk.
- OSTINATO_CHAOS_LINKS: through which ports processes reach the servers, JSON: slot to server to port.

Nothing of this is in the code that is shipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_FILE = Path(os.environ.get("OSTINATO_CHAOS_FAILPOINT", "/nonexistent"))
_SKEW = Path(os.environ.get("OSTINATO_CHAOS_SKEW", "/nonexistent"))
_FREE = Path(os.environ.get("OSTINATO_CHAOS_FREE", "/nonexistent"))
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

    from actors.agent import actor, calls
    from actors.runtime import shard
    from actors.runtime.shard import ShardOwner
    from bus.commit import ShardWriter
    from bus.lease import Leases
    from infra.readback import LateStore
    from infra.runs import BusRuns

    shard.CHECKPOINT_S = 1.0  # so that every owner that dies leaves one, and every other one begins with it
    _before(ShardOwner, "_handle", "K1")
    _before(ShardWriter, "_send", "K2")
    _sent_without_answer()
    _before(ShardWriter, "_announce", "K4")
    for module in (actor, calls):  # a tool's first attempt is run by one, a further one by the other
        _before(module, "run_tool", "K5")
        _after(module, "run_tool", "K6")
    _after(ShardOwner, "_follow", "K7")
    _before(Msg, "ack", "K8")
    _after(Msg, "ack", "K9")
    _before(LateStore, "keep", "K10")
    _after(LateStore, "keep", "K10")
    _after(ShardWriter, "take", "K11")
    _after(Leases, "_renew", "K12")
    _before(BusRuns, "abort", "K13")


def _run_with_a_wrong_clock(slot: str) -> None:
    """Have the Context's time, and that in ids, be wrong by what the file says for this slot."""
    from actors.runtime import context

    def time_ns() -> int:
        try:
            who, _, seconds = _SKEW.read_text(encoding="utf-8").partition(" ")
        except OSError:
            return time.time_ns()
        return time.time_ns() + (int(seconds) * 1_000_000_000 if who == slot else 0)

    context.time = SimpleNamespace(time_ns=time_ns)  # type: ignore[assignment]


def _reach_servers_through(links: dict[str, int]) -> None:
    """Have a process that is told where the servers are find our links there."""
    from msgspec.structs import replace

    from infra import settings

    plain = settings.decode_place

    @wraps(plain)
    def decode_place(text: str) -> settings.Place:
        place = plain(text)
        return replace(
            place,
            nats_url=_elsewhere(place.nats_url, links["nats"]),
            postgres_url=_elsewhere(place.postgres_url, links["postgres"]),
        )

    settings.decode_place = decode_place


def _elsewhere(url: str, port: int) -> str:
    return re.sub(r"(?<=127\.0\.0\.1:)\d+", str(port), url)


def _believe_what_is_free() -> None:
    """Have the host take its word for the free space from the file, where there is one."""
    from infra.services import data_directory

    def free_space(path: Path) -> int:
        try:
            return int(_FREE.read_text(encoding="utf-8"))
        except OSError:
            return shutil.disk_usage(path).free

    data_directory.free_space = free_space


def _main() -> None:
    words = sys.orig_argv
    if "infra.cli.main" in words:
        _believe_what_is_free()
    elif "infra.process" in words:
        slot = words[words.index("infra.process") + 1]
        links = json.loads(os.environ.get("OSTINATO_CHAOS_LINKS", "{}"))
        if slot in links:
            _reach_servers_through(links[slot])
        if slot.startswith("agents-"):
            _run_with_a_wrong_clock(slot)
            _inject()


_main()
