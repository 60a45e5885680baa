"""The running server, as its clients meet it."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import trio

from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_cli.diagnose.tls import certificate_file
from commucat_cli.errors import CliError
from commucat_cli.transport import ServerAddress, Timeouts, Trust, client_context, open_h2
from commucat_server.config import BindAddress, ServerConfig
from commucat_server.provision import ProvisionError, read_federation_keys

NAME = "server"
_PATIENCE = 5.0
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to connect to, not to listen
_LOCKS = Path("/proc/locks")


def check_server(config: ServerConfig) -> Iterator[Finding]:
    """It listens with the certificate of the file, belongs to this data directory, and is ready."""
    bind = config.server.bind
    owner = lock_owner(config.data_dir / "server.lock")
    running = f"a server runs on this data directory (pid {owner})" if owner else ""
    if bind.port == 0:
        told = f"{running}; " if running else ""
        yield warning(NAME, f"{told}its port is chosen at start; say with --bind HOST:PORT where it listens")
        return
    address = _address(bind)
    try:
        presented = _presented_certificate(address)
    except ssl.SSLError as exc:
        yield failure(NAME, f"{bind}: something listens but speaks no TLS 1.3: {exc.reason or exc}")
        return
    except OSError as exc:
        if running:
            yield failure(
                NAME,
                f"{bind}: {running} but does not answer there ({exc.strerror or exc}); "
                "if it was started with --bind, say so here too",
            )
        else:
            # Before the first start, and in maintenance, that is as it should be.
            yield warning(NAME, f"{bind}: no server is running: {exc.strerror or exc}")
        return
    if presented != _certificate_in(certificate_file(config)):
        yield failure(
            NAME,
            f"{bind}: presents another certificate than {certificate_file(config)}; restart it, "
            "or name the configuration of the server that listens there",
        )
        return
    try:
        yield trio.run(_ask, config, address)
    except CliError as exc:
        yield failure(NAME, f"{bind}: {exc}")


async def _ask(config: ServerConfig, address: ServerAddress) -> Finding:
    """Ask the server who it is and whether it is ready."""
    timeouts = Timeouts(connect=_PATIENCE, tls=_PATIENCE, request=_PATIENCE)
    # The certificate was compared byte for byte; the name in it need not be that of the loopback.
    async with open_h2(address, Trust(insecure=True), timeouts) as client:
        info = await fetch_server_info(client, timeouts)
        with trio.move_on_after(_PATIENCE):
            ready = await client.get("/readyz")
            return _judge(config, address, info.domain, info.device_ca, ready.status)
    return failure(NAME, f"{address.authority}: does not say within {_PATIENCE:g} s whether it is ready")


def _judge(
    config: ServerConfig, address: ServerAddress, domain: str, device_ca: bytes, readiness: int
) -> Finding:
    where = address.authority
    if domain != config.server.domain:
        return failure(NAME, f"{where}: runs with domain {domain}, not {config.server.domain}; restart it")
    try:
        expected = read_federation_keys(config).public
    except ProvisionError:
        expected = None  # told by its own check
    if expected is not None and device_ca != expected:
        return failure(NAME, f"{where}: is not the server of this data directory: it has another key")
    if readiness != 200:
        return failure(NAME, f"{where}: answers but is not ready (status {readiness}); its log says why")
    return ok(NAME, f"{where}: answers with the certificate of the file, and is ready")


def _address(bind: BindAddress) -> ServerAddress:
    return ServerAddress(_ALL_ADDRESSES.get(bind.host, bind.host), bind.port)


def _presented_certificate(address: ServerAddress) -> bytes:
    context = client_context(Trust(insecure=True))
    with (
        socket.create_connection((address.host, address.port), timeout=_PATIENCE) as connection,
        context.wrap_socket(connection, server_hostname=address.host) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def _certificate_in(path: Path) -> bytes:
    """The first certificate of a PEM file in DER form; empty when there is none."""
    try:
        text = path.read_text("ascii")
        end = "-----END CERTIFICATE-----"
        start = text.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)])
    except (OSError, ValueError):
        return b""


def lock_owner(path: Path) -> int | None:
    """The process that holds a ``flock`` on ``path``, None when nobody does or the system does not tell.

    Taking the lock to find out could keep a server that starts at this moment from starting.
    """
    try:
        status = path.stat()
        lines = _LOCKS.read_text("ascii").splitlines()
    except OSError:
        return None
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    # "1: FLOCK  ADVISORY  WRITE 708 08:01:131073 0 EOF" (proc_locks(5))
    for fields in (line.split() for line in lines):
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[3] == "WRITE" and fields[5] == file:
            return int(fields[4])
    return None
