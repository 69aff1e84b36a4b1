"""How a field of a request for a response is refused."""

from __future__ import annotations

from infra.bridge.openai import BadRequest


def wrong(param: str, wanted: str) -> BadRequest:
    """Refuse a field."""
    return BadRequest(400, f"{param}: {wanted}", param, "invalid_value")
