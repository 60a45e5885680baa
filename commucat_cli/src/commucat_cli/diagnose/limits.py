"""What the system grants a server: open files, and its port."""

import errno
import os
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_cli.diagnose.listening import lock_owner
from commucat_server.config import BindAddress, ServerConfig
from commucat_server.provision.open_files import missing_files, shortage

FILES = "open-files"
PORT = "port"
_LINE = re.compile(r"^Max open files\s+(\S+)\s+(\S+)", re.MULTILINE)


def check_limits(config: ServerConfig) -> Iterator[Finding]:
    """Whether as many connections as are configured can be open at once."""
    owner = lock_owner(config.data_dir / "server.lock")
    found = None if owner is None else _limits_of(owner)
    if found is None:
        # A server raises its soft limit as far as the hard one lets it.
        whose, allowed = "a server started here", resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    else:
        whose, allowed = f"the running server (pid {owner})", found
    needed = config.server.max_connections
    if missing_files(needed, allowed) > 0:
        yield warning(FILES, f"{whose}: {shortage(needed, allowed)}")
    else:
        told = "any number of" if allowed == resource.RLIM_INFINITY else str(allowed)
        yield ok(FILES, f"{whose} may have {told} open files, enough for {needed} connections")


def check_port(config: ServerConfig) -> Iterator[Finding]:
    """Whether a server could listen where it shall, if none runs on this data directory."""
    bind = config.server.bind
    if bind.port == 0 or lock_owner(config.data_dir / "server.lock") is not None:
        return
    problem = _cannot_listen(bind)
    if problem is None:
        yield ok(PORT, f"{bind}: free to listen on")
    elif problem.errno == errno.EADDRINUSE:
        yield failure(
            PORT, f"{bind}: another program listens there; stop it, or choose another port with --bind"
        )
    elif problem.errno == errno.EACCES:
        yield failure(
            PORT,
            f"{bind}: this user may not listen on a port below 1024; run as the server's user, grant "
            "CAP_NET_BIND_SERVICE, or choose a higher port",
        )
    else:
        yield failure(PORT, f"{bind}: cannot be listened on ({problem.strerror}); check the address")


def _limits_of(pid: int) -> int | None:
    """The soft limit of another process; None if the system does not tell."""
    try:
        match = _LINE.search(Path(f"/proc/{pid}/limits").read_text("ascii"))
    except OSError:
        return None
    if match is None:
        return None
    return resource.RLIM_INFINITY if match[1] == "unlimited" else int(match[1])


def _cannot_listen(bind: BindAddress) -> OSError | None:
    try:
        [family, kind, _, _, address] = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as trial:
            # As the server does: a port that is only waiting for the last packets of an old one is free.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except socket.gaierror as exc:
        return OSError(errno.EADDRNOTAVAIL, exc.strerror or os.strerror(errno.EADDRNOTAVAIL))
    except OSError as exc:
        return exc
    return None
