"""Pairing codes: eight symbols that a person reads from one screen and types at another."""

import secrets

from blake3 import blake3

from commucat_crypto import DeviceKeyPair

# Without I, L, O, 0 and 1, which people confuse.
SYMBOLS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
LENGTH = 8
"""31^8 codes, 39.6 bits: enough only because guesses are counted and codes live for minutes."""
_KEY_CONTEXT = b"commucat:pairing-code-key:v1"


def new_pairing_code() -> str:
    """``XXXX-XXXX``, each symbol as likely as any other, from the operating system's random source."""
    symbols = "".join(secrets.choice(SYMBOLS) for _ in range(LENGTH))
    return f"{symbols[:4]}-{symbols[4:]}"


def canonical_code(text: str) -> str | None:
    """The code that a person has typed, as it was shown; None if it cannot be one.

    Case, blanks and dashes do not matter.
    """
    symbols = "".join(text.split()).replace("-", "").upper()
    # str.upper makes two letters of some one: what is no symbol is found after it.
    if len(symbols) != LENGTH or not set(symbols) <= set(SYMBOLS):
        return None
    return f"{symbols[:4]}-{symbols[4:]}"


class PairingCodeHashes:
    """What the store keeps of codes.

    Codes are short: without a key, whoever reads the database could try them all in minutes. With one, the
    look-up also compares nothing that a guesser could choose, so its time tells nothing about codes.
    """

    def __init__(self, authority: DeviceKeyPair) -> None:
        self._key = blake3(_KEY_CONTEXT + authority.private).digest()

    def of(self, code: str) -> str:
        """64 hexadecimal digits for a canonical code."""
        return blake3(code.encode(), key=self._key).hexdigest()
