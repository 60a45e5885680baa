"""How the server's TLS certificate is checked."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import attrs

from commucat_cli.errors import TrustError

HTTP2, HTTP1 = "h2", "http/1.1"
"""ALPN names (RFC 7301)."""


@attrs.frozen(kw_only=True)
class Trust:
    """Whom to believe: the system's authorities, those in one file, or anybody."""

    ca_file: Path | None = None
    """PEM file; a server's self-signed certificate in it trusts itself."""
    pem: str | None = attrs.field(default=None, repr=False)
    """Content of ``ca_file`` when it was read already; the file is only named then."""
    insecure: bool = False
    """Check nothing. Noise still proves the pinned server, but others can read REST requests."""

    @property
    def described(self) -> str:
        """Who was asked, for an error text."""
        return str(self.ca_file) if self.ca_file is not None else "the authorities of this system"


def client_context(trust: Trust, protocols: Sequence[str] = (HTTP2,)) -> ssl.SSLContext:
    """TLS 1.3 and one of these protocols (ALPN names, the best one first) or nothing.

    Raises:
        TrustError: the CA file is missing or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(list(protocols))
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    # The operator may hand out the server's own certificate, issued by whomever, as the anchor.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if trust.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        if trust.pem is not None:
            context.load_verify_locations(cadata=trust.pem)
        else:
            context.load_verify_locations(cafile=trust.ca_file)
    except ssl.SSLError as exc:
        raise TrustError(f"{trust.ca_file} holds no certificate in PEM form") from exc
    except OSError as exc:
        raise TrustError(f"cannot read the CA file {trust.ca_file}: {exc.strerror}") from exc
    return context
