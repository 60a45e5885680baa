"""Servers of several domains that are each other's peers, as their configurations say it.

Keys and certificates are made before any of them has started, so that each can be told of the others.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs

from commucat_cli.bench.child import ChildError
from commucat_server.config import ConfigError, load_config
from commucat_server.provision import ProvisionError, prepare_data_dir

_LOCAL = "127.0.0.1:0"


@attrs.frozen(kw_only=True)
class Domain:
    """One of the servers, before it is started."""

    name: str
    home: Path
    """Its data directory is ``data`` in there; key and certificate are made already."""
    trusted: Path
    """PEM certificates of all the domains."""
    public_key: str
    """What the other servers know it by, hexadecimal."""

    @property
    def certificate(self) -> Path:
        """Of TLS; PEM."""
        return self.home / "data" / "tls" / "cert.pem"

    def server_lines(self) -> list[str]:
        """Of section ``[server]``."""
        return [f"domain = {json.dumps(self.name)}"]

    def section(self, peers: Sequence[tuple["Domain", str]], *more: str) -> list[str]:
        """Section ``[federation]``: the peers with their addresses, and ``more`` lines."""
        known = [f"{peer.name},{url},{peer.public_key}" for peer, url in peers]
        return [
            "[federation]",
            f"tls_ca = {json.dumps(str(self.trusted))}",
            f"peers = {json.dumps(known)}",
            *more,
        ]


def make_domains(folder: Path, *names: str) -> list[Domain]:
    """Make the data directories of servers on this machine, each in a folder of its name below ``folder``.

    Raises:
        ChildError: they cannot be made.
    """
    trusted = folder / "peers.pem"
    domains = []
    try:
        for name in names:
            home = folder / name
            home.mkdir()
            draft = home / "commucat.toml"
            draft.write_text(f"[server]\ndomain = {json.dumps(name)}\n", "utf-8")
            config = load_config(config_path=draft, data_dir=home / "data", bind=_LOCAL, environ={}, cwd=home)
            with prepare_data_dir(config) as data_dir:
                public_key = data_dir.federation_keys.public.hex()
            domains.append(Domain(name=name, home=home, trusted=trusted, public_key=public_key))
        trusted.write_bytes(b"".join(domain.certificate.read_bytes() for domain in domains))
    except (OSError, ConfigError, ProvisionError) as exc:
        raise ChildError(f"cannot prepare servers in {folder}: {exc}") from exc
    return domains
