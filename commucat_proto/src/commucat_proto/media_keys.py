"""How the devices of a call tell each other their media keys (docs/protocol.md, "Encrypted media").

A sealed envelope (``sealing.py``) for one device, whose text is :data:`MARK` and a JSON object with
``call_id`` and ``key`` (64 hex digits): the key of everything that the envelope's sender sends in this
call. It stands in base64 (RFC 4648, section 4) in ``metadata.keys`` of a CallOffer or CallAnswer, under the
id of the device that can open it. The envelope proves who sealed it, names the channel, and fits one call
only, so nobody can pass off a key of somebody else or of an earlier call.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

import attrs

from commucat_crypto import MEDIA_KEY_LEN, DeviceKeyPair, StaticKeyPair
from commucat_proto import json_text
from commucat_proto.errors import ProtoError
from commucat_proto.sealing import Opened, SealedContent, SealingError, open_envelope, seal

MARK: Final = "\x1ecommucat-media-key:v1\n"
"""Begins the text. U+001E (record separator) is in no text that people type."""
MAX_SEALED_LEN: Final = 8192
"""Characters of base64; two ids of the greatest length, and a call id of it, need less."""

_HEX = re.compile(r"[0-9a-f]{64}")


class MediaKeyError(ProtoError):
    """There is no media key for this device, or it is not one of this call. The text repeats nothing of
    it."""


@attrs.frozen(kw_only=True)
class SealedMediaKey:
    """A key that was opened. That ``opened`` is of the device it claims to be is for the caller to check."""

    key: bytes = attrs.field(repr=False)
    """32 bytes."""
    opened: Opened


def seal_media_key(
    key: bytes,
    *,
    call_id: str,
    channel: int,
    sender: str,
    sender_keys: DeviceKeyPair,
    recipient: str,
    recipient_public: bytes,
    message_id: bytes,
    sent_at: int,
    content_key: bytes,
    ephemeral: StaticKeyPair,
) -> str:
    """The entry of ``metadata.keys`` for ``recipient``, whose Ed25519 key is ``recipient_public``.

    ``message_id``, ``content_key`` and ``ephemeral`` are fresh and random for this envelope; ``sent_at`` in
    Unix milliseconds.

    Raises:
        SealingError: a value is out of range, or the recipient's key cannot be used.
        ValueError: the media key has not 32 bytes.
    """
    if len(key) != MEDIA_KEY_LEN:
        raise ValueError(f"a media key has {MEDIA_KEY_LEN} bytes")
    content = SealedContent(
        message_id=message_id,
        sender=sender,
        recipients=(recipient,),
        channel=channel,
        sent_at=sent_at,
        text=MARK + json_text.dumps({"call_id": call_id, "key": key.hex()}).decode(),
    )
    envelope = seal(
        content,
        sender_keys,
        {recipient: recipient_public},
        content_key=content_key,
        ephemerals=[ephemeral],
    )
    return base64.b64encode(envelope).decode()


def keys_in(metadata: object) -> Mapping[str, str] | None:
    """``metadata.keys`` of an offer or answer; None when its sender does not encrypt."""
    keys = metadata.get("keys") if isinstance(metadata, Mapping) else None
    if not isinstance(keys, Mapping):
        return None
    return {device: sealed for device, sealed in keys.items() if isinstance(sealed, str)}


def open_media_key(
    metadata: object, *, call_id: str, channel: int, device_id: str, keys: DeviceKeyPair
) -> SealedMediaKey:
    """The key for this device in the metadata of an offer or answer that came on ``channel``.

    Raises:
        MediaKeyError: there is none, or it is not for this device, call and channel.
    """
    sealed = (keys_in(metadata) or {}).get(device_id)
    if sealed is None:
        raise MediaKeyError("there is no media key for this device")
    if len(sealed) > MAX_SEALED_LEN:
        raise MediaKeyError("the sealed media key is too long")
    try:
        opened = open_envelope(base64.b64decode(sealed, validate=True), device_id, keys)
    except (binascii.Error, ValueError, SealingError) as exc:
        raise MediaKeyError(f"the sealed media key does not open: {exc}") from exc
    content = opened.content
    if content.channel != channel:
        raise MediaKeyError("the media key was sealed for another channel")
    if not content.text.startswith(MARK):
        raise MediaKeyError("the envelope holds no media key")
    try:
        value = json_text.loads(content.text.removeprefix(MARK).encode())
    except (json_text.JsonTextError, UnicodeEncodeError) as exc:
        raise MediaKeyError("the media key is not described in JSON") from exc
    key = value.get("key") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(key, str) or not _HEX.fullmatch(key):
        raise MediaKeyError("the envelope holds no media key")
    if value.get("call_id") != call_id:
        raise MediaKeyError("the media key was sealed for another call")
    return SealedMediaKey(key=bytes.fromhex(key), opened=opened)
