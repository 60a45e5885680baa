"""Signed heads: what a server says about its ledger, kept by others.

A chain alone cannot tell that its end was cut off or that all of it was written anew. A head says "after
``size`` records the hash is ``head``", signed by the server; whoever kept one can hold the ledger
against it. The signature is Ed25519 over::

    "commucat:ledger-head:v1\\n"  ledger (32)  size (8)  head (32)  signed_at (8)  node (UTF-8)

with numbers big-endian.

This module signs and verifies nothing itself: the caller brings the function.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import attrs
import orjson

from commucat_ledger.chain import MAX_SEQ
from commucat_ledger.errors import LedgerHeadError

CONTEXT: Final = b"commucat:ledger-head:v1\n"
MAX_NODE_LEN: Final = 64
MAX_HEAD_BYTES: Final = 2048
"""Longest line of a file of heads."""
FILE_MODE: Final = 0o600
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}", re.ASCII)
_MEMBERS: Final = {"ledger", "size", "head", "signed_at", "node", "key", "signature"}


@attrs.frozen(kw_only=True)
class Signer:
    """Signs heads: the 32-byte public Ed25519 key, and the function that makes a 64-byte signature."""

    key: bytes
    sign: Callable[[bytes], bytes] = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class SignedHead:
    """One statement of a server about one ledger."""

    ledger: bytes
    """Id of the ledger: the head after its first record, 32 bytes."""
    size: int
    """Records so far."""
    head: bytes
    signed_at: int
    """Unix seconds."""
    node: str
    """Which process of the server, as it is configured."""
    key: bytes
    """Public key that is said to have signed; worth nothing unless compared with a known one."""
    signature: bytes

    @classmethod
    def make(
        cls, signer: Signer, *, ledger: bytes, size: int, head: bytes, signed_at: int, node: str
    ) -> Self:
        """Sign a statement."""
        message = _message(ledger, size, head, signed_at, node)
        return cls(
            ledger=ledger,
            size=size,
            head=head,
            signed_at=signed_at,
            node=node,
            key=signer.key,
            signature=signer.sign(message),
        )

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Read the JSON object; says nothing about the signature.

        Raises:
            LedgerHeadError: another form.
        """
        if not isinstance(value, Mapping) or value.keys() < _MEMBERS:
            raise LedgerHeadError("a head is an object with " + ", ".join(sorted(_MEMBERS)))
        for name, form in (("ledger", _HASH), ("head", _HASH), ("key", _HASH), ("signature", _SIGNATURE)):
            if not isinstance(value[name], str) or not form.fullmatch(value[name]):
                raise LedgerHeadError(f"{name} of a head has a wrong form")
        for name in ("size", "signed_at"):
            if type(value[name]) is not int or not 0 <= value[name] <= MAX_SEQ:
                raise LedgerHeadError(f"{name} of a head is no whole number in range")
        node = value["node"]
        if not isinstance(node, str) or len(node) > MAX_NODE_LEN or (node and not node.isprintable()):
            raise LedgerHeadError(f"node of a head is no text of at most {MAX_NODE_LEN} printable characters")
        return cls(
            ledger=bytes.fromhex(value["ledger"]),
            size=value["size"],
            head=bytes.fromhex(value["head"]),
            signed_at=value["signed_at"],
            node=node,
            key=bytes.fromhex(value["key"]),
            signature=bytes.fromhex(value["signature"]),
        )

    def to_wire(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "ledger": self.ledger.hex(),
            "size": self.size,
            "head": self.head.hex(),
            "signed_at": self.signed_at,
            "node": self.node,
            "key": self.key.hex(),
            "signature": self.signature.hex(),
        }

    def message(self) -> bytes:
        """The bytes under the signature."""
        return _message(self.ledger, self.size, self.head, self.signed_at, self.node)


def _message(ledger: bytes, size: int, head: bytes, signed_at: int, node: str) -> bytes:
    return CONTEXT + ledger + size.to_bytes(8) + head + signed_at.to_bytes(8) + node.encode()


@attrs.frozen(kw_only=True)
class KeptHeads:
    """A file of heads. ``torn``: its last line was cut off while it was written."""

    heads: tuple[SignedHead, ...]
    torn: bool = False


def read_heads(path: Path) -> KeptHeads:
    """Read a file with one head in each line; blocking.

    Raises:
        LedgerHeadError: a line has a wrong form; the text names it.
        OSError: the file cannot be read.
    """
    heads: list[SignedHead] = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_HEAD_BYTES + 1):
            number += 1
            if not line.endswith(b"\n") and len(line) <= MAX_HEAD_BYTES:
                try:
                    heads.append(SignedHead.from_wire(orjson.loads(line)))
                except (orjson.JSONDecodeError, LedgerHeadError):
                    return KeptHeads(heads=tuple(heads), torn=True)
                continue
            try:
                heads.append(SignedHead.from_wire(orjson.loads(line)))
            except (orjson.JSONDecodeError, LedgerHeadError) as exc:
                raise LedgerHeadError(f"{path} line {number}: not a signed head ({exc})") from exc
    return KeptHeads(heads=tuple(heads))


def keep_head(path: Path, head: SignedHead) -> None:
    """Append a head to a file and wait until it is on the disk; blocking.

    The file is opened each time: it may be on a disk that comes and goes. What a crash left half
    written is cut off first.

    Raises:
        OSError: it cannot be written.
    """
    line = orjson.dumps(head.to_wire()) + b"\n"
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            _drop_torn(fd, size)
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _drop_torn(fd: int, size: int) -> None:
    """Cut a half-written head off: the whole one that follows says more than it."""
    start = max(0, size - MAX_HEAD_BYTES - 1)
    tail = os.pread(fd, size - start, start)
    newline = tail.rfind(b"\n")
    if (newline < 0 and start > 0) or not tail[newline + 1 :].startswith(b'{"'):
        raise OSError(errno.EINVAL, "ends with what is no head; not a file of heads")
    os.ftruncate(fd, start + newline + 1)
