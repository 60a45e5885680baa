"""Devices of other servers: ``device@domain``, split at the first ``@``."""

from commucat_proto.hello import MAX_DEVICE_ID_LEN

MAX_ADDRESS_LEN = MAX_DEVICE_ID_LEN + 1 + 253
"""Characters: a device id, and the longest domain there is."""


def normalized(device: str, domain: str) -> str:
    """How a device is called by a client of ``domain``: without that domain behind it, with any other."""
    local, at, behind = device.partition("@")
    if not at:
        return device
    return local if behind.lower() == domain.lower() else f"{local}@{behind.lower()}"


def own_name(device_id: str, domain: str, peer: str) -> str:
    """How the device with this id on ``domain`` is called in a conversation with ``peer``: as the other
    side's server calls it."""
    return f"{device_id}@{domain.lower()}" if "@" in peer else device_id


def local_id(device: str) -> str:
    """The id of a device on its own server."""
    return device.partition("@")[0]


def is_address(device: str) -> bool:
    """Whether this may be a device id, or one with a domain."""
    local, at, domain = device.partition("@")
    if not 0 < len(local) <= MAX_DEVICE_ID_LEN:
        return False
    return not at or (0 < len(domain) <= 253 and "@" not in domain)
