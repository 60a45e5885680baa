"""The file ``keys.json``: the device's id and private keys, made here and never sent anywhere.

Layout: a JSON object ``{"version": 1, "device_id": text, "device_private": 64 hex digits
(Ed25519), "static_private": 64 hex digits (X25519 for Noise)}``; of a device that has changed its key also
``"device_previous"``, the keys before it (newest first), and while it changes ``"device_next"``.
"""

import json
import secrets
from pathlib import Path
from typing import Any

import attrs

from commucat_cli.errors import ProfileError
from commucat_cli.profile.files import read_private, write_private
from commucat_crypto import CryptoError, DeviceKeyPair, StaticKeyPair

FILE_NAME = "keys.json"
DEVICE_ID_LEN = 16  # random bytes: two devices that choose at the same time never meet
REMEMBERED = 8
"""Keys before the present one that are kept."""
_MAX_FILE_LEN = 4096


@attrs.frozen(kw_only=True)
class ProfileKeys:
    """Who this device is."""

    device_id: str
    device: DeviceKeyPair = attrs.field(repr=False)
    static: StaticKeyPair = attrs.field(repr=False)
    previous: tuple[DeviceKeyPair, ...] = attrs.field(default=(), repr=False)
    """Keys that the device had before, the newest first: messages sealed to them may still come."""
    next: DeviceKeyPair | None = attrs.field(default=None, repr=False)
    """A key that the server may or may not have taken already."""

    @classmethod
    def generate(cls) -> "ProfileKeys":
        """A new device, from the operating system's random source."""
        return cls(
            device_id=secrets.token_hex(DEVICE_ID_LEN),
            device=DeviceKeyPair.generate(),
            static=StaticKeyPair.generate(),
        )

    def changing(self) -> "ProfileKeys":
        """The same with a key to change to; one that was made before stays."""
        return self if self.next is not None else attrs.evolve(self, next=DeviceKeyPair.generate())

    def changed(self) -> "ProfileKeys":
        """The next key in its place."""
        assert self.next is not None, "only a key that was saved as the next one may take the place"
        previous = (self.device, *self.previous)[:REMEMBERED]
        return attrs.evolve(self, device=self.next, previous=previous, next=None)


def save_keys(directory: Path, keys: ProfileKeys) -> None:
    """Write the keys; they are on the disk when this returns."""
    document: dict[str, Any] = {
        "version": 1,
        "device_id": keys.device_id,
        "device_private": keys.device.private.hex(),
        "static_private": keys.static.private.hex(),
    }
    if keys.previous:
        document["device_previous"] = [each.private.hex() for each in keys.previous]
    if keys.next is not None:
        document["device_next"] = keys.next.private.hex()
    write_private(directory / FILE_NAME, json.dumps(document, indent=1).encode() + b"\n")


def load_keys(directory: Path) -> ProfileKeys | None:
    """The keys of a profile, None when there are none yet.

    Raises:
        ProfileError: the file is damaged, or open to others.
    """
    path = directory / FILE_NAME
    try:
        raw = read_private(path, _MAX_FILE_LEN)
    except FileNotFoundError:
        return None
    try:
        document: Any = json.loads(raw)
        if document["version"] != 1 or not isinstance(document["device_id"], str):
            raise ValueError("unknown layout")
        return ProfileKeys(
            device_id=document["device_id"],
            device=_pair(document["device_private"]),
            static=StaticKeyPair.from_private(bytes.fromhex(document["static_private"])),
            previous=tuple(_pair(text) for text in document.get("device_previous", ())),
            next=_pair(document["device_next"]) if "device_next" in document else None,
        )
    except (ValueError, KeyError, TypeError, CryptoError) as exc:
        raise ProfileError(
            f"{path} is damaged; restore it from a backup, or log in with a new profile"
        ) from exc


def _pair(text: str) -> DeviceKeyPair:
    return DeviceKeyPair.from_private(bytes.fromhex(text))
