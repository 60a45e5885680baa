"""Takes messages from the inbox: open, check, show, remember, confirm, in this order.

A message is confirmed only after it was shown and that was written down. If the process
dies in between, the server delivers it again, and its id says whether it was shown.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import trio

from commucat_cli.client.addresses import is_address
from commucat_cli.client.connection import Connection
from commucat_cli.client.friend_notices import friend_notice
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.session import Notice
from commucat_cli.client.tasks import finish_within
from commucat_cli.errors import PeerKeyError, RestError
from commucat_cli.profile import Cursor, Profile, ProfileKeys, keep_undecryptable
from commucat_crypto import CryptoError
from commucat_proto import DeliveryReport, Frame, FrameType, is_delivery_report, read_delivery_report
from commucat_proto.attachment import AttachmentError, AttachmentNote
from commucat_proto.sealing import Opened, SealingError, open_envelope

DURABLE = frozenset(
    {
        FrameType.MSG,
        FrameType.KEY_UPDATE,
        FrameType.GROUP_CREATE,
        FrameType.GROUP_INVITE,
        FrameType.GROUP_EVENT,
        FrameType.CALL_OFFER,
        FrameType.CALL_ANSWER,
        FrameType.CALL_END,
    }
)
"""Frames that the server keeps until they are confirmed. Their sequence is the inbox number."""

BATCH = 32
"""Messages shown before they are written down: one transaction for all, few shown twice after a crash."""
CLOSING_GRACE = 2.0
"""Seconds a command that is told to stop has to finish showing what it began to show."""


@attrs.frozen(kw_only=True)
class ReceivedMessage:
    """A message whose sender was checked."""

    message_id: bytes
    sender: str
    """Device id."""
    channel: int
    number: int
    """Inbox number."""
    sent_at: int
    """Unix milliseconds by the sender's clock."""
    text: str = attrs.field(repr=False)
    attachment: AttachmentNote | None = None
    """The file that the text describes."""
    saved: Path | None = None
    """Where that is now."""


class InboxReader:
    """Reads over one connection after another."""

    def __init__(
        self,
        profile: Profile,
        *,
        show: Callable[[list[ReceivedMessage]], Awaitable[None]],
        notice: Notice,
        limit: int | None = None,
        on_report: Callable[[DeliveryReport], Awaitable[None]] | None = None,
    ) -> None:
        """``show`` returns when the messages are out of our hands. ``limit``: how many to take at all.
        ``on_report`` is told what became of messages sent; reports are no messages."""
        self._profile = profile
        self._show = show
        self._notice = notice
        self._limit = limit
        self._on_report = on_report
        self._batch: list[ReceivedMessage] = []
        self._number = 0
        self.shown = 0

    async def run(self, connection: Connection, directory: PeerDirectory) -> None:
        """Read until the limit is reached; never confirms more than was shown.

        Raises:
            CliError: the connection ended, or messages cannot be shown.
        """
        epoch = connection.info.epoch
        cursor = self._profile.state.cursor()
        done = cursor.ack if cursor is not None and cursor.epoch == epoch else 0
        self._batch = []
        while not self._full():
            frames = await connection.deliveries()
            try:
                for frame in frames:
                    if frame.type not in DURABLE:
                        continue
                    if frame.sequence > done:
                        await self._take(frame, epoch, directory)
                        done = frame.sequence
                    self._number = done
                    if len(self._batch) >= BATCH or self._full():
                        await self._flush(connection, epoch)
                    if self._full():
                        return
            finally:
                # Also when a sender could not be checked: what came before it is good.
                await self._flush(connection, epoch)

    def _full(self) -> bool:
        return self._limit is not None and self.shown + len(self._batch) >= self._limit

    async def _take(self, frame: Frame, epoch: str, directory: PeerDirectory) -> None:
        if frame.type is FrameType.MSG:
            await self._take_message(frame, epoch, directory)
        elif frame.type is FrameType.KEY_UPDATE:
            if isinstance(frame.control, Mapping) and (told := directory.apply_key_update(frame.control)):
                self._notice(told)
        elif is_delivery_report(frame):
            report = read_delivery_report(frame)
            if report is not None and self._on_report is not None:
                await self._on_report(report)
        elif (told := friend_notice(frame)) is not None:
            self._notice(told)
        elif frame.type is FrameType.CALL_OFFER:
            self._notice(f"{_caller(frame)} called; answer takes calls while no listen runs")
        elif frame.type in (FrameType.CALL_ANSWER, FrameType.CALL_END):
            return  # of a call that nobody here is in
        else:
            self._notice(f"a {frame.type.wire_name} frame was left out: this client has no groups")

    async def _take_message(self, frame: Frame, epoch: str, directory: PeerDirectory) -> None:
        try:
            message = await self._open(frame, directory)
        except (SealingError, PeerKeyError, CryptoError, RestError) as exc:
            path = await trio.to_thread.run_sync(
                keep_undecryptable, self._profile.directory, epoch, frame.sequence, frame.payload
            )
            self._notice(f"message {frame.sequence} was not shown: {exc}; it is kept in {path}")
            return
        known = any(
            (other.sender, other.message_id) == (message.sender, message.message_id) for other in self._batch
        )
        if not known and not self._profile.state.was_shown(message.sender, message.message_id):
            self._batch.append(message)

    async def _open(self, frame: Frame, directory: PeerDirectory) -> ReceivedMessage:
        keys = self._profile.keys
        opened = _open_with(frame.payload, keys, self._profile.account().domain)
        content = opened.content
        if content.channel != frame.channel:
            raise SealingError("it was written for another channel")
        if not is_address(content.sender) or not content.sender.isprintable():
            raise SealingError("its sender is no device id")
        await directory.check_sender(opened)
        return ReceivedMessage(
            message_id=content.message_id,
            sender=content.sender,
            channel=content.channel,
            number=frame.sequence,
            sent_at=content.sent_at,
            text=content.text,
            attachment=_note_of(content.text),
        )

    async def _flush(self, connection: Connection, epoch: str) -> None:
        if self._number:
            # A command that is told to stop now must not stop between showing and writing down.
            await finish_within(CLOSING_GRACE, partial(self._settle, connection, epoch))

    async def _settle(self, connection: Connection, epoch: str) -> None:
        """Show what is waiting, write it down, confirm it."""
        batch, self._batch = self._batch, []
        number, self._number = self._number, 0
        if batch:
            await self._show(batch)
            self.shown += len(batch)
        cursor = Cursor(epoch, number)
        ids = [(message.sender, message.message_id) for message in batch]
        await trio.to_thread.run_sync(self._profile.state.settle, cursor, ids)
        connection.confirm(number)


def _caller(frame: Frame) -> str:
    caller = frame.control.get("from") if isinstance(frame.control, Mapping) else None
    return f"device {caller}" if isinstance(caller, str) and is_address(caller) else "somebody"


def _open_with(payload: bytes, keys: ProfileKeys, domain: str) -> Opened:
    """Open a message that was sealed to the device's key, or to one that it had before; under the name
    that devices of this server use, or others.

    Raises:
        SealingError: to none of them, or it is damaged.
    """
    try:
        return open_envelope(payload, keys.device_id, keys.device)
    except SealingError:
        for name in (keys.device_id, f"{keys.device_id}@{domain.lower()}"):
            for pair in (keys.device, *keys.previous):
                with suppress(SealingError):
                    return open_envelope(payload, name, pair)
        raise


def _note_of(text: str) -> AttachmentNote | None:
    try:
        return AttachmentNote.from_text(text)
    except AttachmentError:
        return None  # then it is a text like any other
