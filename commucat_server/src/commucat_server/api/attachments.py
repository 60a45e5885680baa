"""Encrypted attachments: an upload that can be resumed, and a download for whoever knows the id."""

from typing import Any

import structlog
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath
from litestar.response import Stream

from commucat_server.api import file_schemas
from commucat_server.api.answers import NO_STORE, ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import Caller, authenticate
from commucat_server.api.bodies import INVALID, RequestBody, read_object
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import ProblemError
from commucat_server.api.ranges import UnsatisfiableRangeError, wanted_range
from commucat_server.blobs.attachments import (
    AttachmentFolder,
    NoRoomError,
    TooManyBytesError,
    WrongOffsetError,
)
from commucat_server.ops.times import rfc3339
from commucat_storage import Attachment, AttachmentQuotaError

log = structlog.get_logger("commucat.attachments")

MAX_REQUEST = 8 * 1024 * 1024
"""Bytes that a client should send in one PATCH; a little below what the listener lets pass."""
_NO_ROOM = "the disk has no room for that now; try again later"
_NOT_FOUND = "attachment not found"


def handlers(context: ApiContext) -> Handlers:
    """Below ``/api/attachments``; nothing where attachments are switched off."""
    folder = context.attachments
    if folder is None:
        return []

    @post("/api/attachments", opt=file_schemas.CREATE)
    async def create(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        size = _size(await caller.gave(read_object(request, empty=INVALID)), folder)
        try:
            attachment_id, attachment = await folder.begin(caller.user.user_id, size)
        except NoRoomError as exc:
            raise ProblemError(503, _NO_ROOM) from exc
        except AttachmentQuotaError as exc:
            limit = folder.limits.user_bytes
            raise ProblemError(403, f"attachment quota exceeded (max {limit} bytes of a user)") from exc
        except OSError as exc:
            raise _disk_failed(exc) from exc
        answer = json_answer({"id": attachment_id} | _document(attachment))
        answer.status_code = 201
        answer.headers["location"] = f"/api/attachments/{attachment_id}/upload"
        return answer

    @get("/api/attachments/{attachment_id:str}/upload", opt=file_schemas.STANDING)
    async def standing(request: ApiRequest, attachment_id: FromPath[str]) -> Response[dict[str, Any]]:
        attachment = await _own(await authenticate(request, context), folder, attachment_id)
        answer = json_answer(_document(attachment))
        answer.headers.update(_offset(attachment.received) | {"upload-length": str(attachment.size)})
        return answer

    @patch("/api/attachments/{attachment_id:str}/upload", status_code=204, opt=file_schemas.APPEND)
    async def append(request: ApiRequest, attachment_id: FromPath[str]) -> Response[None]:
        """From ``Upload-Offset`` on, as ``application/octet-stream``."""
        caller = await authenticate(request, context)
        attachment = await _own(caller, folder, attachment_id)
        offset = request.headers.get("upload-offset", "")
        if not (offset.isascii() and offset.isdigit() and len(offset) < 20):
            raise ProblemError(400, "Upload-Offset must be a number")
        body = RequestBody(request)

        async def take() -> bytes:
            # Behind the last piece there is another end: one look at the caller, then.
            return await body.take() or await caller.gave(body.take())

        try:
            attachment = await folder.append(attachment, int(offset), take)
        except WrongOffsetError as exc:
            headers = _offset(exc.received)
            raise ProblemError(409, f"the next byte is {exc.received}", headers=headers) from exc
        except TooManyBytesError as exc:
            raise ProblemError(400, f"more bytes than announced ({attachment.size})") from exc
        except OSError as exc:
            raise _disk_failed(exc) from exc
        return Response(None, status_code=204, headers=NO_STORE | _offset(attachment.received))

    @delete("/api/attachments/{attachment_id:str}", status_code=204, opt=file_schemas.REMOVE)
    async def remove(request: ApiRequest, attachment_id: FromPath[str]) -> Response[None]:
        attachment = await _own(await authenticate(request, context), folder, attachment_id)
        try:
            await folder.delete(attachment)
        except OSError as exc:
            raise _disk_failed(exc) from exc
        return Response(None, status_code=204, headers=NO_STORE)

    @get("/api/attachments/{attachment_id:str}", opt=file_schemas.DOWNLOAD)
    async def download(request: ApiRequest, attachment_id: FromPath[str]) -> Stream:
        attachment = await folder.find(attachment_id)
        if attachment is None or not attachment.complete:
            raise ProblemError(404, _NOT_FOUND)
        tag = f'"{attachment.id_hash[:32]}"'
        header = request.headers.get("range")
        if request.headers.get("if-range", tag) != tag:
            header = None
        try:
            part = wanted_range(header, attachment.size)
        except UnsatisfiableRangeError as exc:
            raise ProblemError(416, headers={"content-range": f"bytes */{attachment.size}"}) from exc
        start, length = part or (0, attachment.size)
        pieces = await folder.read(attachment, start, length)
        if pieces is None:
            log.warning("the file of an attachment is not there", id_hash=attachment.id_hash)
            raise ProblemError(404, _NOT_FOUND)
        headers = {
            "content-length": str(length),
            "accept-ranges": "bytes",
            "etag": tag,
            "cache-control": "private, no-store",
            "x-content-type-options": "nosniff",
            "content-disposition": "attachment",
        }
        if part is not None:
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{attachment.size}"
        return Stream(
            pieces,
            status_code=200 if part is None else 206,
            media_type="application/octet-stream",
            headers=headers,
        )

    return [create, standing, append, remove, download]


async def _own(caller: Caller, folder: AttachmentFolder, attachment_id: str) -> Attachment:
    """The caller's attachment of this id; that of somebody else is none: the id lets read, not write."""
    attachment = await folder.find(attachment_id)
    if attachment is None or attachment.user_id != caller.user.user_id:
        raise ProblemError(404, _NOT_FOUND)
    return attachment


def _size(document: dict[str, Any], folder: AttachmentFolder) -> int:
    size = document.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ProblemError(400, "size must be a whole number of bytes, at least 1")
    if size > folder.limits.max_bytes:
        raise ProblemError(400, f"attachment too large (max {folder.limits.max_bytes} bytes)")
    return size


def _document(attachment: Attachment) -> dict[str, Any]:
    return {
        "size": attachment.size,
        "offset": attachment.received,
        "complete": attachment.complete,
        "expires_at": rfc3339(attachment.expires_at),
        "max_request_bytes": MAX_REQUEST,
    }


def _offset(received: int) -> dict[str, str]:
    return {"upload-offset": str(received)}


def _disk_failed(exc: OSError) -> ProblemError:
    log.error("the folder of attachments cannot be used", reason=str(exc))
    return ProblemError(503, _NO_ROOM)
