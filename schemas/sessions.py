"""What a client says of a session of its between two requests."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from schemas.wire import Wire

LONGEST_SESSION = 1000
"""Characters of a session's name."""

_Name = Annotated[str, msgspec.Meta(max_length=200)]


class SessionNote(Wire, frozen=True, forbid_unknown_fields=True):
    """A tool was called, or has returned; or the session has no further request."""

    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SESSION)]
    """As in the session's requests."""
    event: Literal["tool_began", "tool_ended", "ended"]
    call: _Name = ""
    """Names the call within the session."""
    tool: _Name = ""
    """What kind of tool begins: calls of a kind take as long as others of it did. `person` is somebody who is asked."""
