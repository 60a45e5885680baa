"""Whose key is whose: certificates of other devices, and the keys pinned at first use."""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from commucat_cli.client.addresses import local_id
from commucat_cli.client.connection import Connection
from commucat_cli.client.fingerprint import fingerprint as fingerprint_of
from commucat_cli.errors import PeerKeyError, RestError, ServerBusyError
from commucat_cli.profile import ProfileState
from commucat_crypto import (
    CryptoError,
    DeviceCertificate,
    SignatureError,
    agreement_public,
    is_proper_public_key,
    rotation_statement,
    verify_signature,
)
from commucat_proto.sealing import Opened

CLOCK_SKEW = 300  # seconds a certificate may come from the future


class PeerDirectory:
    """Keys of other devices as this profile knows them, asked from the server at first use."""

    def __init__(self, state: ProfileState, device_ca: bytes, connection: Connection) -> None:
        self._state = state
        self._device_ca = device_ca
        self._connection = connection

    async def key_for_sending(self, device_id: str) -> bytes:
        """The key to seal to: what the server certifies now, and what was pinned before.

        Raises:
            PeerKeyError: no such device, a wrong certificate, or another key than the pinned one.
            CliError: the server could not be asked.
        """
        try:
            key = await self._certified_key(device_id, time.time())
        except ServerBusyError:
            pinned = self._state.peer_key(device_id)
            if "@" not in device_id or pinned is None:
                raise
            # Its server is away. A message waits for it; a key that has changed meanwhile will be told.
            return pinned
        self._pin(device_id, key)
        return key

    async def accept(self, device_id: str, fingerprint: str) -> tuple[bytes | None, bytes]:
        """Pin the key that the server certifies now in place of the one before; both.

        ``fingerprint`` is what the device's owner reads out: nobody else's word counts.

        Raises:
            PeerKeyError: the server shows another key than the owner, or none.
            CliError: the server could not be asked.
        """
        key = await self._certified_key(device_id, time.time())
        shown = fingerprint_of(device_id, key)
        if "".join(fingerprint.split()) != "".join(shown.split()):
            raise PeerKeyError(
                f"the server shows a key of device {device_id} with another fingerprint ({shown}); if the "
                "device itself shows the one that was given, somebody is between you"
            )
        before = self._state.peer_key(device_id)
        if not self._state.pin_peer(device_id, key, instead_of=before):
            raise PeerKeyError(f"the key of device {device_id} was changed by another command; try again")
        return before, key

    async def check_sender(self, opened: Opened) -> None:
        """The device that claims to have written a message is the one that sealed it.

        Raises:
            PeerKeyError: it is not, or its key is not the pinned one.
            CliError: the server could not be asked.
        """
        sender = opened.content.sender
        pinned = self._state.peer_key(sender)
        if pinned is not None and agreement_public(pinned) == opened.sender_agreement_public:
            return  # proved by the pinned key itself; no need to ask anybody
        # A message may wait for weeks: a certificate that was good when it was written will do.
        written_at = opened.content.sent_at / 1000
        key = await self._certified_key(sender, min(time.time(), written_at))
        if agreement_public(key) != opened.sender_agreement_public:
            raise PeerKeyError(f"it claims to come from device {sender}, which did not seal it")
        self._pin(sender, key)

    def apply_key_update(self, update: Mapping[str, Any]) -> str | None:
        """Follow a rotation announced by the pinned key; returns a line to tell, if there is one.

        Only the old key's signature counts. That the announcement's own lifetime may be over is
        no reason to refuse it: it can have waited in the inbox, and its effect never ends.
        """
        device_id = update.get("device_id")
        if not isinstance(device_id, str) or (pinned := self._state.peer_key(device_id)) is None:
            return None
        try:
            new = _hex(update, "public_key", 32)
            old = _hex(update, "old_public_key", 32)
            if new == pinned:
                return None
            if old != pinned or not is_proper_public_key(new):
                raise ValueError("it does not replace the known key")
            # The announcement of a server also has the certificate's end, which is nothing the key signed.
            expiry = "proof_expires_at" if "proof_expires_at" in update else "expires_at"
            nonce = b"" if update.get("nonce") is None else _hex(update, "nonce")
            statement = rotation_statement(
                local_id(device_id), new, expires_at=_i64(update, expiry), nonce=nonce
            )
            verify_signature(pinned, statement, _hex(update, "signature", 64))
        except (ValueError, SignatureError) as exc:
            return f"a key change announced for device {device_id} is not proved and was ignored: {exc}"
        self._state.pin_peer(device_id, new, instead_of=pinned)
        return f"device {device_id} has a new key, announced by its old one; compare fingerprints again"

    def _pin(self, device_id: str, key: bytes) -> None:
        if not self._state.pin_peer(device_id, key):
            raise PeerKeyError(
                f"device {device_id} has another key than before, and its old key did not announce that; "
                "somebody may be pretending to be it; ask its owner for its fingerprint, and accept it with: "
                f"commucat-cli keys accept {device_id} --fingerprint NUMBERS"
            )

    async def _certified_key(self, device_id: str, at: float) -> bytes:
        try:
            answer = await self._connection.get(f"/api/devices/{quote(device_id, safe='')}/certificate")
        except RestError as exc:
            if exc.status == 404:
                raise PeerKeyError(f"the server knows no device {device_id}") from exc
            raise
        try:
            certificate = DeviceCertificate.from_wire(answer.get("certificate"))
            certificate.verify(self._authority(device_id, answer))
        except CryptoError as exc:
            raise PeerKeyError(f"the certificate of device {device_id} is wrong: {exc}") from exc
        if certificate.device_id != local_id(device_id) or not is_proper_public_key(certificate.public_key):
            raise PeerKeyError(f"the server sent the certificate of another device for {device_id}")
        if not certificate.issued_at - CLOCK_SKEW <= time.time() or certificate.expires_at <= at:
            raise PeerKeyError(f"the certificate of device {device_id} is not valid now; is the clock right?")
        return certificate.public_key

    def _authority(self, device_id: str, answer: Mapping[str, Any]) -> bytes:
        """The key that must have signed the device's certificate: of our server, or of its own."""
        if "@" not in device_id:
            return self._device_ca
        try:
            return _hex(answer, "authority", 32)
        except ValueError as exc:
            raise PeerKeyError(f"the server does not tell who certifies device {device_id}") from exc


def _hex(value: Mapping[str, Any], name: str, length: int | None = None) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is missing")
    raw = bytes.fromhex(text)
    if length is not None and len(raw) != length:
        raise ValueError(f"{name} has the wrong length")
    return raw


def _i64(value: Mapping[str, Any], name: str) -> int:
    number = value.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is no time")
    return number
