"""Decides whether a device may come in, and as whom.

Two looks. Before message 2 (:meth:`Admissions.look_up`) only what is known already is
compared, and nothing is written: a Hello may be a recording. After the device is proved
(:meth:`Admissions.admit`) one transaction re-checks everything and writes; of two devices
racing for one handle, the loser is told so and is attached to nobody.
"""

import re
from collections.abc import Callable
from typing import Any

import attrs

from commucat_crypto import CryptoError, DeviceCertificate, is_proper_public_key
from commucat_proto import SEND_ONLY, HandshakeDetail, HandshakeRefusedError, Hello
from commucat_server.identity.certificates import CLOCK_SKEW, CertificateIssuer, certificate_of, row_of
from commucat_server.identity.tokens import enrolment_code_hash, new_event_id, new_id, token_hash
from commucat_storage import (
    Admission,
    AdmissionKind,
    AdmissionRefusal,
    AdmissionRefusedError,
    Admitted,
    CertificateRow,
    Device,
    DeviceStatus,
    KeyEvent,
    SessionRow,
    Storage,
    User,
)

HANDLE = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_DISPLAY_NAME_LEN = 128
WAITS = "the device waits for approval"
"""What a device that has claimed a code is told until somebody has agreed."""
# "/" ends a path segment of the REST interface, "@" begins the domain of a device elsewhere.
_SEPARATORS = "/@ "


@attrs.frozen(kw_only=True)
class AdmissionPolicy:
    """Who may bring a new device (configuration, section ``[server]``)."""

    domain: str
    auto_approve_devices: bool
    """A proved Hello may create a new user."""
    join_by_handle: bool
    """A proved Hello may add a device to an existing user."""
    max_auto_devices_per_user: int
    """With ``join_by_handle``: up to this many active devices; 0 means none."""
    session_ttl: int
    """Seconds a bearer session lives after its last use."""


@attrs.frozen(kw_only=True)
class Candidate:
    """What message 2 tells a client. For an unknown device it is tentative and reserves nothing."""

    token: str = attrs.field(repr=False)
    user: User
    device: Device | None
    """The stored row of a known device."""
    certificate: CertificateRow | None = None
    """The newest certificate of a known device that is not revoked."""
    token_hash: str = attrs.field(init=False)
    """What the store, the ledger and the log know of the token."""

    @token_hash.default
    def _hash_token(self) -> str:
        return token_hash(self.token)


@attrs.frozen(kw_only=True)
class Entrance:
    """A device that is in."""

    admitted: Admitted
    certificate: DeviceCertificate
    action: str | None
    """``register`` or ``certificate`` when a certificate was issued, else None."""
    event_id: str | None = None
    """The key event that was stored with it."""


def invalid(reason: str) -> HandshakeRefusedError:
    return HandshakeRefusedError(HandshakeDetail.INVALID, reason)


def user_json(user: User) -> dict[str, Any]:
    """A profile as clients see it."""
    return {
        "id": user.user_id,
        "user_id": user.user_id,
        "handle": user.handle,
        "display_name": user.display_name,
        "avatar_url": user.avatar_url,
    }


class Admissions:
    """The gate between a handshake and an account."""

    def __init__(
        self,
        storage: Storage,
        issuer: CertificateIssuer,
        policy: AdmissionPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._issuer = issuer
        self._policy = policy
        self._clock = clock

    @property
    def joins_by_handle(self) -> bool:
        """Whether a further device of an existing user may come without a code."""
        return self._policy.join_by_handle and self._policy.auto_approve_devices

    # -- before message 2: read only ------------------------------------------------------------

    async def look_up(self, hello: Hello) -> Candidate:
        """Compare a Hello with what is stored.

        Raises:
            HandshakeRefusedError: the Hello contradicts what is stored.
        """
        known = await self._storage.known_device(hello.device_id)
        if known is None:
            return self._stranger(hello)
        device, user = known.device, known.user
        if device.status is not DeviceStatus.ACTIVE:
            raise invalid(f"device is {device.status.value}")
        if device.public_key != hello.device_public:
            raise invalid("another key than the stored one")
        if hello.user.user_id is not None and hello.user.user_id != user.user_id:
            raise invalid("the device belongs to another user id")
        if hello.user.handle is not None and hello.user.handle != user.handle:
            raise invalid("the device belongs to another handle")
        if hello.certificate is not None:
            self._check_certificate(hello.certificate, hello, device.user_id)
        return Candidate(token=new_id(), user=user, device=device, certificate=known.certificate)

    def _stranger(self, hello: Hello) -> Candidate:
        """An unknown device learns nothing about who exists here before it is proved."""
        if not set(hello.device_id).isdisjoint(_SEPARATORS):
            raise invalid("a new device id must not contain / @ or blanks")
        if not is_proper_public_key(hello.device_public):
            raise invalid("device_public is not a proper Ed25519 key")
        handle = hello.user.handle
        if handle is None and hello.user.user_id is None:
            raise invalid("an unknown device must name its user")
        if handle is not None and not HANDLE.fullmatch(handle):
            raise invalid("the handle is not 1 to 64 of A-Z a-z 0-9 . _ -")
        display_name = hello.user.display_name
        if display_name is not None and len(display_name) > MAX_DISPLAY_NAME_LEN:
            raise invalid("display_name is too long")
        user = User(
            user_id=new_id(),
            handle=handle or "",
            domain=self._policy.domain,
            created_at=int(self._clock()),
            display_name=display_name,
            avatar_url=_https(hello.user.avatar_url),
        )
        return Candidate(token=new_id(), user=user, device=None)

    def _check_certificate(self, certificate: DeviceCertificate, hello: Hello, user_id: str) -> None:
        try:
            certificate.verify(self._issuer.public_key)
        except CryptoError as exc:
            raise HandshakeRefusedError(HandshakeDetail.CRYPTO, f"certificate: {exc}") from exc
        now = self._clock()
        if certificate.device_id != hello.device_id or certificate.user_id != user_id:
            raise invalid("the certificate names another device or user")
        if certificate.public_key not in (hello.device_public, hello.client_static):
            raise invalid("the certificate holds another key")
        if not certificate.issued_at < certificate.expires_at:
            raise invalid("the certificate ends before it begins")
        if certificate.expires_at <= now:
            raise invalid("the certificate has expired")
        if certificate.issued_at > now + CLOCK_SKEW:
            raise invalid("the certificate comes from the future")

    # -- after the proof: one transaction -------------------------------------------------------

    async def admit(self, hello: Hello, candidate: Candidate, code: str | None) -> Entrance:
        """Admit a proved device.

        Raises:
            HandshakeRefusedError: it may not come in; nothing was written.
            CommitFailedError: the store failed; nothing was written.
        """
        kind, user = await self._ground(hello, candidate, code)
        now = int(self._clock())
        device = candidate.device or Device(
            device_id=hello.device_id,
            user_id=user.user_id,
            public_key=hello.device_public,
            status=DeviceStatus.ACTIVE,
            created_at=now,
        )
        certificate, action = self._certificate_for(hello, device, candidate)
        event = None
        if action is not None:
            event = KeyEvent(
                event_id=new_event_id(),
                device_id=device.device_id,
                public_key=device.public_key,
                recorded_at=now,
            )
        admission = Admission(
            kind=kind,
            device=device,
            user=user if kind is AdmissionKind.NEW_USER else None,
            code_hash=enrolment_code_hash(code) if code and kind is AdmissionKind.BY_CODE else None,
            device_limit=self._policy.max_auto_devices_per_user if kind is AdmissionKind.BY_HANDLE else None,
            certificate=row_of(certificate, action) if action else None,
            key_event=event,
            session=SessionRow(
                token_hash=candidate.token_hash,
                user_id=user.user_id,
                device_id=device.device_id,
                created_at=now,
                refreshed_at=now,
                ttl_seconds=self._policy.session_ttl,
            ),
            claims=SEND_ONLY not in hello.capabilities,
            display_name=_short(hello.user.display_name),
            avatar_url=_https(hello.user.avatar_url),
            now=now,
        )
        try:
            admitted = await self._storage.admit(admission)
        except AdmissionRefusedError as exc:
            raise _refusal(exc.refusal) from exc
        event_id = None if event is None else event.event_id
        return Entrance(admitted=admitted, certificate=certificate, action=action, event_id=event_id)

    async def _ground(
        self, hello: Hello, candidate: Candidate, code: str | None
    ) -> tuple[AdmissionKind, User]:
        """On what ground this device may come in; a certificate never is one."""
        if candidate.device is not None:
            return AdmissionKind.KNOWN_DEVICE, candidate.user
        user = await self._named_user(hello)
        if user is None:
            if hello.user.handle is None or hello.user.user_id is not None:
                raise invalid("no such user")
            if code is not None:
                raise _refusal(AdmissionRefusal.CODE_INVALID)
            if not self._policy.auto_approve_devices:
                raise HandshakeRefusedError(HandshakeDetail.PAIRING, "new users are not accepted by Hello")
            return AdmissionKind.NEW_USER, candidate.user
        if code is not None:
            return AdmissionKind.BY_CODE, user
        if self.joins_by_handle:
            return AdmissionKind.BY_HANDLE, user
        for pending in await self._storage.pending_devices(user.user_id):
            if pending.device_id == hello.device_id and pending.public_key == hello.device_public:
                raise HandshakeRefusedError(HandshakeDetail.PAIRING, WAITS)
        raise HandshakeRefusedError(HandshakeDetail.PAIRING, "the handle exists; a new device needs pairing")

    async def _named_user(self, hello: Hello) -> User | None:
        if hello.user.user_id is not None:
            return await self._storage.load_user(hello.user.user_id)
        assert hello.user.handle is not None
        return await self._storage.load_user_by_handle(hello.user.handle, self._policy.domain)

    def _certificate_for(
        self, hello: Hello, device: Device, candidate: Candidate
    ) -> tuple[DeviceCertificate, str | None]:
        """The certificate the device leaves with, and the action if it is a new one."""
        known = candidate.device is not None
        shown = hello.certificate if known else None
        if shown is None and candidate.certificate is not None:
            shown = certificate_of(candidate.certificate)
        if (
            shown is not None
            and shown.public_key == device.public_key
            and shown.issuer == self._issuer.public_key
            and not self._issuer.needs_renewal(shown)
        ):
            return shown, None
        fresh = self._issuer.issue(
            user_id=device.user_id, device_id=device.device_id, public_key=device.public_key
        )
        return fresh, "certificate" if known else "register"


def _refusal(refusal: AdmissionRefusal) -> HandshakeRefusedError:
    """What the loser of a race, or a wrong code, is told."""
    match refusal:
        case AdmissionRefusal.HANDLE_TAKEN | AdmissionRefusal.DEVICE_LIMIT:
            return HandshakeRefusedError(HandshakeDetail.PAIRING, refusal.value)
        case AdmissionRefusal.CODE_INVALID:
            return HandshakeRefusedError(HandshakeDetail.PAIRING, "enrolment code is not valid")
        case _:
            return invalid(refusal.value)


def _short(display_name: str | None) -> str | None:
    if display_name is None or len(display_name) > MAX_DISPLAY_NAME_LEN:
        return None
    return display_name


def _https(avatar_url: str | None) -> str | None:
    """Other schemes would make every reader of the profile fetch who knows what."""
    if avatar_url is None or not avatar_url.startswith("https://"):
        return None
    return avatar_url
