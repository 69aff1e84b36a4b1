"""The routes of OpenAI's files: of those that batches ask and are answered with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bus.columns import whole
from bus.files import FileRow, LineTooLong
from infra.batches.desk import PURPOSE, BatchDesk
from infra.bridge.admission import Admission
from infra.bridge.batches.answers import asked_after, asked_limit, guarded, json
from infra.bridge.callers import caller_of
from infra.bridge.doors import Door, Operation, house_of
from infra.bridge.openai import BadRequest
from schemas.batches_told import BatchShown, FileDeleted, FilePage, FileShown, FilesQuery
from schemas.wire import Wire

Shown = TypeVar("Shown", FileShown, BatchShown)

_READ: Final = 64 << 10
_AT_ONCE: Final = 8
"""Files that come in at the same time: each is on the disk until it is whole."""
_EXPIRES_S: Final = (3600, 2_592_000)
_MOST_FIELD: Final = 4096
_HEAD_MB: Final = 1
"""What a form may have beside its file."""


class FileForm(Wire, frozen=True):
    """`POST /v1/files`, a form."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"contentMediaType": "application/octet-stream"})]
    purpose: Literal["batch"]
    expires_after_anchor: Literal["created_at"] | None = msgspec.field(name="expires_after[anchor]", default=None)
    expires_after_seconds: Annotated[int, msgspec.Meta(ge=_EXPIRES_S[0], le=_EXPIRES_S[1])] | None = msgspec.field(
        name="expires_after[seconds]", default=None
    )


_BINARY: Final = "application/octet-stream"
_READING: Final = Operation("OpenAI: give what is in a file", gives=Any, media=(_BINARY,), fails=(503,))
_UPLOADING: Final = Operation("OpenAI: keep a file", FileForm, FileShown, sends="multipart/form-data", fails=(503,))
_LISTING: Final = Operation("OpenAI: list files", gives=FilePage, query=FilesQuery, fails=(503,))
_TELLING: Final = Operation("OpenAI: tell of a file", gives=FileShown, fails=(503,))
_DELETING: Final = Operation("OpenAI: delete a file", gives=FileDeleted, fails=(503,))


@dataclass(frozen=True)
class FileRoutes:
    """What clients can do with files."""

    desk: BatchDesk
    places: Admission = field(default_factory=lambda: Admission(_AT_ONCE))

    async def upload(self, request: Request) -> Response:
        """Keep a file. It is on this machine's disk until it is whole, and never in memory."""
        now = house_of(request).now
        wait_ms = self.places.enter(now())
        if wait_ms is not None:
            message = f"{_AT_ONCE} files come in already: try again later"
            raise BadRequest(429, message, None, "overloaded", retry_after_ms=wait_ms)
        try:
            return await self._uploaded(request)
        finally:
            self.places.leave(now())

    async def _uploaded(self, request: Request) -> Response:
        async with guarded():
            try:
                async with (
                    asyncio.timeout(house_of(request).limits.stream_s),
                    request.form(max_files=1, max_fields=8, max_part_size=_MOST_FIELD) as form,
                ):
                    given, expires_s = _read(form)
                    name = (given.filename or "file")[:255]
                    row = await self.desk.bring(caller_of(request).tenant, name, _pieces(given), expires_s)
            except HTTPException as error:  # what its parser makes of a broken form
                raise BadRequest(400, f"the form cannot be read: {error.detail}", None, "invalid_value") from error
            except LineTooLong as error:
                raise BadRequest(400, f"file: {error}", "file", "invalid_value") from error
        return json(about(row))

    async def list(self, request: Request) -> Response:
        """List files."""
        query = request.query_params
        order, limit = query.get("order", "desc"), asked_limit(query.get("limit"), 10_000, 10_000)
        if order not in {"asc", "desc"}:
            raise BadRequest(400, "order: 'asc' or 'desc'", "order", "invalid_value")
        purpose = query.get("purpose") or None
        about_them = (purpose and whole(purpose), asked_after(query.get("after")), limit + 1)
        async with guarded():
            rows = await self.desk.files.listed(
                caller_of(request).tenant, self.desk.clock.now(), *about_them, newest_first=order == "desc"
            )
        return json(FilePage(*page([about(row) for row in rows], limit)))

    async def get(self, request: Request) -> Response:
        """Tell of a file."""
        async with guarded():
            return json(about(await self._file(request)))

    async def content(self, request: Request) -> Response:
        """Give what is in a file."""
        async with guarded():
            row = await self._file(request)
        headers = {"content-length": str(row.bytes), "content-disposition": "attachment", "cache-control": "no-store"}
        parts = self._parts(row)
        return _Content(parts, headers, house_of(request).limits.stream_s)

    async def delete(self, request: Request) -> Response:
        """Delete a file for good."""
        async with guarded():
            row = await self._file(request)
            await self.desk.files.delete(row.tenant, row.id)
        return json(FileDeleted(row.id, True))

    async def _file(self, request: Request) -> FileRow:
        return await self.desk.file(caller_of(request).tenant, request.path_params["file_id"])

    async def _parts(self, row: FileRow) -> AsyncIterator[bytes]:
        async for _, part in self.desk.files.parts(row.tenant, row.id):
            yield part


class _Content(StreamingResponse):
    """A file on its way, for so long at most."""

    def __init__(self, parts: AsyncIterator[bytes], headers: dict[str, str], seconds: float) -> None:
        super().__init__(parts, media_type=_BINARY, headers=headers)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with asyncio.timeout(self._seconds):
            await super().__call__(scope, receive, send)


def about(row: FileRow) -> FileShown:
    """Tell of a file as OpenAI does."""
    return FileShown(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created // 1_000_000,
        expires_at=row.expires // 1_000_000 or None,
        filename=row.name,
        purpose=row.purpose,
        status="processed",
        status_details=None,
    )


def page(data: list[Shown], limit: int) -> tuple[list[Shown], str | None, str | None, bool]:
    """Make a page of what was looked for with one more than it holds: its data, first and last id, if there is more."""
    more, shown = len(data) > limit, data[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return shown, first, last, more


def _read(form: FormData) -> tuple[UploadFile, int]:
    """Read what a form says beside the file.

    Raises:
        BadRequest: names the field and what it should be.
    """
    given, purpose = form.get("file"), form.get("purpose")
    if not isinstance(given, UploadFile):
        raise BadRequest(400, "file: give one, as multipart/form-data", "file", "invalid_value")
    if purpose != PURPOSE:
        raise BadRequest(400, f"purpose: {PURPOSE!r} is the only one that is served", "purpose", "invalid_value")
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return given, 0
    return given, expires_after(anchor, int(seconds) if isinstance(seconds, str) and seconds.isdecimal() else None)


def expires_after(anchor: object, seconds: int | None) -> int:
    """Read how long a file is kept.

    Raises:
        BadRequest: names the field and what it should be.
    """
    least, most = _EXPIRES_S
    if anchor != "created_at" or seconds is None or not least <= seconds <= most:
        wanted = f"anchor 'created_at', and seconds from {least} to {most}"
        raise BadRequest(400, f"expires_after: {wanted}", "expires_after", "invalid_value")
    return seconds


async def _pieces(given: UploadFile) -> AsyncIterator[bytes]:
    while piece := await given.read(_READ):
        yield piece


def file_doors(desk: BatchDesk) -> list[Door]:
    """List them."""
    files, path = FileRoutes(desk), "/v1/files"
    one, most = f"{path}/{{file_id}}", desk.limits.file_mb + _HEAD_MB
    return [
        Door(path, files.upload, "inference", methods=("POST",), upload_mb=most, operation=_UPLOADING),
        Door(path, files.list, "inference", operation=_LISTING),
        Door(one, files.get, "inference", operation=_TELLING),
        Door(f"{one}/content", files.content, "inference", operation=_READING),
        Door(one, files.delete, "inference", methods=("DELETE",), operation=_DELETING),
    ]
