"""The root of every wire shape: closed, frozen, and without absent fields written out."""

from __future__ import annotations

import msgspec


class Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON object on the wire. Unknown fields are ignored, so that an older reader survives a newer writer."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A JSON array on the wire: for the few shapes that are written thousands of times a second.

    The garbage collector does not look at them: what is frozen is made of what was there before, so none is in a cycle.
    """
