"""What devices may send to devices of other servers."""

from typing import Final

from commucat_proto import FrameType

CARRIED: Final = frozenset({FrameType.MSG, FrameType.KEY_UPDATE})
"""Types of frames, and further ones to groups. No peer can write as if it were this server to its own
clients: no handshake, no error; and calls, which live for seconds, stay within a server."""
LEAVING: Final = CARRIED | {FrameType.GROUP_EVENT}
"""What a device here may send along a route that leads elsewhere; GroupEvent goes to groups only."""
