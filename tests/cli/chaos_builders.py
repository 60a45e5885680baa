"""Hand-made histories for the chaos checker, and whole runs of it."""

import subprocess
from pathlib import Path

from commucat_cli.chaos.history import (
    Answered,
    Change,
    Confirmed,
    Delivered,
    Opened,
    Record,
    Returned,
    RouteAsked,
    RouteSet,
    Sent,
)
from commucat_cli.chaos.payload import Message
from commucat_cli.chaos.steps import GroupEvent
from commucat_proto import FrameType
from end_to_end.server_process import BIN, clean_environment

EPOCH = "e" * 32
CHANNEL = 7
GROUP_CHANNEL = 1000
GROUP = "a-group"
PATIENCE = 240.0
"""Seconds for a run; only a hang takes so long."""


def chaos(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "commucat-cli"), "chaos", *arguments],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def message(sequence: int, sender: str = "alice", channel: int = CHANNEL) -> Message:
    return Message(sender, channel, sequence, f"{sender}-{channel}-{sequence}")


class Story:
    """Tells what happens; every call is later than the one before."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def _now(self) -> int:
        return len(self.records) + 1

    def opened(
        self,
        device: str,
        session: int = 1,
        watermark: int = 0,
        resume: int | None = None,
        receives: bool = True,
    ) -> None:
        opened = Opened(self._now(), device, session, EPOCH, watermark, True, resume, receives)
        self.records.append(opened)

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

    def sent_afar(self, one: Message, *route: str) -> None:
        """Sent to devices of another server, and acknowledged."""
        self.records.append(Sent(self._now(), 1, one, 1, route, afar=route))
        self.answered(one)

    def returned(self, one: Message | None, device: str = "bob") -> None:
        """Another server has refused it for good."""
        self.records.append(Returned(device, one, "status 409"))

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
        channel: int | None = None,
        frame: FrameType = FrameType.MSG,
    ) -> None:
        """On the message's own channel, if no other one is said."""
        if channel is None:
            channel = CHANNEL if one is None else one.channel
        self.records.append(Delivered(self._now(), device, session, EPOCH, number, channel, one, frame))

    def confirmed(self, number: int, device: str = "bob", session: int = 1) -> None:
        self.records.append(Confirmed(self._now(), device, session, number))

    # -- groups -------------------------------------------------------------------------------------

    def to_group(self, one: Message, attempt: int = 1) -> None:
        """Sent on a channel that leads to the group."""
        sent = Sent(self._now(), 1, one, attempt, (), FrameType.MSG, GROUP)
        self.records.append(sent)

    def told_group(self, one: Message, *refused: str) -> None:
        """Sent to the group, and acknowledged."""
        self.to_group(one)
        self.answered(one, *refused)

    def wished(self, one: Message, event: GroupEvent, *devices: str) -> None:
        """A change of the group was asked for."""
        change = Change(event.value, devices)
        self.records.append(Sent(self._now(), 1, one, 1, (), change_frame(event), GROUP, change))

    def changed(self, sequence: int, event: GroupEvent, *devices: str, by: str = "alice") -> Message:
        """A change was asked for and acknowledged; the message that its notice is."""
        one = group_message(sequence, by)
        self.wished(one, event, *devices)
        self.answered(one)
        return one

    def noticed(self, one: Message, event: GroupEvent, number: int, device: str = "bob") -> None:
        """The notice of a change arrived."""
        self.came(one, number, device, frame=change_frame(event))


def group_message(sequence: int, sender: str = "alice") -> Message:
    return message(sequence, sender, GROUP_CHANNEL)


def change_frame(event: GroupEvent) -> FrameType:
    if event is GroupEvent.CREATE:
        return FrameType.GROUP_CREATE
    return FrameType.GROUP_INVITE if event is GroupEvent.INVITE else FrameType.GROUP_EVENT
