"""What ``/metrics`` says. Nothing is counted here: plain integers of the server are read when somebody asks.

The names without a unit or ``_total`` are those of the reference server, with its meaning where it had a
sound one. docs/metrics.md has a row for each.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs
import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from commucat_ledger import Ledger
from commucat_server.calls.forwarder import Forwarder
from commucat_server.calls.service import CallService
from commucat_server.federation.figures import PeerFigures
from commucat_server.ops.counted import COUNTED
from commucat_server.ops.counters import Counters
from commucat_server.ops.exposition import write_metrics
from commucat_server.ops.wakefulness import Wakefulness
from commucat_server.ops.watch import CollectorPauses, LoopLag
from commucat_server.routing.registry import Registry
from commucat_storage import QueueState, Storage, StorageError, Timings
from commucat_storage.bus import BusCounters

QUEUE_AGE: Final = 10.0
"""Seconds for which a look at the queue serves: it reads a row for each device."""
QUEUE_PATIENCE: Final = 2.0
"""Seconds in which the store has to answer; else the last look is told again."""

_OF_PEERS: Final[tuple[tuple[str, str, Callable[[PeerFigures], float]], ...]] = (
    ("up", "Whether the server took what it was sent last.", lambda peer: peer.state == "online"),
    ("waiting", "Messages in the outbox of the domain.", lambda peer: peer.waiting),
    ("waiting_bytes", "Their bytes.", lambda peer: peer.waiting_bytes),
    (
        "lag_seconds",
        "Age of the oldest of them, reckoned by its expiry.",
        lambda peer: peer.oldest_seconds or 0,
    ),
    ("failures", "Attempts in a row that failed.", lambda peer: peer.failures),
    ("dead_letters", "Messages that the server has refused for good.", lambda peer: peer.dead_letters),
)
_MODES: Final = ("binary", "sse", "long-poll", "websocket")


@attrs.define(kw_only=True)
class Sources:
    """The parts of a server that have something to tell."""

    version: str
    node: str
    worker: int
    counters: Counters
    registry: Registry
    calls: CallService
    forwarder: Forwarder
    storage: Storage
    ledger: Ledger
    loop_lag: LoopLag
    pauses: CollectorPauses
    wakefulness: Wakefulness
    bus: BusCounters | None
    ready: Callable[[], bool]
    """Whether the server takes new work."""
    clock: Callable[[], float]
    relay_ttl: int
    """Lifetime of a message in seconds."""
    ring_timeout: int
    federation: Callable[[], Awaitable[Sequence[PeerFigures]]] | None = None
    """None: federation is switched off."""
    queue: QueueState | None = None
    peers: Sequence[PeerFigures] = ()


class Metrics:
    """The metrics of one server; a registry of its own, nothing of the process's default one."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._looked = -QUEUE_AGE
        self._registry = CollectorRegistry()
        self._registry.register(_ServerCollector(sources))
        ProcessCollector(registry=self._registry)
        # With several workers each answers for itself: without a label their series would be one.
        self._labels = {"worker": str(sources.worker)} if sources.worker else {}

    async def exposition(self) -> bytes:
        """The text of ``/metrics``."""
        await self._look_at_queue()
        return write_metrics(map(self._labelled, self._registry.collect()))

    async def _look_at_queue(self) -> None:
        now = trio.current_time()
        if now - self._looked < QUEUE_AGE:
            return
        self._looked = now
        sources = self._sources
        with trio.move_on_after(QUEUE_PATIENCE):
            try:
                # Frames of a call live for seconds, so their end says nothing about the age of a message.
                after = int(sources.clock()) + sources.ring_timeout
                sources.queue = await sources.storage.queue_state(after)
                if sources.federation is not None:
                    sources.peers = await sources.federation()
            except StorageError:
                return  # /readyz tells; the last look is told again.

    def _labelled(self, metric: Metric) -> Metric:
        if self._labels:
            metric.samples = [
                each._replace(labels={**self._labels, **each.labels}) for each in metric.samples
            ]
        return metric


class _ServerCollector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        counters = sources.counters
        yield _one("commucat_connections_active", "gauge", "Sessions that are open.", len(sources.registry))
        for name, kind, text, read in COUNTED:
            yield _one(name, kind, text, read(counters))
        yield from self._calls()
        yield from self._tables(counters)
        yield from self._queue()
        yield from self._peers()
        yield from self._store()
        yield from self._ledger()
        yield from self._times()
        if sources.bus is not None:
            yield from self._redis(sources.bus)
        yield _one("commucat_ready", "gauge", "Whether new work is taken.", int(sources.ready()))
        info = Metric("commucat_info", "Which process this is.", "gauge")
        labels = {"version": sources.version, "node": sources.node}
        info.add_sample("commucat_info", labels, 1)
        yield info

    def _tables(self, counters: Counters) -> Iterator[Metric]:
        modes = {mode: counters.sessions.get(mode, 0) for mode in _MODES}
        yield _by("commucat_sessions", "gauge", "Sessions by the form of their frames.", "mode", modes)
        yield _by(
            "commucat_refusals_total",
            "counter",
            "Frames, and receivers of one, refused, by the reason told.",
            "reason",
            counters.refusals,
        )
        yield _by(
            "commucat_handshake_failures_total",
            "counter",
            "Handshakes that failed, by what their peer was told.",
            "reason",
            counters.handshake_refusals,
        )
        yield _by(
            "commucat_ice_refusals_total",
            "counter",
            "STUN requests that failed, by reason.",
            "reason",
            counters.ice_failures,
        )
        yield _by(
            "commucat_p2p_endings_total",
            "counter",
            "Ends of connections to /p2p.",
            "reason",
            counters.p2p_ends,
        )
        answers = {str(status): number for status, number in counters.http_answers.items()}
        yield _by("commucat_http_answers_total", "counter", "Answers to requests.", "status", answers)

    def _calls(self) -> Iterator[Metric]:
        calls, counters = self._sources.calls, self._sources.counters
        yield _one("commucat_calls_active", "gauge", "Calls that ring or go on.", len(calls.board))
        yield _one("commucat_calls_ringing", "gauge", "Calls that ring.", calls.board.ringing)
        yield _one("commucat_calls_unstored", "gauge", "Calls to be stored as they are.", calls.rows.waiting)
        yield _by(
            "commucat_calls_ended_total", "counter", "Calls that ended.", "reason", counters.calls_ended
        )
        forwarder = self._sources.forwarder
        yield _one("commucat_call_streams", "gauge", "Streams of media in calls.", forwarder.streams)
        yield _one(
            "commucat_call_receivers_paused", "gauge", "Devices that have paused video.", forwarder.paused
        )
        yield _one(
            "commucat_call_media_shed_ratio",
            "gauge",
            "Part of the media that is left out while the server has too much to do.",
            forwarder.shed,
        )
        yield _by(
            "commucat_call_media_dropped_total",
            "counter",
            "Media packets that were dropped.",
            "cause",
            counters.media_dropped,
        )
        yield _one(
            "commucat_call_transcoders", "gauge", "Transcoders at work.", forwarder.transcoding.running
        )
        yield _by(
            "commucat_call_media_transcoded_total",
            "counter",
            "Media packets that were transcoded.",
            "codec",
            counters.media_transcoded,
        )
        yield _times(
            "commucat_call_duration_seconds",
            "How long calls took, from the offer to the end.",
            [({}, counters.call_seconds)],
        )

    def _queue(self) -> Iterator[Metric]:
        sources, queue = self._sources, self._sources.queue
        if queue is None:
            return
        yield _one("commucat_queue_messages", "gauge", "Messages that wait in inboxes.", queue.messages)
        yield _one("commucat_queue_bytes", "gauge", "Their bytes.", queue.size)
        yield _one("commucat_queue_inboxes", "gauge", "Inboxes that are not empty.", queue.inboxes)
        age = 0.0
        if queue.earliest_expiry is not None:
            age = max(0.0, sources.clock() - (queue.earliest_expiry - sources.relay_ttl))
        yield _one(
            "commucat_queue_oldest_age_seconds",
            "gauge",
            "Age of the oldest message, reckoned by its expiry.",
            age,
        )

    def _peers(self) -> Iterator[Metric]:
        peers = {peer.domain: peer for peer in self._sources.peers}
        if not peers:
            return
        for name, text, read in _OF_PEERS:
            values = {domain: float(read(peer)) for domain, peer in peers.items()}
            yield _by(f"commucat_federation_peer_{name}", "gauge", text, "domain", values)

    def _store(self) -> Iterator[Metric]:
        storage = self._sources.storage
        yield _one("commucat_journal_rows", "gauge", "Rows on their way to the disk.", storage.waiting_rows)
        yield _times(
            "commucat_journal_commit_seconds", "Commits of the journal.", [({}, storage.commit_times)]
        )
        pool = storage.pool_state
        yield _one(
            "commucat_store_connections_limit", "gauge", "Connections beside the journal's.", pool.limit
        )
        yield _one("commucat_store_connections_used", "gauge", "Of these, in use.", pool.used)
        yield _one("commucat_store_connections_waiting", "gauge", "Work that waits for one.", pool.waiting)

    def _ledger(self) -> Iterator[Metric]:
        ledger = self._sources.ledger
        yield _one("commucat_ledger_records_total", "counter", "Records written.", ledger.written)
        yield _one("commucat_ledger_lost_total", "counter", "Records lost.", ledger.lost)
        yield _one(
            "commucat_ledger_failures_total", "counter", "Attempts to write that failed.", ledger.failures
        )
        yield _one("commucat_ledger_waiting", "gauge", "Records that wait to be written.", ledger.waiting)
        degraded = int(ledger.trouble is not None)
        yield _one("commucat_ledger_degraded", "gauge", "Whether the ledger cannot be written.", degraded)

    def _times(self) -> Iterator[Metric]:
        sources = self._sources
        yield _times(
            "commucat_event_loop_lag_seconds",
            "How much later than due the event loop woke a task.",
            [({}, sources.loop_lag.timings)],
        )
        yield _one(
            "commucat_processors_awake",
            "gauge",
            "Whether the machine's processors are kept from sleeping.",
            int(sources.wakefulness.awake),
        )
        yield _times(
            "commucat_gc_pause_seconds",
            "How long the garbage collector stopped everybody.",
            [({"generation": str(number)}, each) for number, each in enumerate(sources.pauses.timings)],
        )
        yield _times(
            "commucat_transport_rtt_ms",
            "Milliseconds of round trips that clients report of calls.",
            [({}, sources.counters.transport_rtt)],
        )
        yield _times(
            "commucat_transport_loss_ratio",
            "Parts of packets that clients report as lost in calls.",
            [({}, sources.counters.transport_loss)],
        )

    def _redis(self, bus: BusCounters) -> Iterator[Metric]:
        yield _one("commucat_redis_errors_total", "counter", "Errors of Redis.", bus.errors)
        yield _one(
            "commucat_redis_connections_total", "counter", "Connections made to Redis.", bus.connections
        )
        yield _one("commucat_redis_unanswered_total", "counter", "Questions without answer.", bus.unanswered)
        yield _one("commucat_redis_hints_sent_total", "counter", "Hints sent.", bus.hints_sent)
        yield _one("commucat_redis_hints_received_total", "counter", "Hints received.", bus.hints_received)
        yield _one("commucat_redis_hints_dropped_total", "counter", "Hints dropped.", bus.hints_dropped)


def _one(name: str, kind: str, text: str, value: float) -> Metric:
    metric = Metric(name, text, kind)
    metric.add_sample(name, {}, value)
    return metric


def _by(name: str, kind: str, text: str, label: str, table: Mapping[str, float]) -> Metric:
    metric = Metric(name, text, kind)
    for key, value in sorted(table.items()):
        metric.add_sample(name, {label: key}, value)
    return metric


def _times(name: str, text: str, series: list[tuple[dict[str, str], Timings]]) -> Metric:
    metric = Metric(name, text, "histogram")
    for labels, timings in series:
        cumulative = timings.cumulative()
        for bound, number in cumulative:
            shown = "+Inf" if bound == float("inf") else str(bound)
            metric.add_sample(f"{name}_bucket", {**labels, "le": shown}, number)
        metric.add_sample(f"{name}_count", labels, cumulative[-1][1])
        metric.add_sample(f"{name}_sum", labels, timings.total)
    return metric
