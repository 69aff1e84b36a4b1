"""What requests for vectors, labels and scores give, and how vectors are written. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from infra.bridge.openai import BadRequest
from schemas.embeddings import MOST_INPUTS, ScoreRequest
from schemas.pooling import PooledText
from schemas.pooling_told import VectorTold


def inputs(given: str | list[int | str | list[int]]) -> list[PooledText]:
    """List the texts of a request, each as text or tokens.

    Raises:
        BadRequest: there are none, too many, or several kinds.
    """
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens and len(tokens) == len(given):
        return [tuple(tokens)]
    if tokens or not given or len(given) > MOST_INPUTS:
        wanted = f"a text, its token ids, or a list of up to {MOST_INPUTS} of either"
        raise BadRequest(400, f"input: {wanted}", "input", "invalid_value")
    return [item if isinstance(item, str) else tuple(item) for item in given if not isinstance(item, int)]


def pairs_of(asked: ScoreRequest) -> list[tuple[str, str]]:
    """Pair texts; one on the left goes with all on the right.

    Raises:
        BadRequest: their numbers do not go together.
    """
    left = asked.text_1 if asked.queries is None else asked.queries
    right = asked.text_2 if asked.documents is None else asked.documents
    if not left or not right:
        name = "text_1" if not left else "text_2"
        raise BadRequest(400, f"{name}: give a text, or a list of them", name, "invalid_value")
    lefts = [left] if isinstance(left, str) else left
    rights = [right] if isinstance(right, str) else right
    if len(lefts) == 1:
        lefts = lefts * len(rights)
    if len(lefts) != len(rights) or len(rights) > MOST_INPUTS:
        message = f"text_2: as many as there are in text_1, if that has more than one; at most {MOST_INPUTS}"
        raise BadRequest(400, message, "text_2", "invalid_value")
    return list(zip(lefts, rights, strict=True))


def document(given: str | dict[str, Any], at: int) -> str:
    """Give the text of a document.

    Raises:
        BadRequest: it has none.
    """
    text = given if isinstance(given, str) else given.get("text")
    if not isinstance(text, str):
        raise BadRequest(400, f"documents[{at}]: give its text", f"documents[{at}]", "invalid_value")
    return text


def shown(encoding: str | None) -> Callable[[bytes], VectorTold]:
    """Give what writes a vector: as base64, or as numbers."""
    return _as_base64 if encoding == "base64" else _as_floats


def _as_floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()
