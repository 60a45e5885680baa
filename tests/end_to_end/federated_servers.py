"""Servers of several domains on this machine, each a process of its own, that know each other."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from end_to_end.client_people import CLI
from end_to_end.server_process import DEADLINE, ServerProcess, run

CONFIG = """[server]
domain = "{domain}"
auto_approve_devices = true
[security.rate_limit]
http_burst = 1000000
[federation]
backoff_min = 1
backoff_max = 2
timeout = 2
"""


def configuration(domain: str, more: str = "") -> str:
    return CONFIG.format(domain=domain) + more


def federate(servers: Sequence[ServerProcess], home: Path, *, known: bool = True, trusted: str = "") -> None:
    """Have servers that were started once trust each other's certificates, and start them again.

    With ``known`` each knows all others. ``trusted``: further certificates, PEM.
    """
    bundle = home / "peers.pem"
    for server in servers:
        assert server.stop() == 0
    bundle.write_text("".join(server.ca_file.read_text() for server in servers) + trusted)
    for server in servers:
        server.config += f'tls_ca = "{bundle}"\n'
        server.start()
    if known:
        for server in servers:
            for other in servers:
                if other is not server:
                    add_peer(server, other)


def domain_of(server: ServerProcess) -> str:
    return server.config.partition('domain = "')[2].partition('"')[0]


def operator(server: ServerProcess, *command: str) -> Any:
    """Run a command of the server's operator that must succeed; its JSON output."""
    done = run(
        [
            CLI,
            *command,
            "--config",
            str(server.home / "commucat.toml"),
            "--data-dir",
            str(server.data_dir),
            "--json",
        ],
        server.home,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def add_peer(server: ServerProcess, other: ServerProcess) -> None:
    """Let a running server be written to; its key is asked for."""
    known_as_peer(server, domain_of(other), "--endpoint", other.url)


def known_as_peer(server: ServerProcess, domain: str, *options: str) -> None:
    """Name a domain to a running server, and wait until that takes messages for it.

    It looks for what an operator has changed twice a second; until then the domain is a stranger's.
    """
    assert operator(server, "peers", "add", domain, *options)["status"] == "active"
    end = time.monotonic() + DEADLINE
    while not any(
        "federation outbox opened" in line and domain in line for line in server.log.read_text().splitlines()
    ):
        assert time.monotonic() < end, f"the server has not opened its outbox for {domain}"


@contextmanager
def federated(
    home: Path, *domains: str, more: str = "", trusted: str = "", prefix: tuple[str, ...] = ()
) -> Iterator[list[ServerProcess]]:
    """Running servers of these domains that know each other; the last of them under ``prefix``."""
    with ExitStack() as stack:
        servers = []
        for domain in domains:
            folder = home / domain
            folder.mkdir()
            under = prefix if domain == domains[-1] else ()
            server = ServerProcess(folder, configuration(domain, more), under)
            stack.callback(server.close)
            server.start()
            servers.append(server)
        federate(servers, home, trusted=trusted)
        yield servers
        for server in servers:
            assert "Traceback" not in server.log.read_text()
