"""The media keys of one call: this device's own, those of the others, and who may be believed."""

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress

from commucat_cli.client.peers import PeerDirectory
from commucat_cli.errors import CliError
from commucat_cli.profile import ProfileKeys
from commucat_crypto import (
    MEDIA_HEADER_LEN,
    MEDIA_KEY_LEN,
    MediaDecryptionError,
    MediaDecryptor,
    MediaEncryptor,
    StaticKeyPair,
)
from commucat_proto.media_keys import MediaKeyError, keys_in, open_media_key, seal_media_key
from commucat_proto.sealing import CONTENT_KEY_LEN, MESSAGE_ID_LEN, SealingError


class UnprovedError(CliError):
    """The frame holds a media key that does not prove who sent it."""


class PartyKeys:
    """Made for one call. Packets are told apart by the key that opens them, not by what the server says."""

    def __init__(self, call_id: str, channel: int, keys: ProfileKeys) -> None:
        self._call_id = call_id
        self._channel = channel
        self._keys = keys
        self._own = secrets.token_bytes(MEDIA_KEY_LEN)
        self._encryptor = MediaEncryptor(self._own)
        self._decryptors: dict[str, MediaDecryptor] = {}
        self._senders: dict[int, str] = {}
        self._known: dict[str, bytes] = {}

    async def sealed_for(self, directory: PeerDirectory, devices: Iterable[str]) -> dict[str, str]:
        """``metadata.keys``: this device's key for each of them.

        Raises:
            CliError: one of them is unknown, or has another key than before.
        """
        sealed: dict[str, str] = {}
        for device in sorted(devices):
            public = await directory.key_for_sending(device)
            try:
                sealed[device] = seal_media_key(
                    self._own,
                    call_id=self._call_id,
                    channel=self._channel,
                    sender=self._keys.device_id,
                    sender_keys=self._keys.device,
                    recipient=device,
                    recipient_public=public,
                    message_id=secrets.token_bytes(MESSAGE_ID_LEN),
                    sent_at=time.time_ns() // 1_000_000,
                    content_key=secrets.token_bytes(CONTENT_KEY_LEN),
                    ephemeral=StaticKeyPair.generate(),
                )
            except SealingError as exc:
                raise CliError(f"no key of this call can be sealed for device {device}: {exc}") from exc
        return sealed

    async def learn(self, directory: PeerDirectory, metadata: object) -> str | None:
        """Take the key in an offer or answer; returns the device that sealed it, None if there are no keys.

        Raises:
            UnprovedError: there are keys, and none that this device can open and believe.
            CliError: the server could not be asked whose key it is.
        """
        if keys_in(metadata) is None:
            return None
        try:
            found = open_media_key(
                metadata,
                call_id=self._call_id,
                channel=self._channel,
                device_id=self._keys.device_id,
                keys=self._keys.device,
            )
        except MediaKeyError as exc:
            raise UnprovedError(str(exc)) from exc
        await directory.check_sender(found.opened)
        sender = found.opened.content.sender
        self.accept_key(sender, found.key)
        return sender

    @property
    def own_key(self) -> bytes:
        """What opens the packets of this device."""
        return self._own

    def accept_key(self, device: str, key: bytes) -> None:
        """Packets that ``key`` opens are of ``device``, which was proved."""
        # A frame that comes twice brings the same key; with another decryptor, packets could be played again.
        if self._known.get(device) != key:
            self._known[device] = key
            self._decryptors[device] = MediaDecryptor(key)

    def forget(self, device: str) -> None:
        """Nothing of it is to be heard any more."""
        self._known.pop(device, None)
        self._decryptors.pop(device, None)
        self._senders = {stream: sender for stream, sender in self._senders.items() if sender != device}

    def encrypt(self, header: bytes, data: bytes) -> bytes:
        """The data of a packet of this device."""
        return self._encryptor.encrypt(header, data)

    def decrypt(self, payload: bytes, stream: int) -> tuple[str, bytes]:
        """Who sent an encrypted packet of ``stream``, and its data.

        Raises:
            MediaReplayError: it has come before.
            MediaDecryptionError: nobody in the call has sent it.
        """
        header, data = payload[:MEDIA_HEADER_LEN], payload[MEDIA_HEADER_LEN:]
        sender = self._senders.get(stream)
        if sender is not None:
            return sender, self._decryptors[sender].decrypt(header, data)
        for device, decryptor in self._decryptors.items():
            with suppress(MediaDecryptionError):
                plain = decryptor.decrypt(header, data)
                self._senders[stream] = device
                return device, plain
        raise MediaDecryptionError("a media packet is of nobody in the call")
