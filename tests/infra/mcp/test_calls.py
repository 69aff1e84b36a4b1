"""Calls of MCP clients: the trace that they are worked on within."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from infra.mcp.calls import Calls, Origin
from schemas.context import TRACE, traced

HEADER = f"00-{'ab' * 16}-{'cd' * 8}-01"
"""Of the HTTP request."""
META = f"00-{'12' * 16}-{'34' * 8}-00"
"""Of the message in it."""


def calls() -> Calls:
    return Calls(Origin(lambda context: cast("Any", None), lambda context: None, lambda context: False))


@pytest.mark.parametrize(
    ("meta", "within"),
    [
        ({"traceparent": META, "progressToken": 1}, META),
        ({"traceparent": f"01-{META[3:]}-more"}, META),
        ({"traceparent": META[:-3]}, HEADER),
        ({"traceparent": f"00-{'0' * 32}-{'34' * 8}-01"}, HEADER),
        ({"traceparent": 7}, HEADER),
        ({}, HEADER),
        (None, HEADER),
    ],
)
def test_a_message_s_own_trace_goes_before_that_of_its_request(meta: Any, within: str) -> None:
    with traced(HEADER):
        with calls().entered(SimpleNamespace(meta=meta, request_id=1)):
            assert TRACE.get() == within
        assert TRACE.get() == HEADER
