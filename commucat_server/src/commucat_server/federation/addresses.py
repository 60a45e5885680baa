"""Names of devices and users that may be of other domains, and where a peer takes what."""

from typing import Final
from urllib.parse import urlsplit

MAX_DOMAIN: Final = 253
MAX_LOCAL: Final = 128
"""Characters of a device id, or of a handle."""
MAX_ADDRESS: Final = MAX_LOCAL + 1 + MAX_DOMAIN

USER_PREFIX: Final = "user:"
"""Before a handle: a target that means all devices of a user, for what a server itself announces."""

EVENTS_PATH: Final = "/federation/events"
FRIENDS_PATH: Final = "/federation/friend-request"
QUERY_PATH: Final = "/federation/query"
WELL_KNOWN: Final = "/.well-known/commucat-federation"
_PARENT: Final = "/federation"


def local_name(name: str, domain: str) -> str:
    """The same name, without our own domain behind it: ``device@ours`` is a device of this server."""
    local, at, behind = name.partition("@")
    return local if at and behind.lower() == domain.lower() else name


def split_address(address: str) -> tuple[str, str] | None:
    """``name@domain`` as name and domain in lower case; None for anything else."""
    name, at, domain = address.partition("@")
    if not at or not 0 < len(name) <= MAX_LOCAL or not name.isprintable():
        return None
    if not 0 < len(domain) <= MAX_DOMAIN or "@" in domain or not domain.isprintable():
        return None
    return name, domain.lower()


def event_url(endpoint: str, path: str) -> str:
    """Where a peer with this endpoint takes events of a kind (one of the paths above).

    Endpoints are written in many ways: with the path of one kind, with its parent, or with neither.
    """
    endpoint = endpoint.rstrip("/")
    for known in (EVENTS_PATH, FRIENDS_PATH, QUERY_PATH):
        if urlsplit(endpoint).path.endswith(known):
            return endpoint.removesuffix(known) + path
    if urlsplit(endpoint).path.endswith(_PARENT):
        return endpoint.removesuffix(_PARENT) + path
    return endpoint + path


def well_known_url(endpoint: str) -> str:
    """Where a peer with this endpoint describes itself: at the root of its host."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}"
