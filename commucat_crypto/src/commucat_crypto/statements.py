"""What devices and servers sign about keys: the bytes under each signature, and nothing else.

Each is BLAKE3 over a context and its fields, so that a signature for one purpose is worth nothing for
another.
"""

import struct
from typing import Final

from blake3 import blake3

ROTATION_CONTEXT: Final = b"commucat:device-rotation:v1"
CLAIM_CONTEXT: Final = b"commucat:pair-claim:v1"
HISTORY_CONTEXT: Final = b"commucat:key-history:v1"


def rotation_statement(device_id: str, new_public: bytes, *, expires_at: int, nonce: bytes) -> bytes:
    """What the old key of a device signs for a new one, 32 bytes.

    BLAKE3 of context, device id, new key, expiry (i64, big-endian, Unix seconds) and nonce, as servers of
    this protocol have it. Its fields have no lengths; device id and key belong to one known device, so no
    other split of the bytes is ever asked for.
    """
    hasher = blake3(ROTATION_CONTEXT).update(device_id.encode()).update(new_public)
    return hasher.update(struct.pack(">q", expires_at)).update(nonce).digest()


def claim_statement(*, domain: str, code: str, device_id: str, public_key: bytes) -> bytes:
    """What the key of a new device signs when it claims a pairing code, 32 bytes.

    BLAKE3 of context, domain, code (as ``XXXX-XXXX``), device id (empty if the server shall choose it) and
    key, each but the key behind its length in 4 bytes, big-endian. The domain keeps another server from
    using the proof here, the code from using it twice.
    """
    fields = b"".join(_counted(text) for text in (domain, code, device_id))
    return blake3(CLAIM_CONTEXT + fields + public_key).digest()


def history_statement(device_id: str, *, events: int, link: bytes, signed_at: int) -> bytes:
    """What a server signs about the key events of a device, 32 bytes.

    BLAKE3 of context, device id (behind its length in 4 bytes), number of events (u64), the link of the last
    one (32 bytes; see ``commucat_ledger.key_chain``) and the time (i64, Unix seconds), big-endian.
    """
    fields = _counted(device_id) + struct.pack(">Q", events) + link + struct.pack(">q", signed_at)
    return blake3(HISTORY_CONTEXT + fields).digest()


def _counted(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4) + data
