"""Pairing: one device of a user offers a code, another one claims it."""

import re
import secrets
from collections.abc import Callable

import attrs

from commucat_crypto import (
    DeviceCertificate,
    DeviceKeyPair,
    SignatureError,
    claim_statement,
    is_proper_public_key,
    verify_signature,
)
from commucat_server.identity.certificates import CertificateIssuer, row_of
from commucat_server.identity.pairing_codes import PairingCodeHashes, new_pairing_code
from commucat_server.identity.tokens import new_event_id, new_id
from commucat_server.ops.audit import Audit
from commucat_server.ops.finishing import finished
from commucat_storage import (
    AlreadyExistsError,
    ClaimedPairing,
    Device,
    DeviceStatus,
    KeyEvent,
    PairingClaim,
    PairingOffer,
    PairingRefusal,
    PairingRefusedError,
    Storage,
    User,
)

MIN_TTL = 60
MAX_TTL = 3600
OPEN_CODES = 10
"""Codes that one device may have open at once."""
APPROVAL_TTL = 7 * 86_400
"""Seconds that a claimed device waits for approval."""
SOURCE = "pair-claim"
DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ATTEMPTS = 16  # to find a code that nobody has: a second one is needed once in billions


@attrs.frozen(kw_only=True)
class PairingPolicy:
    """Configuration: ``[limits]`` and ``[pairing]``."""

    domain: str
    ttl: int = 300
    """Seconds; at most this long, and :data:`MIN_TTL` at least."""
    devices_per_user: int = 100
    require_approval: bool = False


@attrs.frozen(kw_only=True)
class Offered:
    """A code to be shown."""

    code: str = attrs.field(repr=False)
    issued_at: int
    expires_at: int


@attrs.frozen(kw_only=True)
class ClaimRequest:
    """What a new device says, checked for form only."""

    code: str = attrs.field(repr=False)
    name: str | None = None
    device_id: str | None = None
    public_key: bytes | None = None
    """The device's own Ed25519 key; None: the server shall make one."""
    proof: bytes | None = attrs.field(default=None, repr=False)
    remote_addr: str = ""


@attrs.frozen(kw_only=True)
class Claimed:
    """A device that came in by a code, or waits."""

    device: Device
    user: User
    issuer_device_id: str
    certificate: DeviceCertificate | None
    """None while the device waits for approval."""
    repeated: bool = False
    """The same device had claimed the same code before: nothing was made this time."""
    seed: bytes | None = attrs.field(default=None, repr=False)
    """Of a key that the server made: the private key is BLAKE3 of it."""

    @property
    def private_key(self) -> bytes | None:
        """Of a key that the server made, 32 bytes."""
        return None if self.seed is None else DeviceKeyPair.from_seed(self.seed).private


class ClaimProofError(Exception):
    """The new device does not prove that it has its key."""


class Pairing:
    """One per server."""

    def __init__(
        self,
        storage: Storage,
        issuer: CertificateIssuer,
        hashes: PairingCodeHashes,
        policy: PairingPolicy,
        audit: Audit,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._issuer = issuer
        self._hashes = hashes
        self._audit = audit
        self._clock = clock
        self.policy = policy

    async def offer(self, device: Device, ttl: int | None) -> Offered:
        """A fresh code of an active device, good for ``ttl`` seconds or as long as the policy allows.

        Raises:
            PairingRefusedError: the device is not active, or has too many codes open.
        """
        lifetime = self.policy.ttl if ttl is None else min(ttl, self.policy.ttl)
        now = int(self._clock())
        offered = PairingOffer(
            code_hash="",
            user_id=device.user_id,
            issuer_device_id=device.device_id,
            issued_at=now,
            expires_at=now + min(MAX_TTL, max(MIN_TTL, lifetime)),
        )
        for attempt in range(_ATTEMPTS):
            code = new_pairing_code()
            try:
                await self._storage.offer_pairing(
                    attrs.evolve(offered, code_hash=self._hashes.of(code)), most=OPEN_CODES
                )
            except AlreadyExistsError:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            self._audit.pairing_created(device, self._hashes.of(code), offered.expires_at)
            return Offered(code=code, issued_at=offered.issued_at, expires_at=offered.expires_at)
        raise AssertionError("unreachable")

    async def claim(self, request: ClaimRequest) -> Claimed:
        """Let a device in that knows a code, or let it wait for approval.

        Raises:
            ClaimProofError: it does not have the key that it names.
            PairingRefusedError: the code is not good, or the user has too many devices.
        """
        seed = None
        public_key = request.public_key
        if public_key is None:
            seed = secrets.token_bytes(32)
            public_key = DeviceKeyPair.from_seed(seed).public
        else:
            self._check_proof(request, public_key)
        code_hash = self._hashes.of(request.code)
        try:
            return attrs.evolve(await self._claim(request, code_hash, public_key), seed=seed)
        except PairingRefusedError as exc:
            self._audit.pairing_refused(code_hash, exc.refusal, request.remote_addr)
            raise

    def _check_proof(self, request: ClaimRequest, public_key: bytes) -> None:
        if not is_proper_public_key(public_key):
            raise ClaimProofError("public_key is not a proper Ed25519 key")
        statement = claim_statement(
            domain=self.policy.domain,
            code=request.code,
            device_id=request.device_id or "",
            public_key=public_key,
        )
        try:
            verify_signature(public_key, statement, request.proof or b"")
        except SignatureError as exc:
            raise ClaimProofError("proof does not belong to public_key and pair_code") from exc

    async def _claim(self, request: ClaimRequest, code_hash: str, public_key: bytes) -> Claimed:
        offer = await self._storage.load_pairing(code_hash)
        if offer is None:
            raise PairingRefusedError(PairingRefusal.UNKNOWN)
        now = int(self._clock())
        device = Device(
            device_id=request.device_id or new_id(),
            user_id=offer.user_id,
            public_key=public_key,
            status=DeviceStatus.ACTIVE,
            created_at=now,
        )
        certificate, event = None, None
        if not self.policy.require_approval:
            certificate = self._issuer.issue(
                user_id=device.user_id, device_id=device.device_id, public_key=public_key
            )
            event = key_event_of(device, now)
        claim = PairingClaim(
            code_hash=code_hash,
            device=device,
            name=request.name,
            certificate=None if certificate is None else row_of(certificate, SOURCE),
            key_event=event,
            waits_until=now + APPROVAL_TTL if self.policy.require_approval else None,
            device_limit=self.policy.devices_per_user,
            now=now,
        )

        async def store() -> ClaimedPairing:
            done = await self._storage.claim_pairing(claim)
            if not done.repeated:
                if certificate is not None and event is not None:
                    self._audit.device_key(certificate, "certificate", SOURCE, event.event_id)
                how = "wait" if certificate is None else "claim"
                self._audit.device_paired(done.device, done.issuer_device_id, how)
            return done

        done = await finished(store)
        if done.repeated:
            certificate = None if done.waits else await self._issuer.current(done.device)
        return Claimed(
            device=done.device,
            user=done.user,
            issuer_device_id=done.issuer_device_id,
            certificate=certificate,
            repeated=done.repeated,
        )


def key_event_of(device: Device, now: int) -> KeyEvent:
    """The event that tells of the device's key."""
    return KeyEvent(
        event_id=new_event_id(),
        device_id=device.device_id,
        public_key=device.public_key,
        recorded_at=now,
    )
