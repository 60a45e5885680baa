"""Asks another server what it is, for an operator: its address and its key."""

from collections.abc import Mapping
from typing import Any

from commucat_server.config import ServerConfig
from commucat_server.config.errors import InvalidValueError
from commucat_server.config.federation_section import peer_endpoint, peer_key
from commucat_server.federation.addresses import well_known_url
from commucat_server.federation.client import PeerUnreachableError, open_peer_client
from commucat_server.listener import TlsConfigError
from commucat_server.version import server_version


class DiscoveryError(Exception):
    """The server cannot be asked, or does not say what it is. One line."""


async def discover(
    settings: ServerConfig, domain: str, endpoint: str | None, key: str | None
) -> tuple[str, str]:
    """Address and key (64 hexadecimal digits) of the server of ``domain``, by its own word over a TLS that is
    trusted; what is given counts more.

    Raises:
        DiscoveryError: it cannot be asked, does not say, or is another server.
    """
    section = settings.federation
    url = well_known_url(endpoint or f"https://{domain}")
    try:
        async with open_peer_client(
            tls_ca=section.tls_ca, patience=section.timeout, version=server_version()
        ) as client:
            answer = await client.get(url)
    except (TlsConfigError, PeerUnreachableError) as exc:
        raise DiscoveryError(
            f"{url}: {exc}; give --endpoint and --key, or federation.tls_ca for its certificate"
        ) from exc
    if answer.status != 200:
        raise DiscoveryError(
            f"{url}: {answer.text}; it does not describe itself: give --endpoint and --key, the "
            "device_ca_public of its /api/server-info"
        )
    return _described(answer.document, domain, endpoint, key)


def _described(
    document: Mapping[str, Any], domain: str, endpoint: str | None, key: str | None
) -> tuple[str, str]:
    told = document.get("domain")
    if not isinstance(told, str) or told.lower() != domain:
        raise DiscoveryError(f"the server there is not that of {domain}: it calls itself {str(told)[:253]}")
    try:
        found = endpoint or peer_endpoint(str(document.get("endpoint")))
        return found, key or peer_key(str(document.get("public_key"))).hex()
    except InvalidValueError as exc:
        raise DiscoveryError(f"the server of {domain} describes itself wrongly: {exc}") from exc
