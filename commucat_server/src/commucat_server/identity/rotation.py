"""A device changes its key: proved by the old one, told to everybody who writes to the device."""

from collections.abc import Callable
from typing import Any

import attrs
import structlog
import trio

from commucat_crypto import (
    DeviceCertificate,
    SignatureError,
    is_proper_public_key,
    rotation_statement,
    verify_signature,
)
from commucat_proto import FrameType, json_text
from commucat_server.federation.addresses import USER_PREFIX
from commucat_server.identity.certificates import CertificateIssuer, row_of
from commucat_server.identity.pairing import key_event_of
from commucat_server.identity.tokens import new_id
from commucat_server.ops.audit import Audit
from commucat_server.ops.counters import Counters
from commucat_server.ops.finishing import TIMEOUT
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.registry import KEY_CHANGED, Registry
from commucat_storage import (
    CommitFailedError,
    Device,
    DeviceStatus,
    Outcome,
    Rotation,
    RotationRefusal,
    RotationRefusedError,
    Storage,
    Submission,
)

log = structlog.get_logger("commucat.rotation")

SOURCE = "device-csr"
MAX_TOLD = 5_000
"""Devices that are told of one change, beside the user's own."""


@attrs.frozen(kw_only=True)
class RotationPolicy:
    """Configuration, section ``[rotation.device]``; seconds."""

    enabled: bool = True
    min_interval: int = 86_400
    proof_ttl: int = 600
    notify_channel: int = 0


@attrs.frozen(kw_only=True)
class RotationRequest:
    """What a device asks for; form and times are checked already."""

    public_key: bytes
    signature: bytes = attrs.field(repr=False)
    """By the device's present key over :func:`rotation_statement`."""
    expires_at: int
    nonce: bytes | None
    new_key_signature: bytes | None = attrs.field(default=None, repr=False)
    """By the new key over the same; shows that the device has it."""


@attrs.frozen(kw_only=True)
class Rotated:
    """A change that is stored."""

    rotation: Rotation
    certificate: DeviceCertificate


class RotationProofError(Exception):
    """A signature does not verify; the text says which."""


class Rotations:
    """One per server."""

    def __init__(
        self,
        storage: Storage,
        issuer: CertificateIssuer,
        inbox: Inbox,
        registry: Registry,
        policy: RotationPolicy,
        audit: Audit,
        counters: Counters,
        clock: Callable[[], float],
        *,
        relay_ttl: int,
    ) -> None:
        self._storage = storage
        self._issuer = issuer
        self._inbox = inbox
        self._registry = registry
        self._audit = audit
        self._counters = counters
        self._clock = clock
        self._relay_ttl = relay_ttl
        self.policy = policy

    async def rotate(self, device: Device, request: RotationRequest) -> Rotated:
        """Check the proof, store the change, end what the old key had open, and tell others.

        Raises:
            RotationProofError: the old key, or the new one, has not signed.
            RotationRefusedError: too soon, a key that was used before, or the device has changed meanwhile.
            CommitFailedError: the store failed, or did not answer: then perhaps it is stored.
        """
        now = int(self._clock())
        changed = attrs.evolve(device, public_key=request.public_key)
        if request.public_key == device.public_key:
            raise RotationRefusedError(RotationRefusal.KEY_USED)
        self._check(device, request)
        certificate = self._issuer.issue(
            user_id=device.user_id, device_id=device.device_id, public_key=request.public_key
        )
        rotation = Rotation(
            rotation_id=new_id(),
            device_id=device.device_id,
            old_public_key=device.public_key,
            new_public_key=request.public_key,
            signature=request.signature,
            nonce=request.nonce,
            proof_expires_at=request.expires_at,
            applied_at=now,
            key_event=key_event_of(changed, now),
            certificate=row_of(certificate, "rotate"),
            min_interval=self.policy.min_interval,
        )
        stored = False
        # Whoever hangs up in between must not keep the others from learning of the new key.
        with trio.move_on_after(TIMEOUT, shield=True) as shielded:
            await self._storage.rotate_device_key(rotation)
            stored = True
            self._counters.device_rotations += 1
            self._audit.device_key(
                certificate, "rotate", SOURCE, rotation.key_event.event_id, rotation_id=rotation.rotation_id
            )
            self._registry.end_device(device.device_id, KEY_CHANGED)
            await self._tell(device, rotation, certificate)
        if shielded.cancelled_caught:
            if not stored:
                raise CommitFailedError("the store does not answer")
            log.error("key change not told to others", device=device.device_id)
        return Rotated(rotation=rotation, certificate=certificate)

    def _check(self, device: Device, request: RotationRequest) -> None:
        if not is_proper_public_key(request.public_key):
            raise RotationProofError("public_key is not a proper Ed25519 key")
        statement = rotation_statement(
            device.device_id,
            request.public_key,
            expires_at=request.expires_at,
            nonce=request.nonce or b"",
        )
        try:
            verify_signature(device.public_key, statement, request.signature)
        except SignatureError as exc:
            raise RotationProofError("signature verification failed") from exc
        if request.new_key_signature is not None:
            try:
                verify_signature(request.public_key, statement, request.new_key_signature)
            except SignatureError as exc:
                raise RotationProofError("the new key's signature verification failed") from exc

    async def _tell(self, device: Device, rotation: Rotation, certificate: DeviceCertificate) -> None:
        recipients = await devices_to_tell(self._storage, device)
        if not recipients:
            return
        payload = json_text.dumps(key_update(device, rotation, certificate))
        expires_at = int(self._clock()) + self._relay_ttl
        submission = Submission(
            "", self.policy.notify_channel, FrameType.KEY_UPDATE, payload, expires_at, recipients
        )
        told = trio.Event()

        def answer(result: tuple[Outcome, ...] | CommitFailedError) -> None:
            if isinstance(result, CommitFailedError):
                log.error("key change not told to others", device=device.device_id, reason=str(result))
            told.set()

        await self._inbox.submit([submission], answer)
        self._inbox.hurry()
        await told.wait()


async def devices_to_tell(storage: Storage, device: Device) -> tuple[str, ...]:
    """Who is to learn of a new key of the device: all that have reason to keep the old one.

    The user's other active devices, those that share a group or a route with it, and those of users who
    are friends: each lists the other. Whatever else makes people write to each other is to be added here.
    """
    own = [
        each.device.device_id
        for each in await storage.devices_of(device.user_id)
        if each.device.status is DeviceStatus.ACTIVE
    ]
    peers = await storage.peers_of(device.device_id, MAX_TOLD)
    remote = await _remote_to_tell(storage, device)
    return tuple(dict.fromkeys(each for each in (*own, *peers, *remote) if each != device.device_id))


async def _remote_to_tell(storage: Storage, device: Device) -> list[str]:
    """On other servers: the devices that its routes name, and all devices of friends."""
    routes = await storage.routes_of(device.device_id)
    named = {member for route in routes.values() for member in route.members if "@" in member}
    friends = await storage.friends_of(device.user_id)
    return [*sorted(named), *(f"{USER_PREFIX}{each.user_id}" for each in friends if "@" in each.user_id)]


def key_update(device: Device, rotation: Rotation, certificate: DeviceCertificate) -> dict[str, Any]:
    """The object of the KeyUpdate frame; ``issued_at`` and ``expires_at`` are the certificate's.

    With the proof, so that whoever keeps the old key need not take the server's word for the new one.
    """
    return {
        "type": "device-key-rotated",
        "device_id": device.device_id,
        "user_id": device.user_id,
        "public_key": rotation.new_public_key.hex(),
        "old_public_key": rotation.old_public_key.hex(),
        "rotation_id": rotation.rotation_id,
        "event_id": rotation.key_event.event_id,
        "certificate": certificate.to_wire(),
        "issued_at": certificate.issued_at,
        "expires_at": certificate.expires_at,
        "proof_expires_at": rotation.proof_expires_at,
        "nonce": (rotation.nonce or b"").hex(),
        "signature": rotation.signature.hex(),
    }
