"""What the friends resources say of themselves in the OpenAPI document."""

from commucat_server.api.friend_documents import MAX_MESSAGE_LEN, MAX_NAME_LEN
from commucat_server.api.openapi import Body, documented
from commucat_server.api.schemas import (
    DEVICE_ID,
    Schema,
    array,
    constant,
    hexadecimal,
    nullable,
    record,
    text,
    time,
)
from commucat_storage import MAX_FRIENDS

_TAG = "friends"
_USER_ID = text(f"At most {MAX_NAME_LEN} characters.")
_ENTRY = record(
    {"user_id": _USER_ID, "alias": nullable(text(f"At most {MAX_NAME_LEN} characters."))}, optional=["alias"]
)
_DEVICES = array(
    record(
        {
            "device_id": DEVICE_ID,
            "public_key": hexadecimal(32),
            "status": constant("active", "revoked", "diagnostic", "pending"),
            "created_at": time(),
            "last_rotated_at": time(),
        },
        optional=["last_rotated_at"],
    ),
    "None of a user that does not list the caller.",
)
_REQUEST = record(
    {
        "id": text(),
        "from_user_id": text(),
        "to_user_id": text(),
        "status": constant("pending", "accepted", "rejected"),
        "message": nullable(text()),
        "created_at": time(),
        "updated_at": time(),
    }
)
_USER = record(
    {
        "user_id": text(),
        "handle": text(),
        "display_name": nullable(text()),
        "avatar_url": nullable(text()),
    }
)
_REMOTE = record(
    {
        "id": text(),
        "from": text("handle@domain"),
        "to": text("handle@domain"),
        "status": constant("pending", "accepted", "rejected"),
        "message": nullable(text()),
        "created_at": time(),
    }
)
_FRIENDS = record({"friends": array(_ENTRY), "devices": {"type": "object", "additionalProperties": _DEVICES}})
_ANSWERED: Schema = {
    "oneOf": [
        record({"request": _REQUEST, "from_user": _USER}),
        record({"request": _REMOTE, "federation": record({"status": constant("queued")})}),
    ]
}
_NAMED = {"user_id": text("A user id, a handle, or handle@domain of another server.", minLength=1)}
_BAD_PATH = "The path names nobody, or is not encoded as it should be."

LIST = documented("The caller's list of friends", tag=_TAG, session=True, ok={200: _FRIENDS})
REPLACE = documented(
    "Replace the list of friends",
    tag=_TAG,
    session=True,
    body=record({"friends": array(_ENTRY, f"At most {MAX_FRIENDS}, nobody twice.")}),
    ok={200: _FRIENDS},
)
REMOVE = documented(
    "Take a user out of the list of friends",
    tag=_TAG,
    session=True,
    ok={204: None},
    parameters=_NAMED,
    problems={400: _BAD_PATH, 404: "The list does not have this user."},
)
REMOVE_NOBODY = documented(
    "Names nobody; always refused",
    tag=_TAG,
    session=True,
    ok={},
    problems={400: "The path ends before it names a user.", 404: "There is no such thing to delete."},
)
DEVICES = documented(
    "The devices of a friend",
    tag=_TAG,
    session=True,
    ok={200: record({"friend": text(), "devices": _DEVICES})},
    parameters=_NAMED,
    problems={400: _BAD_PATH, 404: "The list does not have this user."},
)
REQUESTS = documented(
    "Friend requests to and from the caller",
    tag=_TAG,
    session=True,
    ok={
        200: record(
            {
                "incoming": array(_REQUEST, "Pending ones."),
                "outgoing": array(_REQUEST),
                "federated": array(_REMOTE, "To and from users of other servers."),
            }
        )
    },
)
ASK = documented(
    "Ask a user to become a friend",
    tag=_TAG,
    session=True,
    body=Body(
        schema=record(
            {"message": nullable(text(f"At most {MAX_MESSAGE_LEN} characters."))}, optional=["message"]
        ),
        required=False,
    ),
    ok={
        201: record({"request": _REQUEST, "to_user": _USER}),
        202: record(
            {
                "request": _REMOTE,
                "federation": record({"domain": text(), "status": constant("queued")}),
            },
            description="A user of another server: its server will be told.",
        ),
    },
    parameters=_NAMED,
    problems={
        400: "The path names nobody, the caller, or an unknown domain; or the words are not right.",
        503: "The request was not queued for the other server; ask again.",
        404: "There is no such user.",
        409: "It is asked already, or too many requests wait.",
    },
)
ACCEPT = documented(
    "Accept the request of a user",
    tag=_TAG,
    session=True,
    ok={200: _ANSWERED},
    parameters=_NAMED,
    problems={
        400: "The path names nobody, the request was answered, or a list is full.",
        404: "There is no such user or request.",
    },
)
REJECT = documented(
    "Reject the request of a user",
    tag=_TAG,
    session=True,
    ok={200: _ANSWERED},
    parameters=_NAMED,
    problems={
        400: "The path names nobody, or the request was answered.",
        404: "There is no such user or request.",
    },
)
