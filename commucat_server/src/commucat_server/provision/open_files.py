"""Connections are open files, of which a process may have so many only."""

import resource
from typing import Final

OTHER_FILES: Final = 128
"""Beside connections: store, ledger, listening sockets, signals, threads' pipes."""


def missing_files(connections: int, soft: int) -> int:
    """How many open files fewer than ``connections`` need are allowed; 0 or less if there are enough."""
    return 0 if soft == resource.RLIM_INFINITY else connections + OTHER_FILES - soft


def allow_connections(connections: int) -> str | None:
    """Raise the limit of this process and its children as far as ``connections`` need and the system lets.

    A line that warns when that is not far enough, else None.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if missing_files(connections, soft) <= 0:
        return None
    wanted = connections + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return None if allowed >= wanted else shortage(connections, allowed)


def shortage(connections: int, allowed: int) -> str:
    """What to tell an operator whose system allows too few."""
    return (
        f"the system allows {allowed} open files, and server.max_connections = {connections} needs "
        f"{connections + OTHER_FILES}: raise the limit (LimitNOFILE= of systemd, ulimit -Hn) or lower "
        "server.max_connections"
    )
