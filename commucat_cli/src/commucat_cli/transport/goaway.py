"""Keeps a graceful GOAWAY away from the h2 library.

After a GOAWAY with NO_ERROR the streams that are open go on (RFC 9113, section 6.8), and a
server that shuts down still answers on them. The library ends the whole connection instead,
so such frames are taken out of the byte stream before it sees them.
"""

_HEADER_LEN = 9
_GOAWAY = 7
_MAX_GOAWAY_LEN = 16_384  # debug data included; the library refuses longer frames anyway


class GoawayFilter:
    """Passes HTTP/2 frames on, all but graceful GOAWAYs."""

    def __init__(self) -> None:
        self._held = b""
        self._passing = 0
        self.going_away = False
        """The server takes no further requests on this connection."""

    def feed(self, data: bytes) -> bytes:
        """What the library may see of ``data``, however the network split it."""
        if self._held:
            data = self._held + data
            self._held = b""
        passed: list[bytes] = []
        start = 0
        position = self._passing
        end = len(data)
        while position < end:
            if end - position < _HEADER_LEN:
                break
            length = int.from_bytes(data[position : position + 3], "big")
            stop = position + _HEADER_LEN + length
            if data[position + 3] == _GOAWAY and 8 <= length <= _MAX_GOAWAY_LEN:
                if stop > end:
                    break
                if data[position + 13 : position + 17] == b"\0\0\0\0":  # the error code
                    self.going_away = True
                    passed.append(data[start:position])
                    start = stop
            position = stop
        if position > end:
            self._passing = position - end
            passed.append(data[start:])
        else:
            self._passing = 0
            passed.append(data[start:position])
            self._held = data[position:]
        return passed[0] if len(passed) == 1 else b"".join(passed)
