"""The metrics of a server in memory, and what they say."""

from typing import Any

from commucat_server.ops.metrics import Metrics, Sources
from commucat_server.ops.wakefulness import Wakefulness
from commucat_server.ops.watch import CollectorPauses, LoopLag
from server.connect_builders import Server


def metrics_of(server: Server, **changes: Any) -> Metrics:
    """The metrics of these services; ``changes`` replaces sources."""
    context = server.context
    members: dict[str, Any] = {
        "version": "1",
        "node": "n",
        "worker": 0,
        "counters": context.counters,
        "registry": context.registry,
        "calls": context.calls,
        "forwarder": context.forwarder,
        "storage": context.storage,
        "ledger": context.ledger,
        "loop_lag": LoopLag(),
        "pauses": CollectorPauses(),
        "wakefulness": Wakefulness(),
        "bus": None,
        "ready": lambda: True,
        "clock": context.clock,
        "relay_ttl": 86_400,
        "ring_timeout": 60,
    }
    return Metrics(Sources(**(members | changes)))


async def values(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as text."""
    text = (await metrics.exposition()).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def types(metrics: Metrics) -> dict[str, str]:
    """Every family with its type."""
    text = (await metrics.exposition()).decode()
    return dict(line.split(" ")[2:] for line in text.splitlines() if line.startswith("# TYPE "))
