"""What the resources of linked accounts say of themselves in the OpenAPI document."""

from commucat_server.api.openapi import documented
from commucat_server.api.schemas import DEVICE_ID, array, constant, integer, nullable, record, text, time
from commucat_storage import MAX_LINKS

_TAG = "linked accounts"
_ACCOUNT = text("handle@domain, an account on another server.")
_LINK = record(
    {
        "account": _ACCOUNT,
        "status": constant("linked", "declared", "offered"),
        "created_at": time(),
        "expires_at": nullable(time()),
    },
    description="linked: both users have declared it. declared: the caller has, the other one has not. "
    "offered: the other one has, the caller has not. The two latter are forgotten at expires_at.",
)
_OFFSET = {
    "epoch": text("Of the inbox; numbers of two epochs cannot be compared."),
    "next": integer("The number that the next message gets."),
    "confirmed": integer("The device has confirmed everything up to this number."),
    "waiting": integer("Messages that wait for the device."),
}

LIST = documented(
    "The caller's links to accounts on other servers",
    tag=_TAG,
    session=True,
    ok={200: record({"links": array(_LINK)})},
)
DECLARE = documented(
    "Declare that an account on another server is the caller's, too; or confirm what it has declared",
    tag=_TAG,
    session=True,
    body=record({"account": _ACCOUNT}),
    ok={
        202: record(
            {"link": _LINK, "federation": record({"domain": text(), "status": constant("queued")})},
            description="The other server will be told.",
        )
    },
    problems={
        400: "The account is none of another server, or its server is not known or not active.",
        409: f"The caller has {MAX_LINKS} links already.",
        503: "The other server was not told; declare it again.",
    },
)
END = documented(
    "End a link, or refuse one that was offered",
    tag=_TAG,
    session=True,
    ok={204: None},
    parameters={"account": _ACCOUNT},
    problems={400: "The path is not encoded as it should be.", 404: "There is no such link."},
)
OFFSETS = documented(
    "How far the caller's devices have read, here and on linked accounts",
    tag=_TAG,
    session=True,
    ok={
        200: record(
            {
                "devices": array(record({"device": DEVICE_ID, **_OFFSET}), "Active ones of the caller."),
                "linked": array(
                    record(
                        {
                            "account": _ACCOUNT,
                            "told_at": time(),
                            "devices": array(record({"device": text("device@domain"), **_OFFSET})),
                        }
                    ),
                    "What other servers have told; told_at by their clocks.",
                ),
            }
        )
    },
)
