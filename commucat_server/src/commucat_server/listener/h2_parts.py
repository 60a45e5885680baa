"""Parts of the protocol library's connection in less memory: they stand in for what it makes for each."""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

import hpack
from hpack.huffman import HuffmanEncoder

Entry = tuple[bytes, bytes]

# It has tables, but nothing in it changes.
_HUFFMAN: HuffmanEncoder = hpack.Encoder().huffman_coder


class Entries(list[Entry]):
    """The entries of a header table, newest first, with what the library asks of its deque.

    An empty deque takes 760 bytes, and each connection has two. A table of 4,096 bytes has at most 128
    entries.
    """

    __slots__ = ()

    def appendleft(self, entry: Entry) -> None:
        """Add the newest entry."""
        self.insert(0, entry)


class HeadEncoder(hpack.Encoder):
    """Encodes without a table: the same head has the same bytes on every connection, and is encoded once."""

    def __init__(self) -> None:
        super().__init__()
        self.huffman_coder = _HUFFMAN
        self.header_table.dynamic_entries = Entries()  # type: ignore[assignment]  # all that is asked of a deque

    def encode(self, headers: Iterable[Any] | Mapping[Any, Any], huffman: bool = True) -> bytes:
        """A header block.

        Args:
            headers: fields of bytes.
            huffman: as the library's; it is always done.
        """
        if self.header_table.resized:
            # The peer must be told what became of the table that its settings have changed.
            return super().encode(headers, huffman)
        return header_block(tuple(headers))


@functools.lru_cache(maxsize=128)
def header_block(fields: tuple[Entry, ...]) -> bytes:
    """What ``HeadEncoder`` makes of fields for a peer that has left its table as it was."""
    # "Never indexed" (RFC 7541, section 6.2.3) changes no table, on neither side.
    return hpack.Encoder().encode([(name, value, True) for name, value in fields])


class HeadDecoder(hpack.Decoder):
    """The library's, with a table that takes no room while it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table.dynamic_entries = Entries()  # type: ignore[assignment]  # all that is asked of a deque


class Receivers:
    """Methods of one object by the kind of what they receive, bound when they are looked up.

    The library keeps a table of bound methods in each connection: 1.4 KiB, and every connection is part of a
    cycle that only the collector frees.
    """

    __slots__ = ("_methods", "_owner")

    def __init__(self, owner: object, methods: Mapping[type[Any], Callable[..., Any]]) -> None:
        self._owner = owner
        self._methods = methods

    def __getitem__(self, kind: type[Any]) -> MethodType:
        return MethodType(self._methods[kind], self._owner)
