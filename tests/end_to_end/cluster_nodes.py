"""Several real servers on one database, as on several hosts: each with a data directory of its own."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from end_to_end.server_process import ServerProcess, server_process


@contextmanager
def cluster_of(
    home: Path, dsn: str, count: int, *, options: tuple[str, ...] = (), config: str = ""
) -> Iterator[list[ServerProcess]]:
    """``count`` nodes that have started; they share the server's identity and the first one's certificate.

    ``config`` goes on in the section ``[server]``.
    """
    seed = secrets.token_hex(32)
    with ExitStack() as stack:
        nodes: list[ServerProcess] = []
        for index in range(count):
            folder = home / f"node{index}"
            folder.mkdir()
            text = f'[storage]\npostgres_dsn = "{dsn}"\n[crypto]\nfederation_seed = "{seed}"\n'
            text += "[rotation.device]\nmin_interval = 0\n"
            text += "[server]\nauto_approve_devices = true\n"
            if nodes:
                key = nodes[0].ca_file.with_name("key.pem")
                text += f'tls_cert = "{nodes[0].ca_file}"\ntls_key = "{key}"\n'
            text += config
            nodes.append(
                stack.enter_context(_node(folder, text, nodes[0].ca_file if nodes else None, options))
            )
        yield nodes


@contextmanager
def _node(
    folder: Path, config: str, certificate: Path | None, options: tuple[str, ...]
) -> Iterator[ServerProcess]:
    with server_process(folder, config, options=options) as server:
        if certificate is not None:
            # Where clients of this node look for the certificate to trust.
            server.ca_file.parent.mkdir(exist_ok=True)
            server.ca_file.write_bytes(certificate.read_bytes())
        yield server
