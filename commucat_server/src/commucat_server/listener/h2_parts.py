"""Parts of the protocol library's connection in less memory: they stand in for what it makes for each."""

from collections.abc import Callable, Mapping
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


def slim(encoder: hpack.Encoder, decoder: hpack.Decoder) -> None:
    """Let a pair that was not used so far take less memory."""
    encoder.huffman_coder = _HUFFMAN
    for table in (encoder.header_table, decoder.header_table):
        table.dynamic_entries = Entries()  # type: ignore[assignment]  # no deque, but all that is asked of one


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
