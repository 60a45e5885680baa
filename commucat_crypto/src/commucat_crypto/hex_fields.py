"""Fixed-length byte fields written as hexadecimal text."""


def decode_hex(text: object, length: int) -> bytes:
    """Decode exactly ``length`` bytes from hexadecimal text of either case.

    Raises:
        ValueError: not a string, wrong length, or not hexadecimal.
    """
    if not isinstance(text, str):
        raise ValueError("must be a hexadecimal string")
    try:
        decoded = bytes.fromhex(text)
    except ValueError:
        # The original text is not repeated: it may hold a secret.
        raise ValueError("must be a hexadecimal string") from None
    # Both lengths: bytes.fromhex skips blanks, which the wire form does not allow.
    if len(decoded) != length or len(text) != 2 * length:
        raise ValueError(f"must be {2 * length} hexadecimal digits")
    return decoded
