"""What an answer is to look like: a JSON schema, a regular expression, a choice, a grammar, or tags in free text."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from schemas.wire import Wire

StructuredKind = Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]

MOST_SOURCE = 1 << 17
"""Characters of a grammar: it travels in the request, in plans and in the record."""
MOST_CHOICES = 4096


class Structured(Wire, frozen=True):
    """One grammar that an answer keeps to."""

    kind: StructuredKind
    text: Annotated[str, msgspec.Meta(max_length=MOST_SOURCE)] = ""
    """The JSON schema as text, the regular expression, the grammar (Lark as llguidance reads it, or GBNF), or a JSON
    object of structural tags; nothing for the other kinds."""
    choices: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_CHOICES)] = ()
    """The texts of which the answer is one, for `choice`."""
    whitespace: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    """A regular expression of what may stand between the tokens of JSON; by default a line break and some spaces."""
    any_whitespace: bool = True
    """Whether anything may stand there."""
    additional_properties: bool = True
    """Whether objects whose schema lists properties, and says nothing of others, may have others."""
    after: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """The text that ends the model's thinking, before which anything may come; empty is from the first token on."""
    field: Annotated[str, msgspec.Meta(max_length=100)] = "structured"
    """What whoever asked for it calls it: errors name it."""

    @property
    def size(self) -> int:
        """Count its characters."""
        return len(self.text) + sum(map(len, self.choices)) + len(self.whitespace or "")

    def key(self) -> str:
        """Name it by its content: two that ask for the same have the same key."""
        data = msgspec.json.encode(msgspec.structs.replace(self, field="", after=""))
        return hashlib.sha256(data).hexdigest()[:32]
