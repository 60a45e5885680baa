"""E: everything is sent while the receivers are away; then they come and fetch it."""

from typing import ClassVar

import attrs

from commucat_cli.bench.crew import ClientProcess, Crew, cpu_since, crew, new_load
from commucat_cli.bench.jobs import ReceiverReport, ReceiveTask, SenderReport, SendTask
from commucat_cli.bench.plan import Plan, check_load, room_for
from commucat_cli.bench.result import Figure, Run
from commucat_cli.bench.scenarios.outcome import clients_of, faults_of, problems_of, rate, share
from commucat_cli.bench.scenarios.relay import MAX_RECEIVERS, payload_size, positive
from commucat_cli.bench.server_process import ServerUnderLoad

SEGMENTS = 10
"""Equal parts of the load, at most, whose rates show whether a fuller inbox is slower."""


@attrs.frozen(kw_only=True)
class _Stored:
    """A load that was sent and fetched."""

    sender: SenderReport
    receiver: ReceiverReport
    enqueue_cpu: float | None
    drain_cpu: float | None
    restart_seconds: float | None


@attrs.frozen(kw_only=True)
class Offline(Plan):
    """First everything is sent, then everything is fetched."""

    name: ClassVar[str] = "offline"

    messages: int = attrs.field(default=20_000, validator=positive)
    size: int = attrs.field(default=256, validator=payload_size)
    window: int = attrs.field(default=500, validator=positive)
    receivers: int = attrs.field(
        default=1, validator=[attrs.validators.ge(1), attrs.validators.le(MAX_RECEIVERS)]
    )
    warmup: int = attrs.field(default=2000, validator=attrs.validators.ge(0))
    """Messages that are sent and fetched before; counted, but not timed."""
    kill: bool = False
    """SIGKILL for the server when everything is acknowledged and nothing fetched."""

    def __attrs_post_init__(self) -> None:
        check_load(max(self.messages, self.warmup), self.size)

    @property
    def open_sessions(self) -> int:
        return self.receivers + 1

    def limits(self) -> dict[str, int]:
        return Plan.limits(self) | room_for(self.messages + self.warmup, self.size)

    async def run(self, server: ServerUnderLoad) -> Run:
        async with crew(server, devices=self.receivers, stall=self.stall, away=True) as people:
            warm = None
            if self.warmup:
                warm = await self._store(server, people, self.warmup, kill=False)
            stored = await self._store(server, people, self.messages, kill=self.kill)
        sender, receiver = stored.sender, stored.receiver
        faults = faults_of(self.messages, self.receivers, sender, [receiver])
        if warm is not None:
            faults += faults_of(self.warmup, self.receivers, warm.sender, [warm.receiver])
        return Run(
            figures=self._figures(stored) | {"server_rss_kib": server.rss_kib()},
            faults=faults,
            acknowledged=sender.acknowledged,
            refused=sender.refused,
            clients=clients_of(sender, [receiver]),
            problems=problems_of(sender.effort, receiver.effort),
        )

    def _segments(self, messages: int) -> int:
        # At least two windows each: the answers of one read then never fill a whole one, which would
        # have taken no time at all.
        return max(min(SEGMENTS, messages // (2 * self.window)), 1)

    async def _store(self, server: ServerUnderLoad, people: Crew, messages: int, *, kill: bool) -> _Stored:
        load = new_load(messages, self.size)
        [receiver] = people.receivers
        segments = self._segments(messages)
        await people.sender.assign(SendTask(load=load, window=self.window, segments=segments))
        before = server.cpu_seconds()
        sent = await people.sender.go(SenderReport)
        enqueue_cpu = cpu_since(before, server)
        restart_seconds = await server.kill_and_restart() if kill else None
        fetched, drain_cpu = await _fetch(server, receiver, ReceiveTask(load=load, server=server.url))
        return _Stored(
            sender=sent,
            receiver=fetched,
            enqueue_cpu=enqueue_cpu,
            drain_cpu=drain_cpu,
            restart_seconds=restart_seconds,
        )

    def _figures(self, stored: _Stored) -> dict[str, Figure]:
        sent, fetched = stored.sender.effort, stored.receiver.effort
        enqueue, drain = sent.ended - sent.started, fetched.ended - fetched.started
        parts = self._segments(self.messages)
        segments = segment_rates(self.messages, sent.started, stored.sender.segment_ends, parts)
        whole = len(segments) == parts > 1 and segments[0] > 0
        return {
            "seconds": round(enqueue + drain, 4),
            "enqueue_per_s": rate(self.messages, enqueue),
            # The receiver's time begins with its connecting.
            "drain_per_s": rate(self.messages * self.receivers, drain),
            "enqueue_segments_per_s": list(segments),
            "enqueue_flatness": round(segments[-1] / segments[0], 3) if whole else None,
            "enqueue_cpu_us_per_msg": share(stored.enqueue_cpu, self.messages),
            "drain_cpu_us_per_msg": share(stored.drain_cpu, self.messages * self.receivers),
            "restart_seconds": None if stored.restart_seconds is None else round(stored.restart_seconds, 3),
        }


async def _fetch(
    server: ServerUnderLoad, receiver: ClientProcess, task: ReceiveTask
) -> tuple[ReceiverReport, float | None]:
    await receiver.assign(task)
    before = server.cpu_seconds()
    report = await receiver.go(ReceiverReport)
    return report, cpu_since(before, server)


def segment_rates(messages: int, started: float, ends: list[float], parts: int) -> list[float]:
    """Messages a second in each of the ``parts`` equal parts of a load, as far as it came."""
    starts = [started, *ends[:-1]]
    sizes = [messages * (part + 1) // parts - messages * part // parts for part in range(len(ends))]
    return [rate(length, end - start) for length, start, end in zip(sizes, starts, ends, strict=False)]
