"""What is in no record, and has a span all the same. Pure."""

from __future__ import annotations

from infra.spans.content import NoContent
from infra.spans.names import Names
from infra.spans.pooling import TextsPooled, pooling_span
from infra.spans.searching import Searched, search_span
from infra.spans.span import Span

Aside = Searched | TextsPooled


def nobody_follows(aside: Aside) -> None:
    """Take what nobody wants told."""


def aside_span(aside: Aside, names: Names, content: NoContent) -> Span:
    """Make its span."""
    return pooling_span(aside, names) if isinstance(aside, TextsPooled) else search_span(aside, names, content)
