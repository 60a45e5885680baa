"""Call messages to the server, and its answers."""

from collections.abc import Mapping, Sequence

from commucat_cli.client.answers import Answer
from commucat_cli.client.connection import Connection
from commucat_cli.errors import CliError
from commucat_proto import CALL_MEDIA, json_text
from commucat_proto.calls import CallMessage

GONE = ("call_unknown", "not_participant")
"""Errors that say that there is no such call for this device (any more)."""


class JoinRefusedError(CliError):
    """The channel of a call cannot be used."""


async def ask(connection: Connection, channel: int, message: CallMessage) -> Answer:
    """Send a call message and wait for the answer.

    Raises:
        CliError: the session ended before.
    """
    return await connection.request(message.frame_type, channel, json_text.dumps(message.to_wire()))


async def join(connection: Connection, channel: int, devices: Sequence[str]) -> None:
    """Let this device's frames on the channel go to those in the call.

    Raises:
        JoinRefusedError: the server refuses.
        CliError: the session ended.
    """
    answer = await connection.join(channel, sorted(devices))
    if answer.error is not None:
        raise JoinRefusedError(f"the server refuses channel {channel}: {why(answer)}")


def why(answer: Answer) -> str:
    """Why nobody has got a frame, for a person."""
    texts = {refusal.text for refusal in answer.refused}
    return ", ".join(sorted(texts)) or answer.text


def knows_call_media(connection: Connection) -> bool:
    """Whether server and session have numbered packets, and with them encryption."""
    known = connection.info.ack.get("capabilities")
    return isinstance(known, list) and CALL_MEDIA in known


def message_call_id(message: CallMessage) -> str | None:
    """Every call message has one."""
    call_id = getattr(message, "call_id", None)
    return call_id if isinstance(call_id, str) else None


def named_device(metadata: object) -> str | None:
    """``metadata.device``: who says to have sent the message. No proof."""
    device = metadata.get("device") if isinstance(metadata, Mapping) else None
    return device if isinstance(device, str) else None
