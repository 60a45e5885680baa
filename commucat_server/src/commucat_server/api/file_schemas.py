"""What avatars and attachments say of themselves in the OpenAPI document."""

from commucat_server.api.openapi import Answer, Body, documented
from commucat_server.api.schemas import Schema, boolean, hexadecimal, integer, record, text, time

_BYTES: Schema = {"type": "string", "format": "binary"}
_STANDING = {
    "size": integer("Bytes of the blob."),
    "offset": integer("Bytes that are on disk: where to go on."),
    "complete": boolean(),
    "expires_at": time(),
    "max_request_bytes": integer("The most that one PATCH should bring."),
}
_ID = {"attachment_id": text("As it was given when the upload began.", minLength=1)}
_NO_DISK = "The disk has no room, or the store is not available; try again later."
_NEXT = "The next byte that the server needs."
_TAG = "Names this blob, for If-Range."
_NOT_THERE = "There is none, it is over its time, or it is another user's."

SET_AVATAR = documented(
    "Set the caller's avatar",
    tag="avatars",
    session=True,
    body=Body(schema=_BYTES, media_types=("image/jpeg", "image/png", "image/webp", "image/gif")),
    ok={200: record({"avatar_url": text(), "filename": text()})},
    problems={400: "It is no such picture, or larger than 5 MiB.", 503: _NO_DISK},
)
AVATAR = documented(
    "An avatar",
    tag="avatars",
    ok={
        200: Answer(media_type="image/*", description="The picture.", schema=_BYTES),
        403: Answer(media_type="text/plain", description="The name is a path."),
        404: Answer(media_type="text/plain", description="There is no such picture."),
    },
    headers={200: {"cache-control": "For ever: a name never shows another picture."}},
)
CREATE = documented(
    "Begin an upload",
    tag="attachments",
    session=True,
    body=record({"size": integer("Bytes of the blob.", minimum=1)}),
    ok={201: record({"id": hexadecimal(32, "Lets everybody download who knows it."), **_STANDING})},
    problems={403: "The user's quota is used up, or the device is not active.", 503: _NO_DISK},
    headers={201: {"location": "Where the bytes go."}},
)
STANDING = documented(
    "Where an upload stands",
    tag="attachments",
    session=True,
    ok={200: record(_STANDING)},
    parameters=_ID,
    problems={404: _NOT_THERE},
    headers={200: {"upload-offset": _NEXT, "upload-length": "Bytes of the blob."}},
)
APPEND = documented(
    "Bring the next bytes of an upload, from the header Upload-Offset on",
    tag="attachments",
    session=True,
    body=Body(
        schema=_BYTES,
        required=False,
        media_types=("application/offset+octet-stream", "application/octet-stream"),
    ),
    ok={204: None},
    parameters=_ID,
    problems={
        400: "Upload-Offset is missing, or more bytes came than were announced.",
        404: _NOT_THERE,
        409: "It stands elsewhere; Upload-Offset of the answer says where.",
        503: _NO_DISK,
    },
    headers={204: {"upload-offset": _NEXT}, 409: {"upload-offset": _NEXT}},
    needs={"Upload-Offset": text("Where the body begins: the next byte.", pattern="^[0-9]{1,19}$")},
)
REMOVE = documented(
    "Delete an attachment of one's own",
    tag="attachments",
    session=True,
    ok={204: None},
    parameters=_ID,
    problems={404: _NOT_THERE, 503: _NO_DISK},
)
_BLOB = Answer(
    media_type="application/octet-stream", description="The blob, or a range of it.", schema=_BYTES
)
DOWNLOAD = documented(
    "Download an attachment, or the range of it that the header Range asks for",
    tag="attachments",
    store=True,
    ok={200: _BLOB, 206: _BLOB},
    parameters=_ID,
    problems={404: "There is none, or it is not complete.", 416: "The range is behind the end."},
    headers={
        200: {"etag": _TAG, "accept-ranges": "`bytes`."},
        206: {"etag": _TAG, "accept-ranges": "`bytes`.", "content-range": "First, last and all bytes."},
        416: {"content-range": "`bytes */` and all bytes."},
    },
    asks={
        "Range": text("`bytes=FIRST-LAST`; one range."),
        "If-Range": text("The ETag of what is there already."),
    },
)
