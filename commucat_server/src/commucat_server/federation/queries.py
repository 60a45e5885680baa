"""What servers ask each other and answer at once: certificates of devices, and devices of friends.

A question is a signed event like any other; nothing of it is stored. The answer counts because the
connection is to the peer's host; a certificate counts by its signature alone.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from commucat_crypto import CryptoError, DeviceCertificate
from commucat_proto import json_text
from commucat_server.federation import problems
from commucat_server.federation.addresses import QUERY_PATH, event_url, split_address
from commucat_server.federation.client import PeerClient, PeerUnreachableError
from commucat_server.federation.outgoing import EventSigner
from commucat_server.federation.peers import KnownPeer, PeerDirectory
from commucat_server.identity.certificates import CertificateIssuer
from commucat_storage import Device, DeviceSnapshot, DeviceStatus, Storage

CERTIFICATE: Final = "certificate"
FRIEND_DEVICES: Final = "friend_devices"
MAX_DEVICES: Final = 10_000
LATEST: Final = 253_402_300_800
"""The year 10000, which has no text."""


class PeerQuestionError(Exception):
    """There is no answer. ``found`` is False if the peer says that there is no such thing."""

    def __init__(self, text: str, *, known: bool = True, found: bool = True) -> None:
        super().__init__(text)
        self.known = known
        """Whether the domain is one of a peer."""
        self.found = found


class PeerQuestions:
    """Asks other servers, for users of this one."""

    def __init__(self, directory: PeerDirectory, client: PeerClient, signer: EventSigner) -> None:
        self._directory = directory
        self._client = client
        self._signer = signer

    async def certificate(self, address: str) -> tuple[DeviceCertificate, bytes]:
        """The certificate of the device ``device@domain``, and the key of the server that signed it.

        Raises:
            PeerQuestionError: there is none.
        """
        device_id, peer = self._peer(address)
        answer = await self._ask(peer, {"type": CERTIFICATE, "device": device_id})
        for key in peer.keys:
            try:
                certificate = DeviceCertificate.from_wire(answer.get("certificate"))
                certificate.verify(key)
            except CryptoError:
                continue
            if certificate.device_id == device_id:
                return certificate, key
        raise PeerQuestionError(f"{peer.domain} sent no certificate that it signed")

    async def friend_devices(self, friend: str, user: str) -> tuple[DeviceSnapshot, ...]:
        """The devices of ``handle@domain``, as friends see them, for our user ``handle@ours``; nothing
        if they are not friends.

        Raises:
            PeerQuestionError: there is no answer.
        """
        handle, peer = self._peer(friend)
        answer = await self._ask(peer, {"type": FRIEND_DEVICES, "user": handle, "friend": user})
        devices = answer.get("devices")
        if not isinstance(devices, list) or len(devices) > MAX_DEVICES:
            raise PeerQuestionError(f"{peer.domain} sent no list of devices")
        return tuple(_snapshot_of(peer, device) for device in devices)

    def _peer(self, address: str) -> tuple[str, KnownPeer]:
        parts = split_address(address)
        peer = None if parts is None else self._directory.get(parts[1])
        if parts is None or peer is None:
            raise PeerQuestionError("unknown domain", known=False)
        return parts[0], peer

    async def _ask(self, peer: KnownPeer, question: dict[str, json_text.JsonValue]) -> Mapping[str, Any]:
        body = self._signer.signed(secrets.token_hex(16), question, peer.domain)
        try:
            answer = await self._client.post(event_url(peer.endpoint, QUERY_PATH), body)
        except PeerUnreachableError as exc:
            raise PeerQuestionError(f"{peer.domain} cannot be asked: {exc}") from exc
        if answer.status == 404:
            raise PeerQuestionError(f"{peer.domain} does not know it", found=False)
        if answer.status != 200:
            raise PeerQuestionError(f"{peer.domain} does not answer: {answer.text}")
        return answer.document


class PeerAnswers:
    """Answers other servers."""

    def __init__(self, storage: Storage, issuer: CertificateIssuer, domain: str) -> None:
        self._storage = storage
        self._issuer = issuer
        self._domain = domain

    async def answer(self, peer: KnownPeer, question: json_text.JsonValue) -> dict[str, Any]:
        """The JSON object that a peer is given.

        Raises:
            RefusedEventError: it gets none.
            StorageError: the store failed.
        """
        match question:
            case {"type": "certificate", "device": str(device_id)}:
                return await self._certificate(device_id)
            case {"type": "friend_devices", "user": str(handle), "friend": str(friend)}:
                return await self._friend_devices(peer, handle, friend)
            case _:
                raise problems.PAYLOAD.raised()

    async def _certificate(self, device_id: str) -> dict[str, Any]:
        device = None if "\0" in device_id else await self._storage.load_device(device_id)
        certificate = None if device is None else await self._issuer.current(device)
        if certificate is None:
            raise problems.NO_DEVICE.raised()
        return {"certificate": certificate.to_wire()}

    async def _friend_devices(self, peer: KnownPeer, handle: str, friend: str) -> dict[str, Any]:
        address = split_address(friend)
        if address is None or address[1] != peer.domain:
            raise problems.PAYLOAD.raised()
        user = None
        if "\0" not in handle:
            user = await self._storage.load_user_by_handle(handle, self._domain)
        if user is None:
            raise problems.NO_USER.raised()
        # Whoever is not listed learns nothing, not even that.
        listed = {each.user_id for each in await self._storage.friends_of(user.user_id)}
        if "@".join(address) not in listed:
            return {"devices": []}
        devices = [named.device for named in await self._storage.devices_of(user.user_id)]
        return {"devices": [await self._snapshot(device) for device in devices]}

    async def _snapshot(self, device: Device) -> dict[str, Any]:
        """As friends on this server see it, but for the form of the times."""
        events = await self._storage.key_events(device.device_id)
        return {
            "device_id": device.device_id,
            "public_key": device.public_key.hex(),
            "status": device.status.value,
            "created_at": device.created_at,
            "last_rotated_at": events[-1].recorded_at if events else None,
        }


def _snapshot_of(peer: KnownPeer, value: object) -> DeviceSnapshot:
    try:
        match value:
            case {
                "device_id": str(device_id),
                "public_key": str(key),
                "status": str(status),
                "created_at": int(created_at),
                **rest,
            }:
                rotated: Any = rest.get("last_rotated_at")
                return DeviceSnapshot(
                    device_id=f"{device_id}@{peer.domain}",
                    public_key=bytes.fromhex(key),
                    status=DeviceStatus(status),
                    created_at=_moment(created_at),
                    last_rotated_at=None if rotated is None else _moment(rotated),
                )
    except (ValueError, TypeError) as exc:
        raise PeerQuestionError(f"{peer.domain} sent a device that is none") from exc
    raise PeerQuestionError(f"{peer.domain} sent a device that is none")


def _moment(value: int) -> int:
    """Unix seconds that can be shown."""
    if not 0 <= value < LATEST:
        raise ValueError("no time")
    return value
