"""What a server signs about its Noise keys. The vector was computed from the layout in docs/protocol.md."""

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair, InvalidKeyError, NoiseKeyStatement, SignatureError

AUTHORITY = DeviceKeyPair.from_seed(bytes(range(32, 64)))
STATEMENT = NoiseKeyStatement(
    domain="chat.example.org",
    version=3,
    public=bytes([9]) * 32,
    valid_after=1_800_000_000,
    rotates_at=1_800_604_800,
    expires_at=1_803_196_800,
)


def test_the_signed_bytes_are_those_of_the_protocol() -> None:
    domain = b"chat.example.org"
    text = b"commucat:noise-key:v1" + struct.pack(">H", 16) + domain + struct.pack(">Q", 3) + bytes([9]) * 32
    text += struct.pack(">QQQ", 1_800_000_000, 1_800_604_800, 1_803_196_800)
    assert STATEMENT.signed_bytes() == text
    assert len(text) == 21 + 2 + 16 + 8 + 32 + 24
    assert STATEMENT.sign(AUTHORITY).hex() == (
        "da5dfc413d4c48e3d115d066fd3858f67c18c991cf8b21b6facac48303108579"
        "0d761ae166ae941d6db76362aa37c22fc3a345b303169cbc31bb697e97b3f504"
    )


def test_a_signature_is_that_of_the_authority_alone() -> None:
    signature = STATEMENT.sign(AUTHORITY)
    STATEMENT.verify(AUTHORITY.public, signature)
    with pytest.raises(SignatureError):
        STATEMENT.verify(DeviceKeyPair.generate().public, signature)


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "chat.example.orh"},
        {"version": 4},
        {"public": bytes([8]) * 32},
        {"valid_after": 1},
        {"rotates_at": 1},
        {"expires_at": 1_803_196_801},
    ],
)
def test_every_member_is_signed(change: dict[str, object]) -> None:
    signature = STATEMENT.sign(AUTHORITY)
    with pytest.raises(SignatureError):
        attrs.evolve(STATEMENT, **change).verify(AUTHORITY.public, signature)  # type: ignore[arg-type]  # names


@given(bit=st.integers(0, 511))
def test_one_changed_bit_of_the_signature_is_noticed(bit: int) -> None:
    signature = bytearray(STATEMENT.sign(AUTHORITY))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        STATEMENT.verify(AUTHORITY.public, bytes(signature))


@pytest.mark.parametrize(
    "change",
    [{"version": -1}, {"expires_at": 2**64}, {"public": b"short"}, {"domain": "x" * 70_000}],
)
def test_members_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidKeyError):
        attrs.evolve(STATEMENT, **change)  # type: ignore[arg-type]  # names are checked at run time
