"""Device certificates: issuing, wire form, verification."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import (
    CertificateError,
    CertificateIssuerError,
    DeviceCertificate,
    DeviceKeyPair,
    SignatureError,
)

AUTHORITY = DeviceKeyPair.from_seed(b"authority " * 4)
DEVICE = DeviceKeyPair.from_seed(b"device " * 5)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
I64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


def certificate(**changes: Any) -> DeviceCertificate:
    values: dict[str, Any] = {
        "serial": 7,
        "user_id": "user",
        "device_id": "device",
        "public_key": DEVICE.public,
        "issued_at": 1_700_000_000,
        "expires_at": 1_702_592_000,
    }
    return DeviceCertificate.issue(AUTHORITY, **(values | changes))


@given(
    serial=st.integers(min_value=0, max_value=2**64 - 1),
    user_id=UNICODE,
    device_id=UNICODE,
    issued_at=I64,
    expires_at=I64,
)
def test_a_certificate_survives_the_wire(
    serial: int, user_id: str, device_id: str, issued_at: int, expires_at: int
) -> None:
    issued = certificate(
        serial=serial, user_id=user_id, device_id=device_id, issued_at=issued_at, expires_at=expires_at
    )
    text = json.dumps(issued.to_wire(), sort_keys=True)
    received = DeviceCertificate.from_wire(json.loads(text))
    assert received == issued
    received.verify(AUTHORITY.public)


@given(bit=st.integers(min_value=0, max_value=511))
def test_one_flipped_bit_in_the_signature_is_refused(bit: int) -> None:
    issued = certificate()
    signature = bytearray(issued.signature)
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        attrs.evolve(issued, signature=bytes(signature)).verify(AUTHORITY.public)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 8},
        {"user_id": "User"},
        {"device_id": "device2"},
        {"public_key": AUTHORITY.public},
        {"issued_at": 0},
        {"expires_at": 2**40},
    ],
    ids=str,
)
def test_a_changed_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SignatureError):
        attrs.evolve(certificate(), **change).verify(AUTHORITY.public)


def test_text_moved_between_user_and_device_is_refused() -> None:
    issued = certificate(user_id="ab", device_id="c")
    with pytest.raises(SignatureError):
        attrs.evolve(issued, user_id="a", device_id="bc").verify(AUTHORITY.public)


def test_a_foreign_issuer_is_refused_before_the_signature_is_looked_at() -> None:
    issued = certificate()
    with pytest.raises(CertificateIssuerError):
        issued.verify(DEVICE.public)
    with pytest.raises(CertificateIssuerError):
        attrs.evolve(issued, issuer=DEVICE.public).verify(AUTHORITY.public)


def test_verification_reads_no_clock() -> None:
    certificate(issued_at=100, expires_at=50).verify(AUTHORITY.public)


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(DeviceCertificate)])
@pytest.mark.parametrize("value", [None, [], {}, 1.0, True, "zz", -(2**63) - 1, 2**64, b"x", "\ud800"])
def test_a_member_of_wrong_type_or_range_is_refused(name: str, value: object) -> None:
    wire: dict[str, Any] = certificate().to_wire()
    if name in ("user_id", "device_id") and value == "zz":
        value = 5
    wire[name] = value
    with pytest.raises(CertificateError):
        DeviceCertificate.from_wire(wire)


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(DeviceCertificate)])
def test_a_missing_member_is_refused(name: str) -> None:
    wire = certificate().to_wire()
    del wire[name]
    with pytest.raises(CertificateError, match=name):
        DeviceCertificate.from_wire(wire)


@pytest.mark.parametrize("name", ["public_key", "issuer", "signature"])
@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-2], lambda t: t + "00", lambda t: "  " + t[2:], lambda t: "g" + t[1:]]
)
def test_hexadecimal_of_wrong_length_or_with_blanks_is_refused(name: str, spoil: Any) -> None:
    wire: dict[str, Any] = certificate().to_wire()
    wire[name] = spoil(wire[name])
    with pytest.raises(CertificateError, match=name):
        DeviceCertificate.from_wire(wire)


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(CertificateError):
        DeviceCertificate.from_wire(value)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": -1},
        {"serial": 2**64},
        {"public_key": bytes(31)},
        {"issued_at": 2**63},
        {"user_id": "\udfff"},
    ],
    ids=str,
)
def test_nothing_that_cannot_travel_is_issued(change: dict[str, Any]) -> None:
    with pytest.raises(CertificateError):
        certificate(**change)
