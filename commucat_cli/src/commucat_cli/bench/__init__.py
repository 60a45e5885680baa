"""Load on a server, and what it costs: real clients in processes of their own, over the durable path.

A benchmark counts and compares every message; it reports times and never judges them.
"""

from commucat_cli.bench.coordinator import measure
from commucat_cli.bench.plan import Plan

__all__ = ["Plan", "measure"]
