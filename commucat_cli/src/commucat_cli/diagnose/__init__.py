"""Checks of a server from outside: reads its files, opens its store, knocks at its door, changes nothing."""

from commucat_cli.diagnose.examination import examine
from commucat_cli.diagnose.finding import Finding, Status

__all__ = ["Finding", "Status", "examine"]
