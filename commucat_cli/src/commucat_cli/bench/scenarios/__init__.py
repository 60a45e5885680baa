"""The scenarios of a benchmark, each a :class:`~commucat_cli.bench.plan.Plan`."""

from commucat_cli.bench.scenarios.calls import Calls
from commucat_cli.bench.scenarios.churn import Churn
from commucat_cli.bench.scenarios.connect import Connect
from commucat_cli.bench.scenarios.fanout import Fanout
from commucat_cli.bench.scenarios.federation import Federation
from commucat_cli.bench.scenarios.idle import Idle
from commucat_cli.bench.scenarios.latency import Latency
from commucat_cli.bench.scenarios.offline import Offline
from commucat_cli.bench.scenarios.relay import Relay

__all__ = ["Calls", "Churn", "Connect", "Fanout", "Federation", "Idle", "Latency", "Offline", "Relay"]
