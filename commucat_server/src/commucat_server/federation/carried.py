"""What devices may send to devices of other servers."""

from typing import Final

from commucat_proto import FrameType

CARRIED: Final = frozenset({FrameType.MSG, FrameType.KEY_UPDATE})
"""Types of frames. No peer can write as if it were this server to its own clients: no handshake, no error, no
group; and calls, which live for seconds, stay within a server."""
