"""The program of a client process: ``python -m commucat_cli.bench.worker send|receive``.

Started by the coordinator, which speaks to it over standard input and output.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import BinaryIO, TypeVar

import trio

from commucat_cli.bench.jobs import Ready, ReceiverJob, SenderJob, decode_line, encode_line
from commucat_cli.bench.load_clients import Start, first_of, receive, send
from commucat_cli.errors import CliError
from commucat_cli.terminal import report_error

Job = TypeVar("Job")


def main(role: str, source: BinaryIO, target: BinaryIO) -> int:
    """Do one job; returns the exit status."""
    status = 0
    try:
        if role == "send":
            trio.run(_work, send, SenderJob, source, target)
        else:
            trio.run(_work, receive, ReceiverJob, source, target)
    except* CliError as group:
        report_error(str(first_of(group)))
        status = 1
    except* KeyboardInterrupt:
        status = 130
    return status


async def _work(
    act: Callable[[Job, Start], Awaitable[object]], kind: type[Job], source: BinaryIO, target: BinaryIO
) -> None:
    def say(value: object) -> None:
        target.write(encode_line(value))
        target.flush()

    async def start(ready: Ready) -> None:
        say(ready)
        # In a thread: the session that is open already stays alive meanwhile.
        if not await trio.to_thread.run_sync(source.readline, abandon_on_cancel=True):
            raise CliError("the benchmark was given up")

    job = decode_line(await trio.to_thread.run_sync(source.readline), kind)
    say(await act(job, start))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer))
