"""Media keys in offers and answers: for one device, one call and one channel, and nothing but
MediaKeyError."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair, StaticKeyPair, agreement_public
from commucat_proto.media_keys import (
    MAX_SEALED_LEN,
    MediaKeyError,
    keys_in,
    open_media_key,
    seal_media_key,
)
from commucat_proto.sealing import SealedContent, seal

ALICE, BOB = (DeviceKeyPair.from_private(bytes([n]) * 32) for n in (1, 2))
EPHEMERAL = StaticKeyPair.from_private(bytes([21]) * 32)
KEY = bytes(range(32))


def entry(call_id: str = "c1", channel: int = 7, recipient: str = "bob", sender: str = "alice") -> str:
    return seal_media_key(
        KEY,
        call_id=call_id,
        channel=channel,
        sender=sender,
        sender_keys=ALICE,
        recipient=recipient,
        recipient_public=BOB.public,
        message_id=bytes(16),
        sent_at=1_700_000_000_000,
        content_key=bytes(32),
        ephemeral=EPHEMERAL,
    )


def metadata(sealed: object, device: str = "bob") -> dict[str, object]:
    return {"keys": {device: sealed}, "other": 1}


def with_text(text: str) -> str:
    content = SealedContent(
        message_id=bytes(16), sender="alice", recipients=("bob",), channel=7, sent_at=0, text=text
    )
    sealed = seal(content, ALICE, {"bob": BOB.public}, content_key=bytes(32), ephemerals=[EPHEMERAL])
    return base64.b64encode(sealed).decode()


def opened(value: object) -> bytes:
    return open_media_key(value, call_id="c1", channel=7, device_id="bob", keys=BOB).key


def test_the_device_it_is_for_learns_key_and_sender() -> None:
    found = open_media_key(metadata(entry()), call_id="c1", channel=7, device_id="bob", keys=BOB)
    assert found.key == KEY
    assert found.opened.content.sender == "alice"
    assert found.opened.sender_agreement_public == agreement_public(ALICE.public)
    assert KEY.hex() not in repr(found)
    assert str(KEY) not in repr(found)


def test_the_longest_names_fit() -> None:
    long = "\U0001f408" * 128
    sealed = entry(call_id=long, recipient=long, sender=long)
    assert len(sealed) <= MAX_SEALED_LEN
    found = open_media_key(metadata(sealed, long), call_id=long, channel=7, device_id=long, keys=BOB)
    assert found.key == KEY


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (metadata(entry(call_id="c2")), "another call"),
        (metadata(entry(channel=8)), "another channel"),
        (metadata(entry(), "carol"), "no media key for this device"),
        (metadata(entry(recipient="carol")), "does not open"),
        (metadata("?"), "does not open"),
        (metadata("é"), "does not open"),
        (metadata(""), "does not open"),
        (metadata("A" * (MAX_SEALED_LEN + 4)), "too long"),
        (metadata(7), "no media key for this device"),
        (metadata(with_text("a message")), "no media key"),
        (metadata(with_text("\x1ecommucat-media-key:v1\n{")), "JSON"),
        (metadata(with_text("\x1ecommucat-media-key:v1\n[]")), "no media key"),
        (metadata(with_text('\x1ecommucat-media-key:v1\n{"call_id":"c1","key":"00"}')), "no media key"),
        (metadata(with_text('\x1ecommucat-media-key:v1\n{"key":"' + "00" * 32 + '"}')), "another call"),
        ({"keys": []}, "no media key for this device"),
        ([], "no media key for this device"),
        (None, "no media key for this device"),
    ],
)
def test_what_is_not_for_this_call_is_refused(value: object, told: str) -> None:
    with pytest.raises(MediaKeyError, match=told):
        opened(value)


@given(cut=st.integers(0, 400), byte=st.integers(1, 255))
def test_a_changed_envelope_does_not_open(cut: int, byte: int) -> None:
    raw = bytearray(base64.b64decode(entry()))
    raw[cut % len(raw)] ^= byte
    with pytest.raises(MediaKeyError):
        opened(metadata(base64.b64encode(raw).decode()))


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_any_metadata_gives_a_key_or_the_error(value: object) -> None:
    with pytest.raises(MediaKeyError):
        opened(value)
    with pytest.raises(MediaKeyError):
        opened({"keys": value})


def test_who_does_not_encrypt_has_no_keys() -> None:
    assert keys_in(None) is None
    assert keys_in({"keys": None}) is None
    assert keys_in({"keys": {}}) == {}
    assert keys_in({"keys": {"bob": "x", "carol": 7}}) == {"bob": "x"}


def test_a_media_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal_media_key(
            KEY[1:],
            call_id="c1",
            channel=7,
            sender="alice",
            sender_keys=ALICE,
            recipient="bob",
            recipient_public=BOB.public,
            message_id=bytes(16),
            sent_at=0,
            content_key=bytes(32),
            ephemeral=EPHEMERAL,
        )
