"""The promise put to the test: real clients and a real server that is killed, stopped and starved.

An acknowledged message is never lost. A run draws a plan from a seed, lets processes act it
out, keeps the whole history, and judges that history afterwards.
"""

from commucat_cli.chaos.coordinator import run_chaos
from commucat_cli.chaos.faults import FaultKind, Verdict
from commucat_cli.chaos.plan import Plan, make_plan
from commucat_cli.chaos.result import Result
from commucat_cli.chaos.services import ServiceFault, ServiceFaults, service_faults
from commucat_cli.chaos.verdict import judge
from commucat_cli.chaos.victim import Setup

__all__ = [
    "FaultKind",
    "Plan",
    "Result",
    "ServiceFault",
    "ServiceFaults",
    "Setup",
    "Verdict",
    "judge",
    "make_plan",
    "run_chaos",
    "service_faults",
]
