"""Sockets are open files, and a process may have so many only."""

import resource

from commucat_cli.bench.child import ChildError
from commucat_cli.bench.plan import SPARE_FILES


def allow(sessions: int) -> None:
    """Let this process's children have so many sessions, by raising the soft limit as far as needed.

    Raises:
        ChildError: the hard limit is lower; only the administrator can raise that.
    """
    needed = sessions + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ChildError(
            f"{sessions} sessions need {needed} open files in one process, and the hard limit is {hard}; "
            f"raise it (as root: ulimit -Hn {needed}) or ask for fewer sessions"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
