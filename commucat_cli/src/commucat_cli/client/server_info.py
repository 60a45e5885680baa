"""What a server says about itself at ``/api/server-info``, before any handshake."""

from collections.abc import Mapping
from typing import Any

import attrs

from commucat_cli.client.rest import answer_within, read_json
from commucat_cli.errors import NotCommuCatError
from commucat_cli.transport import HttpClient, Timeouts
from commucat_proto import SUPPORTED_VERSIONS

PATH = "/api/server-info"


@attrs.frozen(kw_only=True)
class ServerInfo:
    """The keys that a first login pins."""

    domain: str
    noise_public: bytes
    """Newest Noise static key (X25519, 32 bytes)."""
    noise_keys: frozenset[bytes]
    """All keys the server answers to, the newest included."""
    device_ca: bytes
    """Ed25519 key that signs device certificates."""
    patterns: frozenset[str]
    noise_entries: tuple[object, ...] = ()
    """The keys as they were listed, perhaps with signatures."""


async def fetch_server_info(client: HttpClient, timeouts: Timeouts) -> ServerInfo:
    """Ask the server.

    Raises:
        NotCommuCatError: the answer is not that of a CommuCat server, or of one too new for us.
        CliError: the connection was lost.
    """
    with answer_within(timeouts.request, f"the server does not answer {PATH}"):
        response = await client.get(PATH, [("accept", "application/json")])
    value = read_json(response, PATH)
    versions = value.get("supported_versions", list(SUPPORTED_VERSIONS))
    if not isinstance(versions, list) or not any(one in SUPPORTED_VERSIONS for one in versions):
        raise NotCommuCatError(f"the server speaks other protocol versions than this client ({versions})")
    domain = value.get("domain")
    if not isinstance(domain, str):
        raise NotCommuCatError(f"{PATH} names no domain; is this a CommuCat server?")
    newest = _key(value, "noise_public")
    listed = value.get("noise_keys", [])
    entries = listed if isinstance(listed, list) else []
    patterns = value.get("supported_patterns", ["XK"])
    return ServerInfo(
        domain=domain,
        noise_public=newest,
        noise_keys=frozenset([newest, *(_key(one, "public") for one in entries if isinstance(one, dict))]),
        device_ca=_key(value, "device_ca_public"),
        noise_entries=tuple(entries),
        patterns=frozenset(p for p in patterns if isinstance(p, str))
        if isinstance(patterns, list)
        else frozenset(),
    )


def _key(value: Mapping[str, Any], name: str) -> bytes:
    text = value.get(name)
    try:
        key = bytes.fromhex(text) if isinstance(text, str) and len(text) == 64 else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise NotCommuCatError(f"{PATH} has no usable {name}; is this a CommuCat server?")
    return key
