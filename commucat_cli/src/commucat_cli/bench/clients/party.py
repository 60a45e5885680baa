"""Devices in calls with each other: each sends voice by a schedule, and hears all others of its call."""

import secrets
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from commucat_cli.bench.clients.devices import CHANNEL, Watch, find_server, join, new_device, undisturbed
from commucat_cli.bench.clients.sender import LEAD
from commucat_cli.bench.jobs import PartyJob, Ready, TalkReport, TalkTask
from commucat_cli.bench.load_session import LoadLostError, LoadSession, answer_in
from commucat_cli.bench.payload import RUN_LEN
from commucat_cli.bench.percentiles import step_of
from commucat_cli.bench.schedule import Schedule
from commucat_cli.errors import CliError
from commucat_media import (
    STREAM_HEADER_BYTES,
    AudioCodec,
    MediaSource,
    StreamPacket,
    encode_stream_packet,
)
from commucat_proto import CALL_MEDIA, DELIVERY_ACK, FrameType
from commucat_proto.calls import CallAnswer, CallEnd, CallOffer, EndReason

QUIET = 1.0
"""Seconds without any packet, after the last one was sent, after which the rest is lost."""
HEAD = RUN_LEN + 8
"""Bytes of a packet's data that say which one it is: run, sender (u32), number (u32)."""
TICKS = 960
"""Of a packet's timestamp: 20 ms."""
LEVEL = 30
_CALL_FRAMES = (FrameType.CALL_OFFER, FrameType.CALL_ANSWER, FrameType.CALL_END)


@attrs.define(eq=False)
class Member:
    """One device in a call."""

    index: int
    """Among all devices of the process."""
    session: LoadSession
    stream: int
    sent: int = 0
    """Packets of its stream so far."""


class Party:
    """All calls of one process; they are made when a task needs them, and stay."""

    def __init__(self, job: PartyJob) -> None:
        """Look for the server.

        Raises:
            CliError: it cannot be reached.
        """
        self._job = job
        self._target = find_server(job.server)
        self._calls: list[list[Member]] = []
        self._ids: list[str] = []

    def ready(self) -> Ready:
        return Ready()

    def prepare(self, task: TalkTask) -> Callable[[], TalkReport]:
        """Make the calls that are missing, and all packets; the result sends them.

        Raises:
            CliError: the server refuses a call.
        """
        while len(self._calls) < task.calls:
            self._begin_call()
        talking = _Talking([member for call in self._calls[: task.calls] for member in call], task, self._job)
        return talking.run

    def _begin_call(self) -> None:
        patience = self._job.server.stall
        call_id = secrets.token_hex(16)
        names = [f"bench-party-{call_id}-{index}" for index in range(self._job.parties)]
        first = sum(map(len, self._calls))
        members: list[Member] = []
        for index, name in enumerate(names):
            device = new_device(self._target, name, DELIVERY_ACK, CALL_MEDIA)
            session = LoadSession.open(self._target, device)
            join(session, [other for other in names if other != name], patience)
            members.append(Member(first + index, session, int.from_bytes(secrets.token_bytes(4), "big")))
        caller, *called = members
        offer = CallOffer(call_id=call_id, sender=names[0], to=tuple(names[1:]))
        _ask(caller.session, FrameType.CALL_OFFER, offer.to_wire(), patience)
        for member in called:
            answer = CallAnswer(call_id=call_id, accept=True)
            _ask(member.session, FrameType.CALL_ANSWER, answer.to_wire(), patience)
        self._calls.append(members)
        self._ids.append(call_id)

    def close(self) -> None:
        for call_id, members in zip(self._ids, self._calls, strict=True):
            end = CallEnd(call_id=call_id, reason=EndReason.HANGUP)
            try:
                _ask(members[0].session, FrameType.CALL_END, end.to_wire(), self._job.server.stall)
            except CliError:
                continue  # The server ends calls whose devices are gone.
            finally:
                for member in members:
                    member.session.close(orderly=False)


def _ask(session: LoadSession, kind: FrameType, value: Mapping[str, Any], patience: float) -> None:
    answer = session.request(kind, CHANNEL, value, patience)
    if answer.error is not None or answer.refused:
        told = answer.text if answer.error is not None else answer.refused[0].text
        raise CliError(f"the server refuses the call: {told}")


class _Talking:
    """One task."""

    def __init__(self, members: list[Member], task: TalkTask, job: PartyJob) -> None:
        self._members = members
        self._parties = job.parties
        self._stall = job.server.stall
        self._task = task
        self._run = bytes.fromhex(task.run)
        # As good as encrypted sound: nothing compresses it. Everybody's is the same, to be compared.
        self._filler = (self._run * (task.size // RUN_LEN + 1))[: task.size - STREAM_HEADER_BYTES - HEAD]
        # Encoded beforehand, so that making them is not measured.
        self._frames = [self._prepare(member) for member in members]
        # Everybody in turn, evenly spread: real devices do not send in step either.
        self._schedule = Schedule(task.rate * len(members), task.packets * len(members))
        self._sent = 0
        self._seen = {
            (hearing.index, speaking.index): bytearray(task.packets)
            for start in range(0, len(members), self._parties)
            for hearing in members[start : start + self._parties]
            for speaking in members[start : start + self._parties]
            if hearing is not speaking
        }
        self._last = dict.fromkeys(self._seen, -1)
        self._received = self._repeated = self._damaged = 0
        self._latencies: dict[int, int] = {}
        self._latest = 0.0
        self._refused = 0
        self._why = ""

    @property
    def _expected(self) -> int:
        return len(self._seen) * self._task.packets

    def _prepare(self, member: Member) -> list[bytes]:
        frames = []
        for number in range(self._task.packets):
            packet = StreamPacket(
                source=MediaSource.ENCODED,
                codec=AudioCodec.OPUS,
                data=self._run + member.index.to_bytes(4, "big") + number.to_bytes(4, "big") + self._filler,
                stream=member.stream,
                number=member.sent,
                timestamp=member.sent * TICKS % 2**32,
                level=LEVEL,
            )
            member.sent += 1
            payload = encode_stream_packet(packet)
            frames.append(member.session.prepare(FrameType.VOICE_FRAME, CHANNEL, payload)[1])
        return frames

    def run(self) -> TalkReport:
        with undisturbed():
            watch = Watch(self._stall)
            try:
                self._talk(watch)
            except LoadLostError as exc:
                watch.problem = f"a device in a call lost its session: {exc}"
        if self._refused and watch.problem is None:
            watch.problem = f"the server refused {self._refused} packets: {self._why}"
        return TalkReport(
            effort=watch.effort(),
            expected=self._expected,
            received=self._received,
            repeated=self._repeated,
            damaged=self._damaged,
            latencies=[[step, count] for step, count in self._latencies.items()],
            refused=self._refused,
            latest=self._latest,
        )

    def _talk(self, watch: Watch) -> None:
        # Not epoll, whose waits are whole milliseconds.
        with selectors.SelectSelector() as selector:
            for member in self._members:
                selector.register(member.session, selectors.EVENT_READ, member)
            start = watch.started = time.monotonic() + LEAD
            heard = start
            while self._received < self._expected:
                now = time.monotonic()
                self._send_due(now - start)
                if self._sent < self._schedule.count:
                    wait = start + self._schedule.due(self._sent) - time.monotonic()
                else:
                    heard = max(heard, start + self._schedule.due(self._schedule.count - 1))
                    wait = heard + QUIET - now
                    if wait <= 0:
                        return
                for key, _ in selector.select(max(wait, 0.0)):
                    if self._take(key.data, start):
                        heard = watch.progress()

    def _send_due(self, elapsed: float) -> None:
        due = self._schedule.due_by(elapsed)
        while self._sent < due:
            number, turn = divmod(self._sent, len(self._members))
            self._latest = max(self._latest, elapsed - self._schedule.due(self._sent))
            self._members[turn].session.send([self._frames[turn][number]])
            self._sent += 1

    def _take(self, member: Member, start: float) -> bool:
        frames = member.session.receive()
        now = member.session.came_at - start
        for frame in frames:
            if frame.type is FrameType.VOICE_FRAME:
                self._hear(member, frame.payload[STREAM_HEADER_BYTES:], now)
            elif frame.type in _CALL_FRAMES:
                member.session.confirm(frame.sequence)
            elif frame.type is FrameType.ERROR and (answer := answer_in(frame)) is not None:
                self._refused += 1
                self._why = answer.text
        return bool(frames)

    def _hear(self, member: Member, data: bytes, now: float) -> None:
        sender = int.from_bytes(data[RUN_LEN : RUN_LEN + 4], "big")
        number = int.from_bytes(data[RUN_LEN + 4 : HEAD], "big")
        place = (member.index, sender)
        seen = self._seen.get(place)
        intact = data[:RUN_LEN] == self._run and data[HEAD:] == self._filler
        if not intact or seen is None or number >= len(seen):
            self._damaged += 1
            return
        if seen[number] or number < self._last[place]:
            self._repeated += 1
            return
        seen[number] = 1
        self._last[place] = number
        self._received += 1
        due = self._schedule.due(number * len(self._members) + sender)
        step = step_of(now - due)
        self._latencies[step] = self._latencies.get(step, 0) + 1
