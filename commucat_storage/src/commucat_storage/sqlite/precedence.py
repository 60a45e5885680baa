"""The writer's thread goes before the other work of the machine, where the system allows it.

A commit is a few tenths of a millisecond of work in small pieces, and between them the thread waits for the
disk: for the data, then for the flush. Who has the processor when the disk answers keeps it to the end of its
turn, for a millisecond or more, twice in each commit, and all that was sent meanwhile waits with it.
"""

import contextlib
import os
import sys
import threading

PRECEDENCE = 10
"""By how much the thread's nice value is lower than the process's: its turns begin at once, and weigh nine
times as much. It never needs more than a part of a processor, as it waits for the disk in each commit."""
_LOWEST = -20


def take_precedence() -> None:
    """Lower the nice value of the calling thread (setpriority(2)), if it may.

    It may as root, with CAP_SYS_NICE, and within RLIMIT_NICE (setrlimit(2)). Elsewhere than on Linux a nice
    value is a process's, and nothing is done.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, max(nice - PRECEDENCE, _LOWEST))
