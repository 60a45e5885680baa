"""Avatars: setting one, and showing them to everybody."""

from typing import Any

import structlog
from litestar import Response, get, post
from litestar.params import FromPath

from commucat_server.api import file_schemas
from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import authenticate
from commucat_server.api.bodies import read_body
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import ProblemError
from commucat_server.blobs.avatars import MAX_AVATAR, TYPES, suffix_of

log = structlog.get_logger("commucat.avatars")

_FOR_EVER = {
    # The name is a hash of the content: what it shows never changes.
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
}
_NO_FILE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def handlers(context: ApiContext) -> Handlers:
    """``/api/users/me/avatar`` and ``/uploads``; nothing where uploads are switched off."""
    folder = context.avatars
    if folder is None:
        return []

    @post(
        "/api/users/me/avatar",
        status_code=200,
        opt=file_schemas.SET_AVATAR,
    )
    async def set_avatar(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if declared.startswith("image/") and declared not in TYPES.values():
            raise _wrong_type(declared)
        too_large = f"avatar file too large (max {MAX_AVATAR // 2**20} MB)"
        data = await caller.gave(read_body(request, MAX_AVATAR, too_large))
        suffix = suffix_of(data)
        if suffix is None:
            raise _wrong_type("unknown")
        try:
            address, name = await folder.give(caller.user.user_id, data, suffix)
        except OSError as exc:
            log.error("an avatar was not stored", reason=str(exc))
            raise ProblemError(503, "the picture cannot be stored now; try again later") from exc
        return json_answer({"avatar_url": address, "filename": name})

    @get("/uploads/{filename:path}", opt=file_schemas.AVATAR)
    async def uploaded(request: ApiRequest, filename: FromPath[str]) -> Response[bytes]:
        name = filename.removeprefix("/")
        if ".." in name or "/" in name or "\\" in name:
            return Response(b"forbidden", status_code=403, media_type="text/plain", headers=_NO_FILE)
        picture = await folder.read(name)
        if picture is None:
            return Response(b"not found", status_code=404, media_type="text/plain", headers=_NO_FILE)
        return Response(picture.data, media_type=picture.media_type, headers=_FOR_EVER)

    return [set_avatar, uploaded]


def _wrong_type(name: str) -> ProblemError:
    return ProblemError(400, f"invalid image type '{name[:100]}' (allowed: jpeg, png, webp, gif)")
