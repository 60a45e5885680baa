"""Sealed envelopes: what CommuCat's own client puts into a Msg payload. The server never opens one.

A text is encrypted once, under a key made for this message alone, and that key is sealed to
each recipient device with one Noise X message. All integers are little-endian; ``id`` is a
device id as ``u16 length`` and that many bytes of UTF-8 (1 to 512). Layout::

    envelope = version  u8 = 1
               count    u16            recipients, 1 to 5,000
               count x  id             ascending by their bytes, none twice
               count x  sealed         128 bytes each, in the order of the ids
               chunks   ...            the encrypted content, to the end but for
               tag      32 bytes

    content  = message  16 bytes       random; a client shows the same one once
               sent_at  u64            Unix milliseconds
               channel  u32            the channel of the frame that carries the envelope
               from     id             the sender's device
               count    u16            as in the envelope
               count x  id             as in the envelope
               text     UTF-8, to the end

**Keys.** From the message's 32-byte content key K: ``encryption key = BLAKE3.derive_key(
"commucat sealed envelope v1 encryption", K)`` and ``tag key = BLAKE3.derive_key("commucat
sealed envelope v1 tag", K)``.

**Chunks.** The content is cut into pieces of 32,768 bytes, the last one 1 to 32,768. Each is
encrypted with ChaCha20-Poly1305 (RFC 8439), no associated data, nonce = ``u64 number of the
piece, from 0`` + three zero bytes + ``u8``: 1 for the last piece, else 0. A chunk is its piece
and a 16-byte tag. Lost, moved, doubled or added chunks do not decrypt.

**Sealed key.** One message of ``Noise_X_25519_ChaChaPoly_BLAKE2s``, payload K, from the sender's
device key to the recipient's, both Ed25519 keys converted to X25519. Its prologue is
``"commucat:sealed-envelope:v1"`` and 32 bytes BLAKE3 of version, count, ids and chunks: a sealed
key opens this envelope only, for these recipients only, and proves that the owner of the
sender's key sealed this very ciphertext.

**Tag.** Keyed BLAKE3 (tag key) of every byte before it. Through it each recipient notices a
change anywhere, in keys sealed to others too; and as it commits to K, a sender cannot make one
ciphertext that reads differently for two recipients.

What it does not give: forward secrecy against a stolen *recipient* key (the X pattern has
none), a proof towards third parties of who wrote something (a recipient could have made the
envelope itself), or a hidden length.
"""

import hmac
import itertools
import struct
from collections.abc import Mapping, Sequence

import attrs
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from commucat_crypto import (
    HANDSHAKE_OVERHEAD,
    TAG_LEN,
    CryptoError,
    DeviceKeyPair,
    NoiseError,
    NoiseHandshake,
    NoisePattern,
    StaticKeyPair,
    agreement_public,
)
from commucat_proto.errors import ProtoError
from commucat_proto.frames import MAX_CHANNEL_ID

VERSION = 1
MESSAGE_ID_LEN = 16
CONTENT_KEY_LEN = 32
MAX_RECIPIENTS = 5_000
"""As many as a group has members; an envelope for all of them still fits a frame of 1 MiB."""
MAX_ID_LEN = 512
"""Bytes of a device id: 128 characters of up to four bytes."""
CHUNK_LEN = 32_768
"""Bytes of content in each chunk but the last."""

_SEALED_LEN = HANDSHAKE_OVERHEAD[NoisePattern.X][0] + CONTENT_KEY_LEN
_ENVELOPE_TAG_LEN = 32
_PROLOGUE = b"commucat:sealed-envelope:v1"
_ENCRYPTION_CONTEXT = "commucat sealed envelope v1 encryption"
_TAG_CONTEXT = "commucat sealed envelope v1 tag"
_MAX_TIME = 2**63 - 1  # so that every time fits the signed integers of databases

_U16 = struct.Struct("<H")
_HEAD = struct.Struct("<BH")
_CONTENT_HEAD = struct.Struct(f"<{MESSAGE_ID_LEN}sQI")
_NONCE = struct.Struct("<Q3xB")


class SealingError(ProtoError):
    """Bytes that are no envelope for this device, or a content that cannot be sealed.

    The text says which rule failed and repeats nothing of the content.
    """


@attrs.frozen(kw_only=True)
class SealedContent:
    """What only sender and recipients know of a message."""

    message_id: bytes
    """16 random bytes."""
    sender: str
    """Device id of the sender, as it claims; the caller checks it against the sender's key."""
    recipients: tuple[str, ...]
    """Device ids, ascending, none twice."""
    channel: int
    sent_at: int
    """Unix milliseconds by the sender's clock."""
    text: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Opened:
    """An envelope that decrypted completely."""

    content: SealedContent
    sender_agreement_public: bytes
    """X25519 key that sealed it (32 bytes): the converted device key of the real sender."""


def seal(
    content: SealedContent,
    sender_keys: DeviceKeyPair,
    recipients: Mapping[str, bytes],
    *,
    content_key: bytes,
    ephemerals: Sequence[StaticKeyPair],
) -> bytes:
    """Encrypt ``content`` for the devices in ``recipients`` (device id to Ed25519 public key).

    ``content_key`` (32 random bytes) and ``ephemerals`` (one fresh pair per recipient, in the
    order of their ids) are for this envelope alone: the same key with another content would
    reveal both.

    Raises:
        SealingError: ``content.recipients`` differs from ``recipients``; a value is out of
            range; a recipient's key is not a proper public key.
    """
    ids = tuple(sorted(recipients, key=_id_bytes))
    if content.recipients != ids:
        raise SealingError("the content names other recipients than the envelope")
    if len(content_key) != CONTENT_KEY_LEN or len(ephemerals) != len(ids):
        raise SealingError("one content key of 32 bytes and one ephemeral pair per recipient are needed")
    encoded_ids = _encode_ids(ids)
    head = _HEAD.pack(VERSION, len(ids)) + encoded_ids
    chunks = _encrypt(content_key, _encode_content(content, encoded_ids))
    prologue = _PROLOGUE + blake3(head).update(chunks).digest()
    static = StaticKeyPair.from_private(sender_keys.agreement_private())
    parts = [head]
    for device_id, ephemeral in zip(ids, ephemerals, strict=True):
        try:
            noise = NoiseHandshake(
                pattern=NoisePattern.X,
                initiator=True,
                prologue=prologue,
                static=static,
                remote_static=agreement_public(recipients[device_id]),
                ephemeral=ephemeral,
            )
            parts.append(noise.write_message(content_key))
        except CryptoError as exc:
            raise SealingError(f"the key of a recipient cannot be used: {exc}") from exc
    parts.append(chunks)
    body = b"".join(parts)
    return body + _tag(content_key, body)


def open_envelope(envelope: bytes, own_device_id: str, own_keys: DeviceKeyPair) -> Opened:
    """Open an envelope that was sealed to ``own_device_id``.

    That the content's ``sender`` owns ``sender_agreement_public``, and that its ``channel`` is
    the frame's, is for the caller to check: both need knowledge from outside the envelope.

    Raises:
        SealingError: not an envelope, not for this device, or changed in any bit.
    """
    reader = _Reader(envelope, 0, len(envelope) - _ENVELOPE_TAG_LEN)
    version = reader.take(1)[0]
    if version != VERSION:
        raise SealingError(f"envelopes of version {version} are not known")
    ids = reader.ids()
    head_end = reader.position
    try:
        own_slot = ids.index(own_device_id)
    except ValueError:
        raise SealingError("the envelope is sealed to other devices") from None
    slots = reader.take(len(ids) * _SEALED_LEN)
    chunks = reader.rest()
    prologue = _PROLOGUE + blake3(envelope[:head_end]).update(chunks).digest()
    noise = NoiseHandshake(
        pattern=NoisePattern.X,
        initiator=False,
        prologue=prologue,
        static=StaticKeyPair.from_private(own_keys.agreement_private()),
    )
    try:
        content_key = noise.read_message(slots[own_slot * _SEALED_LEN : (own_slot + 1) * _SEALED_LEN])
    except NoiseError as exc:
        raise SealingError("the sealed key does not open") from exc
    expected = _tag(content_key, envelope[:-_ENVELOPE_TAG_LEN])
    if not hmac.compare_digest(expected, envelope[-_ENVELOPE_TAG_LEN:]):
        raise SealingError("the envelope was changed")
    content = _decode_content(_decrypt(content_key, chunks))
    if content.recipients != ids:
        raise SealingError("the content names other recipients than the envelope")
    assert noise.remote_static is not None
    return Opened(content=content, sender_agreement_public=noise.remote_static)


# -- encryption -----------------------------------------------------------------------------------


def _encrypt(content_key: bytes, content: bytes) -> bytes:
    encrypt = ChaCha20Poly1305(_derive(_ENCRYPTION_CONTEXT, content_key)).encrypt
    last = (len(content) - 1) // CHUNK_LEN
    return b"".join(
        encrypt(
            _NONCE.pack(number, number == last), content[number * CHUNK_LEN : (number + 1) * CHUNK_LEN], None
        )
        for number in range(last + 1)
    )


def _decrypt(content_key: bytes, chunks: bytes) -> bytes:
    decrypt = ChaCha20Poly1305(_derive(_ENCRYPTION_CONTEXT, content_key)).decrypt
    step = CHUNK_LEN + TAG_LEN
    starts = range(0, len(chunks), step)
    if not starts or len(chunks) - starts[-1] <= TAG_LEN:
        raise SealingError("the last chunk is empty")
    try:
        return b"".join(
            decrypt(_NONCE.pack(number, start == starts[-1]), chunks[start : start + step], None)
            for number, start in enumerate(starts)
        )
    except InvalidTag as exc:
        raise SealingError("a chunk does not decrypt") from exc


def _tag(content_key: bytes, body: bytes) -> bytes:
    return blake3(body, key=_derive(_TAG_CONTEXT, content_key)).digest()


def _derive(context: str, content_key: bytes) -> bytes:
    return blake3(content_key, derive_key_context=context).digest()


# -- bytes ----------------------------------------------------------------------------------------


def _id_bytes(device_id: str) -> bytes:
    try:
        raw = device_id.encode()
    except UnicodeEncodeError as exc:
        raise SealingError("a device id is not valid Unicode") from exc
    if not 1 <= len(raw) <= MAX_ID_LEN:
        raise SealingError(f"a device id has 1 to {MAX_ID_LEN} bytes")
    return raw


def _encode_id(device_id: str) -> bytes:
    raw = _id_bytes(device_id)
    return _U16.pack(len(raw)) + raw


def _encode_ids(ids: Sequence[str]) -> bytes:
    if not 1 <= len(ids) <= MAX_RECIPIENTS:
        raise SealingError(f"an envelope has 1 to {MAX_RECIPIENTS} recipients")
    return b"".join(map(_encode_id, ids))


def _encode_content(content: SealedContent, encoded_ids: bytes) -> bytes:
    if len(content.message_id) != MESSAGE_ID_LEN:
        raise SealingError(f"a message id has {MESSAGE_ID_LEN} bytes")
    if not 0 <= content.channel <= MAX_CHANNEL_ID or not 0 <= content.sent_at <= _MAX_TIME:
        raise SealingError("channel or time is out of range")
    try:
        text = content.text.encode()
    except UnicodeEncodeError as exc:
        raise SealingError("the text is not valid Unicode") from exc
    head = _CONTENT_HEAD.pack(content.message_id, content.sent_at, content.channel)
    count = _U16.pack(len(content.recipients))
    return b"".join((head, _encode_id(content.sender), count, encoded_ids, text))


def _decode_content(raw: bytes) -> SealedContent:
    reader = _Reader(raw, 0, len(raw))
    message_id, sent_at, channel = _CONTENT_HEAD.unpack(reader.take(_CONTENT_HEAD.size))
    if sent_at > _MAX_TIME:
        raise SealingError("the time is out of range")
    sender = reader.id()[1]
    recipients = reader.ids()
    try:
        text = reader.rest().decode()
    except UnicodeDecodeError as exc:
        raise SealingError("the text is not UTF-8") from exc
    return SealedContent(
        message_id=message_id,
        sender=sender,
        recipients=recipients,
        channel=channel,
        sent_at=sent_at,
        text=text,
    )


class _Reader:
    """Takes values from the front of ``raw[position:end]``; running out is a SealingError."""

    def __init__(self, raw: bytes, position: int, end: int) -> None:
        self._raw = raw
        self._end = end
        self.position = position

    def take(self, length: int) -> bytes:
        start = self.position
        if length > self._end - start:
            raise SealingError("the bytes end too early")
        self.position = start + length
        return self._raw[start : self.position]

    def rest(self) -> bytes:
        return self.take(self._end - self.position)

    def id(self) -> tuple[bytes, str]:
        (length,) = _U16.unpack(self.take(_U16.size))
        if not 1 <= length <= MAX_ID_LEN:
            raise SealingError(f"a device id has 1 to {MAX_ID_LEN} bytes")
        raw = self.take(length)
        try:
            return raw, raw.decode()
        except UnicodeDecodeError as exc:
            raise SealingError("a device id is not UTF-8") from exc

    def ids(self) -> tuple[str, ...]:
        (count,) = _U16.unpack(self.take(_U16.size))
        if not 1 <= count <= MAX_RECIPIENTS:
            raise SealingError(f"an envelope has 1 to {MAX_RECIPIENTS} recipients")
        found = [self.id() for _ in range(count)]
        if any(left[0] >= right[0] for left, right in itertools.pairwise(found)):
            raise SealingError("the recipients are not in order")
        return tuple(device_id for _, device_id in found)
