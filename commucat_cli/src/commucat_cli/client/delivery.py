"""What became of the messages that were sent, as the server reports it."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs
import trio

from commucat_cli.client.connection import Connection
from commucat_cli.client.inbox import CLOSING_GRACE, DURABLE
from commucat_cli.client.outbox import OutgoingMessage
from commucat_cli.client.tasks import finish_within
from commucat_cli.errors import CliError
from commucat_cli.profile import Cursor, Profile
from commucat_proto import (
    DELIVERY_STATUS,
    DeliveryReport,
    DeliveryStatus,
    ExpiryReason,
    Frame,
    is_delivery_report,
    read_delivery_report,
)

START_LEN = 40
"""Characters of a message that are kept to say which one is meant."""


@attrs.frozen
class SentMessage:
    """A message that the server has; ``start`` is the beginning of its text."""

    message_id: bytes
    start: str = attrs.field(repr=False)


class Deliveries:
    """Follows the messages to one device from the server's Ack to their end there."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._names: dict[str, SentMessage] = {}
        self._lot = trio.lowlevel.ParkingLot()
        self.expired: dict[ExpiryReason, int] = {}
        """How many messages the server has deleted before the device had confirmed them."""

    def stored(self, message: OutgoingMessage, name: str) -> None:
        """The server has the message and calls it ``name`` in its reports."""
        self._names[name] = SentMessage(message.message_id, message.text[:START_LEN])

    async def take(
        self, report: DeliveryReport, tell: Callable[[list[SentMessage]], Awaitable[None]]
    ) -> None:
        """Tell of the messages that the report is about; then nobody waits for them any more.

        Others are passed over: those of an earlier run, and of an Ack that was lost, after which the
        message was sent again.
        """
        if report.device != self._peer:
            return
        names = [name for name in report.messages if name in self._names]
        if not names:
            return
        await tell([self._names[name] for name in names])
        for name in names:
            self._names.pop(name, None)
        if report.reason is not None:
            self.expired[report.reason] = self.expired.get(report.reason, 0) + len(names)
        self._lot.unpark_all()

    async def wait_known(self) -> None:
        """Wait until there is nothing left to wait for."""
        while self._names:
            await self._lot.park()


def require_reports(connection: Connection) -> None:
    """Raises :class:`CliError` when the server reports no deliveries."""
    known = connection.info.ack.get("capabilities")
    if not isinstance(known, list) or DELIVERY_STATUS not in known:
        raise CliError("the server does not report deliveries; leave out --wait-delivered")


async def watch_reports(
    connection: Connection, profile: Profile, take: Callable[[DeliveryReport], Awaitable[None]]
) -> None:
    """Read the inbox for reports alone, until the connection ends.

    Confirms reports only as long as nothing else lies before them: messages stay for those who show them.

    Raises:
        CliError: the connection ended.
    """
    watch = _Watch(connection, profile, take)
    while True:
        frames = await connection.deliveries()
        # A command that is told to stop because the last report has come confirms it first.
        await finish_within(CLOSING_GRACE, partial(watch.read, frames))


class _Watch:
    """One session's reading for reports."""

    def __init__(
        self, connection: Connection, profile: Profile, take: Callable[[DeliveryReport], Awaitable[None]]
    ) -> None:
        self._connection = connection
        self._profile = profile
        self._take = take
        self._only_reports = True

    async def read(self, frames: Sequence[Frame]) -> None:
        """Take the reports, then confirm what may be confirmed."""
        number = 0
        for frame in frames:
            if frame.type not in DURABLE:
                continue
            self._only_reports = self._only_reports and is_delivery_report(frame)
            if (report := read_delivery_report(frame)) is not None:
                await self._take(report)
            if self._only_reports:
                number = frame.sequence
        if number:
            cursor = Cursor(self._connection.info.epoch, number)
            await trio.to_thread.run_sync(self._profile.state.settle, cursor, [])
            self._connection.confirm(number)


def status_text(report: DeliveryReport) -> str:
    """What a report says, in a few words for a person."""
    if report.status is DeliveryStatus.DELIVERED:
        return "delivered"
    return f"not delivered: {reason_text(report.reason)}"


def reason_text(reason: ExpiryReason | None) -> str:
    """Why a message was not delivered."""
    match reason:
        case ExpiryReason.REVOKED:
            return "the device was revoked"
        case ExpiryReason.REFUSED:
            return "the device's server does not take it"
        case _:
            return "it expired on the server"
