"""Servers of several domains that are each other's peers, as their configurations say it.

Keys and certificates are made before any of them has started, so that each can be told of the others.
"""

import datetime
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commucat_cli.bench.child import ChildError
from commucat_crypto import DeviceKeyPair
from commucat_server.provision import self_signed

_LOCAL = "127.0.0.1"


@attrs.frozen(kw_only=True)
class Domain:
    """One of the servers, before it is started."""

    name: str
    certificate: Path
    """PEM; made by :func:`make_domains`, with its key beside it."""
    trusted: Path
    """PEM certificates of all the domains."""
    seed: str = attrs.field(repr=False)
    """Of the server's Ed25519 key, hexadecimal."""

    @property
    def public_key(self) -> str:
        """What the other servers know it by, hexadecimal."""
        return DeviceKeyPair.from_seed(bytes.fromhex(self.seed)).public.hex()

    def server_lines(self) -> list[str]:
        """Of section ``[server]``."""
        return [
            f"domain = {json.dumps(self.name)}",
            f"tls_cert = {json.dumps(str(self.certificate))}",
            f"tls_key = {json.dumps(str(self.certificate.with_name('key.pem')))}",
        ]

    def sections(self, peers: Sequence[tuple["Domain", str]], *more: str) -> list[str]:
        """Sections ``[crypto]`` and ``[federation]``: the key, and the peers with their addresses.

        ``more`` are further lines of ``[federation]``.
        """
        known = [f"{peer.name},{url},{peer.public_key}" for peer, url in peers]
        return [
            "[crypto]",
            f"federation_seed = {json.dumps(self.seed)}",
            "[federation]",
            f"tls_ca = {json.dumps(str(self.trusted))}",
            f"peers = {json.dumps(known)}",
            *more,
        ]


def make_domains(folder: Path, *names: str) -> list[Domain]:
    """Make keys and certificates for servers on this machine, in a folder of each below ``folder``.

    Raises:
        ChildError: they cannot be written.
    """
    trusted = folder / "peers.pem"
    domains = [
        Domain(
            name=name,
            certificate=folder / f"tls-{name}" / "cert.pem",
            trusted=trusted,
            seed=secrets.token_hex(32),
        )
        for name in names
    ]
    now = datetime.datetime.now(datetime.UTC)
    certificates = []
    try:
        for domain in domains:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self_signed(key=key, domain=domain.name, bind_host=_LOCAL, now=now)
            domain.certificate.parent.mkdir(mode=0o700)
            domain.certificate.write_bytes(certificate)
            secret = domain.certificate.with_name("key.pem")
            secret.touch(0o600)
            secret.write_bytes(_pem(key))
            certificates.append(certificate)
        trusted.write_bytes(b"".join(certificates))
    except OSError as exc:
        raise ChildError(f"cannot write certificates to {folder}: {exc.strerror}") from exc
    return domains


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
