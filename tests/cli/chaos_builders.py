"""Hand-made histories for the chaos checker."""

from commucat_cli.chaos.history import (
    Answered,
    Confirmed,
    Delivered,
    Opened,
    Record,
    RouteAsked,
    RouteSet,
    Sent,
)
from commucat_cli.chaos.payload import Message

EPOCH = "e" * 32
CHANNEL = 7


def message(sequence: int, sender: str = "alice", channel: int = CHANNEL) -> Message:
    return Message(sender, channel, sequence, f"{sender}-{channel}-{sequence}")


class Story:
    """Tells what happens; every call is later than the one before."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def _now(self) -> int:
        return len(self.records) + 1

    def opened(self, device: str, session: int = 1, watermark: int = 0, resume: int | None = None) -> None:
        self.records.append(Opened(self._now(), device, session, EPOCH, watermark, True, resume))

    def asked(self, device: str, *members: str, channel: int = CHANNEL) -> None:
        self.records.append(RouteAsked(self._now(), device, channel, members))

    def joined(self, device: str, *members: str, channel: int = CHANNEL) -> None:
        self.asked(device, *members, channel=channel)
        self.records.append(RouteSet(self._now(), device, channel, members))

    def left(self, device: str, channel: int = CHANNEL) -> None:
        self.records.append(RouteAsked(self._now(), device, channel, None))
        self.records.append(RouteSet(self._now(), device, channel, None))

    def sent(self, one: Message, *route: str, attempt: int = 1, session: int = 1) -> None:
        self.records.append(Sent(self._now(), session, one, attempt, route or ("bob",)))

    def answered(self, one: Message, *refused: str, attempt: int = 1, error: str | None = None) -> None:
        self.records.append(Answered(self._now(), one, attempt, error, refused))

    def acknowledged(self, *messages: Message) -> None:
        """Each sent to bob, and acknowledged."""
        for one in messages:
            self.sent(one)
            self.answered(one)

    def came(
        self,
        one: Message | None,
        number: int,
        device: str = "bob",
        session: int = 1,
        channel: int = CHANNEL,
    ) -> None:
        self.records.append(Delivered(self._now(), device, session, EPOCH, number, channel, one))

    def confirmed(self, number: int, device: str = "bob", session: int = 1) -> None:
        self.records.append(Confirmed(self._now(), device, session, number))
