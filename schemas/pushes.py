"""Word of a task's changes for addresses that its client named; commands on `in.<tenant>.push.<id>.<verb>`, and events.

What is said of one task is an entity of its own, `push_id`. It is a thread of its own, too: the id is the thread's.
Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Literal

import msgspec

from schemas.wire import Wire

_Header = Annotated[str, msgspec.Meta(max_length=8192, pattern=r"^[\x21-\x7e]?([\x20-\x7e]*[\x21-\x7e])?$")]
"""What can stand in an HTTP header."""


def pushes_of(thread: str) -> str:
    """Say how the names begin of all that is said of a thread's tasks: whoever erases it finds them, run or no run."""
    return f"p{_hashed(thread)}"


def push_id(thread: str, run: str) -> str:
    """Name what is said of a task, by its thread and run."""
    return pushes_of(thread) + _hashed(run)


def _hashed(text: str) -> str:
    return blake2b(text.encode(), digest_size=12).hexdigest()


class PushTarget(Wire, frozen=True):
    """Whom to tell, and how it knows that it is us."""

    id: Annotated[str, msgspec.Meta(max_length=300)]
    """Among those of its task."""
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    token: _Header = ""
    """Sent as `X-A2A-Notification-Token`."""
    scheme: _Header = ""
    """Of the header `Authorization`; empty sends none."""
    credentials: _Header = ""


class SubscribePush(Wire, frozen=True, tag="subscribe"):
    """Tell somebody of a task, or tell the one of the same id otherwise. `in.<tenant>.push.<id>.subscribe`."""

    thread: str
    run: str
    target: PushTarget


class UnsubscribePush(Wire, frozen=True, tag="unsubscribe"):
    """Tell somebody no more. `in.<tenant>.push.<id>.unsubscribe`."""

    target: str


class ForgetPushes(Wire, frozen=True, tag="forget"):
    """The task's thread is deleted: tell nobody, and forget whom. `in.<tenant>.push.<id>.forget`."""


PushCommand = SubscribePush | UnsubscribePush | ForgetPushes


class PushNoticed(Wire, frozen=True, tag="push.noticed"):
    """The task stands otherwise now: all that are to be told of it will be."""

    effect: str
    """Structural: `<push>-w<number>`."""
    outcome: Literal["waiting", "ended", "lost"]
    """`lost` is one that nobody began: there is nothing to tell."""
    waits: tuple[str, ...] = ()
    """Effects that wait for somebody, and did not when it was looked last."""
    body: str = ""
    """What is told, as JSON; empty is the task as the log has it: it is over, and changes no more."""


class PushTried(Wire, frozen=True, tag="push.tried"):
    """Somebody was told, or was not."""

    effect: str
    """Structural: `<push>-<number of the notice>-<whose>-a<attempt>`."""
    code: int = 0
    """The HTTP status of the answer; 0 where none came."""
    problem: str = ""
    """Why it failed."""
    again: int = 0
    """When it is tried again; 0 is never: it was told, or is given up."""


class PushForgotten(Wire, frozen=True, tag="push.forgotten"):
    """Nobody is told any more. Never sealed: it says of what is erased that it is."""


PushEvent = PushNoticed | PushTried | PushForgotten
