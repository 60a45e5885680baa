"""An interpreter that has imported our commands, and becomes one of them whenever it is asked to.

Run as a program it waits at a socket. Each request is a datagram with four descriptors: a socket of the new
process's own, and its standard input, output and error. What to run comes through the first one as JSON; the
process number goes back through it, and the exit status once the process has ended. Each command runs in a
process of its own, forked from this one, and from there on as if it had been started by its console script.
"""

import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from commucat_cli import main as cli
from commucat_cli.commands.places import PLACES
from commucat_server import main as server
from commucat_server import start

assert start.start  # what the server imports when its options are understood

COMMANDS: dict[str, Callable[[], int | None]] = {"commucat-cli": cli.main, "commucat-server": server.main}
LONGEST_REQUEST = 1 << 20


def main() -> int | None:
    """Serve until the socket, which is standard input, is closed; in a fork: run its command."""
    for place in PLACES.values():
        place.load()
    gc.collect()
    gc.freeze()  # the forks share these objects' pages as long as nobody writes to them
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    with socket.socket(fileno=os.dup(0)) as requests, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is ended:
                    ended.recv(4096)
                    _report(children)
                    continue
                _, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
                if not descriptors:
                    return 0
                own = socket.socket(fileno=descriptors[0])
                request = json.loads(_all_of(own))
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (own, ended, wake, *children.values()):
                        each.close()
                    selector.close()
                    requests.close()
                    return _become(request, descriptors[1:])
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                children[pid] = own
                own.sendall(f"{pid}\n".encode())


def _all_of(own: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        assert len(text) < LONGEST_REQUEST
        text += own.recv(65_536)
    return text


def _report(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as own, suppress(BrokenPipeError):
            own.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(request: dict[str, object], standard: list[int]) -> int | None:
    arguments, environment, folder = request["arguments"], request["environment"], request["folder"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(str(folder))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    return COMMANDS[os.path.basename(arguments[0])]()


if __name__ == "__main__":
    sys.exit(main())
