"""The devices that receive: present all the time, or away until a task begins."""

import heapq
import itertools
import math
import secrets
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from commucat_cli.bench.clients.devices import (
    Watch,
    find_server,
    join,
    moved,
    new_device,
    sender_of,
    undisturbed,
)
from commucat_cli.bench.jobs import Ready, ReceiverJob, ReceiverReport, ReceiveTask
from commucat_cli.bench.load_session import LoadSession
from commucat_cli.bench.payload import Arrivals, Tally
from commucat_cli.client.connection import CONFIRM_INTERVAL
from commucat_cli.errors import CliError
from commucat_proto import FrameType

LATECOMERS = 0.2
"""Seconds to wait for messages after the last expected one: duplicates would come now."""


class Receiver:
    """All receivers of one process."""

    def __init__(self, job: ReceiverJob) -> None:
        """Register and, unless they are to be away, stay.

        Raises:
            CliError: the load cannot begin.
        """
        self._job = job
        self._target = find_server(job.server)
        self._devices = [
            new_device(self._target, f"bench-receiver-{secrets.token_hex(8)}") for _ in range(job.devices)
        ]
        self._sessions: list[LoadSession] = []
        for device in self._devices:
            session = LoadSession.open(self._target, device)
            # Strangers may fill a small part of an inbox only.
            join(session, [sender_of(job.crew, job.sender_domain)], job.server.stall)
            if job.away:
                session.close()
            else:
                self._sessions.append(session)

    def ready(self) -> Ready:
        return Ready(devices=[device.device_id for device in self._devices])

    def prepare(self, task: ReceiveTask) -> Callable[[], ReceiverReport]:
        """The result receives the load."""
        if task.server is not None:
            self._target = moved(self._target, task.server)
        receiving = _Receiving(task, self._job.devices, self._job.server.stall)

        return lambda: receiving.run(self._come, leave=self._job.away)

    def _come(self) -> list[LoadSession]:
        if not self._job.away:
            return self._sessions
        return [LoadSession.open(self._target, device) for device in self._devices]

    def close(self) -> None:
        for session in self._sessions:
            session.close()


class Confirming(Protocol):
    """What can tell the server up to which number everything has come."""

    def confirm(self, number: int) -> None: ...


class Confirmations:
    """Confirms what was received as our client does: at once, but each session at most once in
    ``CONFIRM_INTERVAL``.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By session: from when on it may confirm again, and up to which number it will.
        self._free: dict[Confirming, float] = {}
        self._waiting: dict[Confirming, int] = {}
        # Those that wait, by their time; the count keeps sessions from being compared.
        self._order: list[tuple[float, int, Confirming]] = []
        self._count = itertools.count()

    def add(self, session: Confirming, number: int) -> None:
        """Everything up to ``number`` has come."""
        if session in self._waiting:
            self._waiting[session] = number
        elif (free := self._free.get(session, -math.inf)) <= self._clock():
            self._confirm(session, number)
        else:
            self._waiting[session] = number
            heapq.heappush(self._order, (free, next(self._count), session))

    def send_due(self) -> float:
        """Send those that have waited long enough; seconds until the next one has."""
        while self._order:
            if (left := self._order[0][0] - self._clock()) > 0:
                return left
            self._send_next()
        return math.inf

    def send_all(self) -> None:
        """Send what is left."""
        while self._order:
            self._send_next()

    def _send_next(self) -> None:
        _, _, session = heapq.heappop(self._order)
        self._confirm(session, self._waiting.pop(session))

    def _confirm(self, session: Confirming, number: int) -> None:
        session.confirm(number)
        self._free[session] = self._clock() + CONFIRM_INTERVAL


class _Receiving:
    """One task."""

    def __init__(self, task: ReceiveTask, devices: int, stall: float) -> None:
        self._tallies = [Tally(task.load) for _ in range(devices)]
        self._arrivals = Arrivals(task.load.messages if task.arrivals else 0, devices)
        self._wants_arrivals = task.arrivals
        self._incomplete = devices
        self._stall = stall
        self._confirmations = Confirmations()

    def run(self, come: Callable[[], list[LoadSession]], *, leave: bool) -> ReceiverReport:
        sessions: list[LoadSession] = []
        with undisturbed():
            watch = Watch(self._stall)
            try:
                sessions = come()
                self._receive(sessions, watch)
            except CliError as exc:
                watch.problem = f"a receiver lost its session: {exc}"
        if leave:
            for session in sessions:
                session.close()
        tallies = self._tallies
        return ReceiverReport(
            effort=watch.effort(),
            received=sum(tally.received for tally in tallies),
            duplicates=sum(tally.duplicates for tally in tallies),
            out_of_order=sum(tally.out_of_order for tally in tallies),
            damaged=sum(tally.damaged for tally in tallies),
            arrivals=list(self._arrivals.times),
        )

    def _receive(self, sessions: list[LoadSession], watch: Watch) -> None:
        with selectors.DefaultSelector() as selector:
            for session, tally in zip(sessions, self._tallies, strict=True):
                selector.register(session, selectors.EVENT_READ, tally)
                # What came with the handshake makes no descriptor readable.
                self._take(session, tally, watch)
            while self._incomplete and watch.patience > 0:
                self._take_ready(selector, watch.patience, watch)
            if self._incomplete:
                watch.problem = f"nothing arrived for {self._stall:g} s"
                return
            end = time.monotonic() + LATECOMERS
            while (left := end - time.monotonic()) > 0:
                self._take_ready(selector, left, watch)
            self._confirmations.send_all()

    def _take_ready(self, selector: selectors.BaseSelector, seconds: float, watch: Watch) -> None:
        for key, _ in selector.select(min(seconds, self._confirmations.send_due())):
            assert isinstance(key.fileobj, LoadSession)
            self._take(key.fileobj, key.data, watch)

    def _take(self, session: LoadSession, tally: Tally, watch: Watch) -> None:
        frames = session.receive()
        if not frames:
            return
        now = session.came_at
        before = tally.received
        was_complete = tally.complete
        for frame in frames:
            if frame.type is FrameType.MSG:
                number = tally.take(frame.payload)
                if self._wants_arrivals and number is not None:
                    self._arrivals.note(number, now)
        if tally.received > before:
            watch.progress()
        self._incomplete -= tally.complete and not was_complete
        self._confirmations.add(session, frames[-1].sequence)
