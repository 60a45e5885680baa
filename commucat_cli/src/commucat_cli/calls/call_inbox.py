"""The inbox of a device that is there for a call only."""

from collections.abc import Mapping

import trio

from commucat_cli.client.connection import Connection
from commucat_cli.client.inbox import DURABLE
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.profile import Cursor, Profile
from commucat_proto import Frame, FrameType

CALL_FRAMES = frozenset({FrameType.CALL_OFFER, FrameType.CALL_ANSWER, FrameType.CALL_END})


class CallInbox:
    """One session's frames: those of calls are taken, messages stay for those who show them.

    Confirmations are cumulative, so that call frames behind a message stay unconfirmed and come again in the
    next session, unless they have expired. Whoever handles them must bear that.
    """

    def __init__(self, connection: Connection, profile: Profile, directory: PeerDirectory) -> None:
        self._connection = connection
        self._profile = profile
        self._directory = directory
        self._done = 0
        self.waiting = 0
        """Messages and other frames that were left in the inbox."""

    def take(self, frame: Frame) -> bool:
        """Whether a durable frame is one of calls."""
        if frame.type not in DURABLE:
            return False
        ours = frame.type in CALL_FRAMES
        if frame.type is FrameType.KEY_UPDATE and isinstance(frame.control, Mapping):
            # Without it a call right after a change of keys would be refused. It comes again for the reader.
            self._directory.apply_key_update(frame.control)
        if not ours:
            self.waiting += 1
        elif not self.waiting:
            self._done = frame.sequence
        return ours

    async def confirm(self) -> None:
        """Confirm what was taken, as far as nothing else lies before it."""
        if self._done:
            done, self._done = self._done, 0
            cursor = Cursor(self._connection.info.epoch, done)
            await trio.to_thread.run_sync(self._profile.state.settle, cursor, [])
            self._connection.confirm(done)
