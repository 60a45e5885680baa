"""The server side of TLS 1.3."""

import ssl
from pathlib import Path

import attrs

from commucat_server.listener.errors import TlsConfigError


@attrs.define(eq=False)
class TlsIdentity:
    """The certificate and key in use. Another ``context`` holds for connections that come later."""

    context: ssl.SSLContext


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context that accepts TLS 1.3 only; of HTTP/2 and HTTP/1.1 it chooses the former.

    Args:
        cert: PEM file, the server's certificate first, then its issuers.
        key: PEM file with the private key, without a passphrase.

    Raises:
        TlsConfigError: a file cannot be read, is no PEM, or the two do not belong together.
    """
    for path, name in ((cert, "certificate"), (key, "private key")):
        try:
            path.read_bytes()
        except OSError as exc:
            raise TlsConfigError(f"TLS {name} {path}: {exc.strerror or exc}") from exc
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2", "http/1.1"])
    # Sessions live for hours and resumption would save one signature (P-256: 30 microseconds). Without
    # tickets a connection keeps less memory, and there is no ticket key that could be stolen.
    context.num_tickets = 0

    def no_passphrase() -> bytes:
        # Without this OpenSSL would ask on the terminal.
        raise TlsConfigError(f"TLS private key {key}: protected by a passphrase, which is not supported")

    try:
        context.load_cert_chain(cert, key, password=no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise TlsConfigError(
                f"TLS private key {key} does not belong to certificate {cert}; name the two that "
                "were made for each other"
            ) from exc
        reason = exc.reason or "not a PEM certificate with its PEM key"
        raise TlsConfigError(f"TLS certificate {cert} or key {key} is not valid: {reason}") from exc
    return context
