"""Device certificates: the server's signed statement that a device key belongs to a user."""

import json
from collections.abc import Callable, Mapping
from typing import Final, Self

import attrs

from .device_keys import KEY_LEN, SIGNATURE_LEN, DeviceKeyPair, verify_signature
from .errors import CertificateError, CertificateIssuerError
from .hex_fields import decode_hex

CERTIFICATE_LIFETIME: Final = 2_592_000
"""Seconds between issue and expiry of a certificate that a server issues: 30 days."""


def _integer(low: int, high: int) -> "Callable[[object, attrs.Attribute[int], int], None]":
    def check(_certificate: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        # bool is an int to Python, but `true` is not a number on the wire.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise CertificateError(f"{attribute.name} must be an integer from {low} to {high}")

    return check


def _length(length: int) -> "Callable[[object, attrs.Attribute[bytes], bytes], None]":
    def check(_certificate: object, attribute: "attrs.Attribute[bytes]", value: bytes) -> None:
        if not isinstance(value, bytes) or len(value) != length:
            raise CertificateError(f"{attribute.name} must be {length} bytes")

    return check


def _text(_certificate: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if not isinstance(value, str):
        raise CertificateError(f"{attribute.name} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise CertificateError(f"{attribute.name} must be valid Unicode") from exc


_u64 = _integer(0, 2**64 - 1)
_i64 = _integer(-(2**63), 2**63 - 1)


@attrs.frozen(kw_only=True)
class DeviceCertificate:
    """A device certificate (see docs/protocol.md).

    Field values are checked on construction, for type and range only: whether the
    times make sense and whose certificate it is are decisions of the server.

    Raises:
        CertificateError: a field has the wrong type, length or range.
    """

    serial: int = attrs.field(validator=_u64)
    """Random, 0 to 2^64 - 1; exceeds what JavaScript numbers hold."""
    user_id: str = attrs.field(validator=_text)
    device_id: str = attrs.field(validator=_text)
    public_key: bytes = attrs.field(validator=_length(KEY_LEN))
    """Ed25519 public key of the device, 32 bytes."""
    issuer: bytes = attrs.field(validator=_length(KEY_LEN))
    """Ed25519 public key of the authority that signed, 32 bytes."""
    issued_at: int = attrs.field(validator=_i64)
    """Unix seconds."""
    expires_at: int = attrs.field(validator=_i64)
    """Unix seconds."""
    signature: bytes = attrs.field(validator=_length(SIGNATURE_LEN))
    """Ed25519 signature of the issuer over :meth:`canonical_bytes`, 64 bytes."""

    @classmethod
    def issue(
        cls,
        authority: DeviceKeyPair,
        *,
        serial: int,
        user_id: str,
        device_id: str,
        public_key: bytes,
        issued_at: int,
        expires_at: int,
    ) -> Self:
        """Sign a certificate with the authority's key; the issuer is its public key.

        Raises:
            CertificateError: a value has the wrong type, length or range.
        """
        unsigned = cls(
            serial=serial,
            user_id=user_id,
            device_id=device_id,
            public_key=public_key,
            issuer=authority.public,
            issued_at=issued_at,
            expires_at=expires_at,
            signature=bytes(SIGNATURE_LEN),
        )
        return attrs.evolve(unsigned, signature=authority.sign(unsigned.canonical_bytes()))

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Read the flat JSON object of the wire form; unknown members are ignored.

        Raises:
            CertificateError: not an object, or a member is missing, of the wrong
                type, or out of range.
        """
        if not isinstance(value, Mapping):
            raise CertificateError("a certificate must be an object")
        missing = [field.name for field in attrs.fields(cls) if field.name not in value]
        if missing:
            raise CertificateError(f"a certificate needs {', '.join(missing)}")
        return cls(
            serial=value["serial"],
            user_id=value["user_id"],
            device_id=value["device_id"],
            public_key=_read_hex(value, "public_key", KEY_LEN),
            issuer=_read_hex(value, "issuer", KEY_LEN),
            issued_at=value["issued_at"],
            expires_at=value["expires_at"],
            signature=_read_hex(value, "signature", SIGNATURE_LEN),
        )

    def to_wire(self) -> dict[str, int | str]:
        """Return the flat object of the wire form, ready for JSON: the signed members, then the signature."""
        return {**self._signed_members(), "signature": self.signature.hex()}

    def canonical_bytes(self) -> bytes:
        """Return the signed bytes: compact JSON of all members but the signature, in declared order.

        Text stays raw UTF-8 and hexadecimal is lower case. They are always built
        from the parsed values, never cut from a received text, whose member order
        and spelling may differ.
        """
        text = json.dumps(self._signed_members(), ensure_ascii=False, separators=(",", ":"))
        return text.encode()

    def verify(self, authority_public: bytes) -> None:
        """Check issuer and signature. The times are not part of this check.

        Raises:
            CertificateIssuerError: another authority issued it (a :class:`CertificateError`).
            SignatureError: the signature does not verify.
        """
        if self.issuer != authority_public:
            raise CertificateIssuerError("the certificate was issued by another authority")
        verify_signature(authority_public, self.canonical_bytes(), self.signature)

    def _signed_members(self) -> dict[str, int | str]:
        return {
            "serial": self.serial,
            "user_id": self.user_id,
            "device_id": self.device_id,
            "public_key": self.public_key.hex(),
            "issuer": self.issuer.hex(),
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
        }


def _read_hex(members: Mapping[str, object], name: str, length: int) -> bytes:
    try:
        return decode_hex(members[name], length)
    except ValueError as exc:
        raise CertificateError(f"{name} {exc}") from exc
