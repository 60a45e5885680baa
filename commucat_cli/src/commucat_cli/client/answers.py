"""What the server says about the frames we sent, and why it ends a session."""

from collections.abc import Mapping
from typing import Any

import attrs

from commucat_cli.errors import (
    CliError,
    ConnectionLostError,
    HandshakeRefused,
    ServerBusyError,
    SessionEndedError,
    SessionReplaced,
)
from commucat_proto import is_message_id

WAITS = "the device waits for approval"

_REFUSALS = {
    "unknown_device": "the server knows no such device",
    "revoked": "the device was revoked",
    "channel_conflict": "the channel is used for another conversation",
    "quota": "its inbox is full",
    "no_route": "the channel was not joined",
    "too_many_routes": "too many channels are joined",
    "storage": "the server could not store it",
    "disk_low": "the server's disk is full",
    "too_large": "the message is too large",
    "not_federated": "it is on another server, where this does not go",
    "busy": "it is in another call",
    "stranger": "it takes no calls of devices that it has nothing to do with; become friends first",
}


@attrs.frozen
class Refusal:
    """One recipient that does not get a message."""

    device: str
    reason: str

    @property
    def text(self) -> str:
        return _REFUSALS.get(self.reason, self.reason)


@attrs.frozen(kw_only=True)
class Answer:
    """The server's answer to one frame."""

    sequence: int
    refused: tuple[Refusal, ...] = ()
    """Recipients that were left out; the others have it."""
    message: str | None = None
    """What the server calls the message in its reports, in a session that asked for them."""
    error: str | None = None
    """Kind of the Error when the frame was refused as a whole."""
    detail: str = ""
    retry: bool = False
    """The same frame may be sent again."""

    @property
    def text(self) -> str:
        """Why the frame was refused, for a person."""
        known = _REFUSALS.get(self.error or "")
        if known is not None and self.detail and self.detail != known:
            return f"{known} ({self.detail})"
        return known or self.detail or self.error or "refused"


def read_acknowledgement(value: Mapping[str, Any]) -> Answer | None:
    """An Ack frame's object; None when it answers nothing of ours."""
    sequence = value.get("ack")
    if not isinstance(sequence, int) or isinstance(sequence, bool):
        return None
    message = value.get("message")
    return Answer(
        sequence=sequence, refused=_refusals(value), message=message if is_message_id(message) else None
    )


def read_refusal(value: Mapping[str, Any]) -> Answer | None:
    """An Error frame's object; None when it is about the session and not about one frame."""
    sequence = value.get("ref")
    if not isinstance(sequence, int) or isinstance(sequence, bool):
        return None
    return Answer(
        sequence=sequence,
        refused=_refusals(value),
        error=_text(value, "error") or "refused",
        detail=_text(value, "detail") or _text(value, "title"),
        retry=value.get("retry") is True,
    )


def _refusals(value: Mapping[str, Any]) -> tuple[Refusal, ...]:
    named = value.get("refused")
    if not isinstance(named, list):
        return ()
    return tuple(
        Refusal(str(one.get("device", "")), str(one.get("reason", "")))
        for one in named
        if isinstance(one, dict)
    )


def session_end(value: Mapping[str, Any] | None) -> CliError:
    """Why the server ended an established session; ``value`` is its last Error, if it sent one."""
    if value is None:
        return ConnectionLostError("the server ended the session")
    kind = _text(value, "error")
    if kind == "replaced":
        return SessionReplaced("another session of this device took over; only one can receive at a time")
    if kind == "shutdown":
        return ServerBusyError("the server is shutting down")
    told = ": ".join(part for part in (_text(value, "title"), _text(value, "detail")) if part) or kind
    if value.get("retry") is True:
        return ServerBusyError(f"the server ended the session: {told}")
    return SessionEndedError(f"the server ended the session: {told}")


def handshake_refusal(value: Mapping[str, Any], *, with_code: bool) -> CliError:
    """Why the server did not let the device in."""
    detail = _text(value, "detail") or _text(value, "title") or "no reason given"
    reason = _text(value, "reason")
    told = f"{detail} ({reason})" if reason and reason != detail else detail
    if value.get("retry") is True or detail == "handshake timeout":
        return ServerBusyError(f"the server could not admit the device: {told}")
    if reason == WAITS:
        return HandshakeRefused(
            "this device waits for approval; agree on another device of the same user with: "
            "commucat-cli devices approve, or ask the server's operator"
        )
    if value.get("pairing_required") is True or detail.startswith("pairing required"):
        if with_code:
            return HandshakeRefused(f"the server refuses the code: {told}; ask its operator for a new one")
        return HandshakeRefused(
            f"the server admits this device only with a code: {told}; "
            "pair it with another device of the same user (commucat-cli pair there, claim here), or "
            "ask its operator for a one-time code and repeat with --code"
        )
    if detail == "invalid request":
        return HandshakeRefused(
            f"the server refuses this device: {told}; it may be revoked or unknown there, its key may have "
            "been changed (rotate-keys of the server's operator does that), or the handle is not its own"
        )
    return HandshakeRefused(f"the server refuses this device: {told}")


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
