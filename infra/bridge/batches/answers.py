"""How the routes of files and batches answer, and what they do when a server is away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from starlette.responses import Response

from bus.errors import BusError
from bus.files import NoSuchFile
from infra.batches.desk import is_id
from infra.bridge.openai import BadRequest
from infra.errors import BatchUnfit

log = logging.getLogger(__name__)

_STATUS: Final = {"invalid_value": 400, "not_found": 404, "too_large": 413, "too_many": 429}
_LATER_MS: Final = 30_000


def json(value: object) -> Response:
    """Answer with JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


@asynccontextmanager
async def guarded() -> AsyncIterator[None]:
    """Tell what goes wrong inside as HTTP has it.

    Raises:
        BadRequest: something did.
    """
    try:
        yield
    except BatchUnfit as error:
        later = _LATER_MS if error.code == "too_many" else 0
        raise BadRequest(_STATUS[error.code], str(error), error.field, error.code, retry_after_ms=later) from error
    except NoSuchFile as error:
        raise BadRequest(404, str(error), "file_id", "not_found") from error
    except (BusError, TimeoutError) as error:
        log.warning("files and batches: %s", error)
        raise BadRequest(503, "a server of the stack does not answer: try again", None, "unavailable") from error


def asked_after(given: str | None) -> str | None:
    """Read what a list is to go on after.

    Raises:
        BadRequest: it is no id.
    """
    if not given:
        return None
    if not is_id(given):
        raise BadRequest(400, "after: the id of the last one that was listed", "after", "invalid_value")
    return given


def asked_limit(given: str | None, usual: int, most: int) -> int:
    """Read how many are to be listed.

    Raises:
        BadRequest: it is no such number.
    """
    if given is None:
        return usual
    if not given.isdecimal() or not 1 <= int(given[:6]) <= most:
        raise BadRequest(400, f"limit: a number from 1 to {most}", "limit", "invalid_value")
    return int(given)
