"""Parts of the protocol library's connection in less memory: they stand in for what it makes for each."""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, ClassVar

import attrs
import hpack
from hpack.huffman import HuffmanEncoder
from hpack.table import table_entry_size

from commucat_server.listener.stream import CONNECT_PATH

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
        return _block(tuple(headers))


@functools.lru_cache(maxsize=128)
def _block(fields: tuple[Entry, ...]) -> bytes:
    # "Never indexed" (RFC 7541, section 6.2.3) changes no table, on neither side.
    return hpack.Encoder().encode([(name, value, True) for name, value in fields])


_KEPT_BLOCKS = 64
_KEPT_SIZE = 512
"""A request for ``/connect`` is one of a few kinds, each some hundred bytes."""
_SECRET = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


@attrs.frozen
class _Decoded:
    """What a block meant that was the first of its connection."""

    fields: list[hpack.HeaderTuple]
    size: int
    """As it counts against a limit."""
    entries: tuple[Entry, ...]
    """What it added to the table, oldest first."""


class HeadDecoder(hpack.Decoder):
    """Knows again what most connections begin with, byte for byte the same.

    Only requests for ``/connect`` without credentials are kept.
    """

    _first: ClassVar[dict[bytes, _Decoded]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.header_table.dynamic_entries = Entries()  # type: ignore[assignment]  # all that is asked of a deque

    def decode(self, data: bytes, raw: bool = False) -> Iterable[hpack.HeaderTuple]:
        """The fields of a header block.

        Raises:
            hpack.HPACKError: it is none, or too large.
        """
        table = self.header_table
        if not raw or table.dynamic_entries or table.maxsize != table.DEFAULT_SIZE:
            return super().decode(data, raw)
        known = self._first.get(data)
        if known is not None and known.size <= self.max_header_list_size:
            for name, value in known.entries:
                table.add(name, value)
            return list(known.fields)
        fields = list(super().decode(data, raw))
        if len(data) <= _KEPT_SIZE and table.maxsize == table.DEFAULT_SIZE and _is_plain_connect(fields):
            if len(self._first) >= _KEPT_BLOCKS:
                self._first.clear()
            size = sum(table_entry_size(name, value) for name, value in fields)
            self._first[bytes(data)] = _Decoded(fields, size, tuple(table.dynamic_entries)[::-1])
        return fields


def _is_plain_connect(fields: Iterable[hpack.HeaderTuple]) -> bool:
    names = dict(fields)
    return names.get(b":path") == CONNECT_PATH and _SECRET.isdisjoint(names)


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
