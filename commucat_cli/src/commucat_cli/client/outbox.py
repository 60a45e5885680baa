"""Messages to one device, kept until the server has acknowledged them."""

import enum
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs
import trio

from commucat_cli.client.addresses import normalized, own_name
from commucat_cli.client.answers import Answer
from commucat_cli.client.channels import derive_channel
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile
from commucat_crypto import StaticKeyPair
from commucat_proto import FrameType
from commucat_proto.sealing import CONTENT_KEY_LEN, MESSAGE_ID_LEN, SealedContent, seal

MAX_TEXT_LEN = 1_000_000
"""Bytes of UTF-8. Sealed, it still fits the 1 MiB that servers accept in a frame by default."""
WINDOW = 256
"""Messages that may wait for their acknowledgement; more would only wait here instead."""
MAX_ATTEMPTS = 16
"""Derived channels to try; every one of them taken is no coincidence any more."""
RETRY_WAIT = 0.5  # seconds a server that cannot store is left alone


class _Trouble(enum.Enum):
    CHANNEL_CONFLICT = "channel_conflict"
    RETRY = "retry"


@attrs.frozen(kw_only=True)
class OutgoingMessage:
    """What a person wrote. A resent message keeps its id, so that it is shown once."""

    message_id: bytes
    sent_at: int
    text: str = attrs.field(repr=False)


class Outbox:
    """Sends over one connection after another until everything is acknowledged, in order."""

    def __init__(
        self,
        profile: Profile,
        peer: str,
        *,
        channel: int | None,
        on_refused: Callable[[OutgoingMessage, str], None],
        on_stored: Callable[[OutgoingMessage, str], None] | None = None,
    ) -> None:
        """``channel`` None: the channel derived for the peer. ``on_refused`` is told of messages given up,
        ``on_stored`` of those acknowledged with a name for the server's reports."""
        domain = profile.account().domain
        peer = normalized(peer, domain)
        if peer == profile.keys.device_id:
            raise CliError("that is this profile's own device; a message goes to another one")
        self._profile = profile
        self._peer = peer
        self._own = own_name(profile.keys.device_id, domain, peer)
        self._fixed_channel = channel
        self._attempt = profile.state.channel_attempt(peer)
        self._on_refused = on_refused
        self._on_stored = on_stored
        self._pending: dict[bytes, OutgoingMessage] = {}
        self._fresh: deque[OutgoingMessage] = deque()
        self._in_flight = 0
        self._trouble: _Trouble | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self.settled = 0
        """Messages acknowledged or given up so far."""

    @property
    def pending(self) -> int:
        """Messages that are neither acknowledged nor given up."""
        return len(self._pending)

    async def add(self, text: str) -> None:
        """Take a message; waits while many are unacknowledged.

        Raises:
            CliError: the text is too long, or not valid Unicode.
        """
        try:
            length = len(text.encode())
        except UnicodeEncodeError as exc:
            raise CliError("the text is not valid Unicode; is the terminal set to UTF-8?") from exc
        if length > MAX_TEXT_LEN:
            raise CliError(f"a message may have {MAX_TEXT_LEN} bytes, this one has {length}")
        while len(self._pending) >= WINDOW:
            await self._lot.park()
        message = OutgoingMessage(
            message_id=secrets.token_bytes(MESSAGE_ID_LEN), sent_at=time.time_ns() // 1_000_000, text=text
        )
        self._pending[message.message_id] = message
        self._fresh.append(message)
        self._lot.unpark_all()

    async def changed(self) -> None:
        """Wait until a message was added, acknowledged or given up."""
        await self._lot.park()

    async def wait_settled(self) -> None:
        """Wait until nothing is pending."""
        while self._pending:
            await self._lot.park()

    async def run(self, connection: Connection, directory: PeerDirectory) -> None:
        """Send everything pending, and what is added, over ``connection`` until it ends.

        Raises:
            CliError: the connection ended, or the peer's key or channel cannot be used.
        """
        key = await directory.key_for_sending(self._peer)
        while True:
            channel = await self._join(connection)
            trouble = await self._send_all(connection, key, channel)
            if trouble is _Trouble.CHANNEL_CONFLICT:
                self._next_attempt()
            else:
                await trio.sleep(RETRY_WAIT)

    async def _join(self, connection: Connection) -> int:
        while True:
            channel = self._fixed_channel
            if channel is None:
                channel = derive_channel(self._own, self._peer, self._attempt)
            answer = await connection.join(channel, [self._peer])
            if answer.error is None:
                return channel
            if answer.retry:
                await trio.sleep(RETRY_WAIT)
            else:
                raise CliError(f"the server refuses channel {channel}: {answer.text}")

    def _next_attempt(self) -> None:
        self._attempt += 1
        if self._attempt >= MAX_ATTEMPTS:
            raise CliError(
                f"device {self._peer} uses {MAX_ATTEMPTS} channels in a row otherwise; give --channel N"
            )
        self._profile.state.save_channel_attempt(self._peer, self._attempt)

    async def _send_all(self, connection: Connection, key: bytes, channel: int) -> _Trouble:
        """Send until there is trouble and every frame in flight has its answer."""
        self._fresh.clear()
        self._trouble = None
        self._in_flight = 0
        queue = deque(self._pending.values())
        while True:
            while queue and self._trouble is None:
                message = queue.popleft()
                await connection.room()
                payload = self._seal(message, key, channel)
                connection.send_frame(FrameType.MSG, channel, payload, partial(self._answered, message))
                self._in_flight += 1
            if self._trouble is not None and self._in_flight == 0:
                # Only now may messages be sent again: none of them is still under way.
                return self._trouble
            if not self._fresh or self._trouble is not None:
                await self._lot.park()
            queue.extend(self._fresh)
            self._fresh.clear()

    def _seal(self, message: OutgoingMessage, key: bytes, channel: int) -> bytes:
        content = SealedContent(
            message_id=message.message_id,
            sender=self._own,
            recipients=(self._peer,),
            channel=channel,
            sent_at=message.sent_at,
            text=message.text,
        )
        return seal(
            content,
            self._profile.keys.device,
            {self._peer: key},
            content_key=secrets.token_bytes(CONTENT_KEY_LEN),
            ephemerals=[StaticKeyPair.generate()],
        )

    def _answered(self, message: OutgoingMessage, answer: Answer) -> None:
        self._in_flight -= 1
        refusals = [refusal for refusal in answer.refused if refusal.device == self._peer]
        reason = answer.error or (refusals[0].reason if refusals else None)
        if reason == "channel_conflict" and self._fixed_channel is None:
            self._trouble = _Trouble.CHANNEL_CONFLICT
        elif reason is not None and answer.retry:
            self._trouble = self._trouble or _Trouble.RETRY
        elif self._pending.pop(message.message_id, None) is not None:
            self.settled += 1
            if reason is not None:
                self._on_refused(message, answer.text if answer.error else refusals[0].text)
            elif self._on_stored is not None and answer.message is not None:
                self._on_stored(message, answer.message)
        self._lot.unpark_all()
