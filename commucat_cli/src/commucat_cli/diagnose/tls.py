"""The TLS certificate, tried out: a handshake in memory, as a client of the server would do it."""

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_cli.errors import TrustError
from commucat_cli.transport import Trust, client_context
from commucat_server.config import ServerConfig
from commucat_server.listener.errors import ListenerError
from commucat_server.listener.tls import tls_context

SOON = 30 * 86_400
NAME = "tls"
_NOT_FOR_THIS_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def certificate_file(config: ServerConfig) -> Path:
    """The certificate that the server presents, configured or its own."""
    return config.server.tls_cert or config.data_dir / "tls" / "cert.pem"


def check_tls(config: ServerConfig) -> Iterator[Finding]:
    """Certificate and key are readable, belong together, are valid now and name the domain."""
    certificate = certificate_file(config)
    key = config.server.tls_key or config.data_dir / "tls" / "key.pem"
    try:
        server = tls_context(certificate, key)
        client = client_context(Trust(ca_file=certificate))
    except (ListenerError, TrustError) as exc:
        yield failure(NAME, str(exc))
        return
    try:
        try:
            details = handshake_in_memory(server, client, config.server.domain)
        except ssl.SSLCertVerificationError as exc:
            if exc.verify_code not in _NOT_FOR_THIS_NAME:
                raise
            yield warning(NAME, f"{certificate}: does not name the domain {config.server.domain}")
            client.check_hostname = False
            details = handshake_in_memory(server, client, config.server.domain)
    except ssl.SSLCertVerificationError as exc:
        yield failure(NAME, f"{certificate}: {exc.verify_message}; get a new one")
        return
    except ssl.SSLError as exc:
        yield failure(NAME, f"{certificate}: cannot be used for TLS 1.3: {exc.reason or exc}")
        return
    yield _expiry(certificate, str(details["notAfter"]))


def _expiry(certificate: Path, not_after: str) -> Finding:
    ends = ssl.cert_time_to_seconds(not_after)
    text = f"{certificate}: matches its key, valid until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
    if ends - time.time() < SOON:
        return warning(NAME, f"{text}; renew it")
    return ok(NAME, text)


def handshake_in_memory(server: ssl.SSLContext, client: ssl.SSLContext, hostname: str) -> dict[str, object]:
    """Run both ends of a TLS handshake; returns the server's certificate as the client decoded it.

    Raises:
        ssl.SSLError: they do not come together.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=hostname)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    # Each turn moves one flight; TLS 1.3 needs three. An endless exchange is an error of ours.
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            details: dict[str, object] = dict(ours.getpeercert() or {})
            return details
    raise AssertionError("the TLS handshake does not end")
