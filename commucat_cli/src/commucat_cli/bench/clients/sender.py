"""The device that sends: as fast as its window permits, or by a schedule."""

import time
from collections.abc import Callable

from commucat_cli.bench.clients.devices import (
    CHANNEL,
    Watch,
    find_server,
    join,
    new_device,
    sender_of,
    undisturbed,
)
from commucat_cli.bench.jobs import Ready, SenderJob, SenderReport, SendTask
from commucat_cli.bench.load_session import LoadLostError, LoadSession, answer_in
from commucat_cli.bench.payload import make_payloads
from commucat_cli.bench.schedule import Schedule
from commucat_cli.errors import CliError
from commucat_proto import SEND_ONLY, Frame, FrameType

LEAD = 0.1
"""Seconds from the start of a schedule to its first message, so that the first is not late already."""


class Sender:
    """One device with one session, for all tasks of a benchmark."""

    def __init__(self, job: SenderJob) -> None:
        """Connect and prepare the channel.

        Raises:
            CliError: the load cannot begin.
        """
        self._stall = job.server.stall
        target = find_server(job.server)
        self._session = LoadSession.open(target, new_device(target, sender_of(job.crew), SEND_ONLY))
        if job.as_group:
            self._create_group(job.devices)
        else:
            join(self._session, job.devices, self._stall)

    def _create_group(self, devices: list[str]) -> None:
        answer = self._session.request(FrameType.GROUP_CREATE, CHANNEL, {"members": devices}, self._stall)
        if answer.error is not None or answer.refused:
            told = answer.text if answer.error is not None else answer.refused[0].text
            raise CliError(f"the server refuses the group: {told}")

    def ready(self) -> Ready:
        return Ready()

    def prepare(self, task: SendTask) -> Callable[[], SenderReport]:
        """Make all frames; the result sends them."""
        sending = _Sending(self._session, task, self._stall)
        return sending.run

    def close(self) -> None:
        self._session.close()


class _Sending:
    """One task."""

    def __init__(self, session: LoadSession, task: SendTask, stall: float) -> None:
        self._session = session
        self._task = task
        self._stall = stall
        self._count = task.load.messages
        self._frames: list[bytes] = []
        self._last = 0
        for payload in make_payloads(task.load):
            # Encoded beforehand, so that making them is not measured.
            self._last, encoded = session.prepare(FrameType.MSG, CHANNEL, payload)
            self._frames.append(encoded)
        self._sent = 0
        self._answered = 0
        self._waiting = bytearray(b"\1") * self._count
        self._refused = 0
        self._answers = [0.0] * (self._count if task.rate else 0)
        self._lateness: list[float] = []
        self._boundaries = [self._count * (part + 1) // task.segments for part in range(task.segments)]
        self._segment_ends: list[float] = []

    def run(self) -> SenderReport:
        with undisturbed():
            watch = Watch(self._stall)
            try:
                if self._task.rate:
                    self._send_by_schedule(watch)
                else:
                    self._send_by_window(watch)
            except LoadLostError as exc:
                watch.problem = f"the sender lost its session: {exc}"
        return SenderReport(
            effort=watch.effort(),
            acknowledged=self._answered - self._refused,
            refused=self._refused,
            segment_ends=self._segment_ends,
            answers=self._answers,
            lateness=self._lateness,
        )

    def _send_by_window(self, watch: Watch) -> None:
        window = self._task.window
        while self._answered < self._count:
            end = min(self._answered + window, self._count)
            if self._sent < end:
                self._session.send(self._frames[self._sent : end])
                self._sent = end
            if not self._take(self._session.wait(watch.patience), watch):
                return

    def _send_by_schedule(self, watch: Watch) -> None:
        schedule = Schedule(self._task.rate, self._count)
        start = watch.started = time.monotonic() + LEAD
        self._make_next_ready()
        while self._answered < self._count:
            now = time.monotonic()
            due = schedule.due_by(now - start)
            if self._sent < due:
                self._session.send_ready()
                if self._sent + 1 < due:
                    self._session.send(self._frames[self._sent + 1 : due])
                self._lateness += [now - start - schedule.due(number) for number in range(self._sent, due)]
                self._sent = due
                self._make_next_ready()
            patience = watch.patience
            if self._sent < self._count:
                # Nothing sent yet, nothing overdue.
                patience = schedule.rest(start + schedule.due(self._sent) - time.monotonic())
            if not self._take(self._session.wait(patience), watch):
                return

    def _make_next_ready(self) -> None:
        """Encrypt the next message before it is due, so that this is not measured."""
        if self._sent < self._count:
            self._session.make_ready(self._frames[self._sent : self._sent + 1])

    def _take(self, frames: list[Frame], watch: Watch) -> bool:
        """Count answers; False when none came for too long."""
        if not frames:
            if watch.patience <= 0:
                watch.problem = f"the server acknowledged nothing for {self._stall:g} s"
                return False
            return True
        watch.progress()
        now = self._session.came_at
        for frame in frames:
            answer = answer_in(frame)
            if answer is None:
                continue
            number = answer.sequence - self._last + self._count - 1
            if not (0 <= number < self._count and self._waiting[number]):
                continue  # an answer that came twice stands for no other
            self._waiting[number] = 0
            self._answered += 1
            self._refused += answer.error is not None or bool(answer.refused)
            if self._answers:
                self._answers[number] = now
        while self._boundaries and self._answered >= self._boundaries[0]:
            self._segment_ends.append(now)
            del self._boundaries[0]
        return True
