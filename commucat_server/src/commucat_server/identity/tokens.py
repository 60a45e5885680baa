"""Ids and bearer tokens. Both come from the operating system's random source."""

import secrets
import time

from blake3 import blake3


def new_id() -> str:
    """64 hex digits."""
    return secrets.token_hex(32)


def new_event_id() -> str:
    """64 hex digits, of which the first 16 are the time in nanoseconds.

    Events have whole seconds; within one their ids say which came first, so that a history never gets an
    event in its middle.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(24)}"


def new_serial() -> int:
    """A certificate serial: unsigned, 64 bits."""
    return secrets.randbits(64)


def token_hash(token: str) -> str:
    """What the store keeps of a bearer token: hex of BLAKE3 over its text."""
    return blake3(token.encode("utf-8", "surrogatepass")).hexdigest()


# Without 0/O and 1/I/L, which people confuse when they copy a code from a screen.
_CODE_SYMBOLS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
_CODE_GROUPS = 5


def new_enrolment_code() -> str:
    """Five groups of four symbols: 99 bits, so that hashing it without a salt is safe."""
    groups = ("".join(secrets.choice(_CODE_SYMBOLS) for _ in range(4)) for _ in range(_CODE_GROUPS))
    return "-".join(groups)


def enrolment_code_hash(code: str) -> bytes:
    """What the store keeps of a code. Case, blanks and dashes do not matter."""
    symbols = "".join(code.upper().split()).replace("-", "")
    return blake3(b"commucat:enrolment-code:v1" + symbols.encode("utf-8", "surrogatepass")).digest()
