"""Heads of ledgers that a server has really signed."""

from collections.abc import Iterable
from pathlib import Path

from commucat_cli.errors import CliError
from commucat_crypto import SignatureError, verify_signature
from commucat_ledger import KeptHeads, LedgerHeadError, SignedHead, read_heads


class HeadError(CliError):
    """A head is not what the server signed."""


def check_head(head: SignedHead, key: bytes) -> None:
    """Check the signature with a key that is known from elsewhere.

    Raises:
        HeadError: another key, or a wrong signature.
    """
    if head.key != key:
        raise HeadError(f"a head was signed with the key {head.key.hex()}, not with {key.hex()}")
    try:
        verify_signature(key, head.message(), head.signature)
    except SignatureError as exc:
        raise HeadError(f"the signature of the head for {head.size} records does not verify") from exc


def load_heads(path: Path, key: bytes) -> KeptHeads:
    """Read a file of heads and check every signature. Blocks.

    Raises:
        HeadError: it cannot be read, or holds what the key has not signed.
    """
    try:
        kept = read_heads(path)
    except LedgerHeadError as exc:
        raise HeadError(str(exc)) from exc
    except OSError as exc:
        raise HeadError(f"cannot read {path}: {exc.strerror}") from exc
    check_heads(path, kept.heads, key)
    return kept


def check_heads(path: Path, heads: Iterable[SignedHead], key: bytes) -> None:
    """Check the signatures of all.

    Raises:
        HeadError: names the file and the place of the first that is wrong.
    """
    for number, head in enumerate(heads, start=1):
        try:
            check_head(head, key)
        except HeadError as exc:
            raise HeadError(f"{path} line {number}: {exc}") from exc
