"""The program of a client process: ``python -m commucat_cli.bench.worker send|receive|connect|talk``.

Started by the coordinator, which speaks to it over standard input and output (``jobs.py``). It waits for
nothing but that and the server, so it needs no event loop, and ends when the coordinator does.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import attrs

from commucat_cli.bench.clients.connector import Connector
from commucat_cli.bench.clients.party import Party
from commucat_cli.bench.clients.receiver import Receiver
from commucat_cli.bench.clients.sender import Sender
from commucat_cli.bench.jobs import (
    ConnectorJob,
    ConnectTask,
    HoldTask,
    PartyJob,
    Ready,
    ReceiverJob,
    ReceiveTask,
    SenderJob,
    SendTask,
    TalkTask,
    decode_line,
    encode_line,
)
from commucat_cli.bench.schedule import wake_in_time
from commucat_cli.errors import CliError
from commucat_cli.terminal import report_error


@attrs.frozen(kw_only=True)
class Role:
    """What a process can be."""

    client: Callable[[Any], Any]
    job: type[Any]
    tasks: dict[str, type[Any]]
    """By the word before the task."""


ROLES = {
    "send": Role(client=Sender, job=SenderJob, tasks={"send": SendTask}),
    "receive": Role(client=Receiver, job=ReceiverJob, tasks={"receive": ReceiveTask}),
    "connect": Role(client=Connector, job=ConnectorJob, tasks={"connect": ConnectTask, "hold": HoldTask}),
    "talk": Role(client=Party, job=PartyJob, tasks={"talk": TalkTask}),
}


PATIENCE = 10.0
"""Seconds in which a process whose coordinator has gone may end in order."""


def _end_with(source: BinaryIO) -> None:
    """Leave when nobody is left at the other end, in the middle of a task, too."""
    poller = select.poll()
    poller.register(source, 0)  # the end is told to everybody
    poller.poll()
    time.sleep(PATIENCE)
    os._exit(1)


def main(role: str, source: BinaryIO, target: BinaryIO) -> int:
    """Do all tasks; returns the exit status."""
    wake_in_time()
    threading.Thread(target=_end_with, args=(source,), daemon=True).start()
    try:
        _work(ROLES[role], source, target)
    except CliError as exc:
        report_error(str(exc))
        return 1
    except BrokenPipeError:
        return 1  # the coordinator is gone, and nobody is left to tell
    except KeyboardInterrupt:
        return 130
    return 0


def _work(role: Role, source: BinaryIO, target: BinaryIO) -> None:
    def say(value: object) -> None:
        target.write(encode_line(value))
        target.flush()

    client = role.client(decode_line(source.readline(), role.job))
    say(client.ready())
    while line := source.readline():
        word, _, task = line.partition(b" ")
        act = client.prepare(decode_line(task, role.tasks[word.decode()]))
        say(Ready())
        if not source.readline():
            break
        say(act())
    client.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer))
