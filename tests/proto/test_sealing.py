"""Sealed envelopes: round trip, every rule of the layout, and nothing but SealingError."""

import itertools

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair, StaticKeyPair, agreement_public
from commucat_proto.sealing import (
    CHUNK_LEN,
    MAX_RECIPIENTS,
    SealedContent,
    SealingError,
    open_envelope,
    seal,
)

ALICE, BOB, CAROL = (DeviceKeyPair.from_private(bytes([n]) * 32) for n in (1, 2, 3))
KEYS = {"alice": ALICE, "bob": BOB, "carol": CAROL}
EPHEMERALS = [StaticKeyPair.from_private(bytes([n]) * 32) for n in (21, 22, 23)]


def content_for(*recipients: str, text: str = "hello", **changes: object) -> SealedContent:
    content = SealedContent(
        message_id=bytes(range(16)),
        sender="alice",
        recipients=recipients,
        channel=7,
        sent_at=1_700_000_000_123,
        text=text,
    )
    return attrs.evolve(content, **changes)  # type: ignore[arg-type]  # values are wrong on purpose in places


def sealed(content: SealedContent, content_key: bytes = bytes(32)) -> bytes:
    recipients = {name: KEYS[name].public for name in content.recipients}
    return seal(content, ALICE, recipients, content_key=content_key, ephemerals=EPHEMERALS[: len(recipients)])


def test_every_recipient_reads_the_same_and_learns_the_senders_key() -> None:
    content = content_for("bob", "carol", text="привет, \U0001f408")
    envelope = sealed(content)
    for name in ("bob", "carol"):
        opened = open_envelope(envelope, name, KEYS[name])
        assert opened.content == content
        assert opened.sender_agreement_public == agreement_public(ALICE.public)


def test_layout_is_the_documented_one() -> None:
    envelope = sealed(content_for("bob"))
    assert envelope[:8] == b"\x01" + b"\x01\x00" + b"\x03\x00bob"
    content_len = 16 + 8 + 4 + (2 + 5) + 2 + (2 + 3) + len("hello")
    assert len(envelope) == 8 + 128 + content_len + 16 + 32


def test_same_inputs_give_the_same_bytes_and_another_key_gives_others() -> None:
    content = content_for("bob")
    assert sealed(content) == sealed(content)
    assert sealed(content) != sealed(content, b"\x01" * 32)


@given(
    st.text(max_size=200),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=16, max_size=16),
)
def test_round_trip(text: str, channel: int, sent_at: int, message_id: bytes) -> None:
    content = content_for("bob", text=text, channel=channel, sent_at=sent_at, message_id=message_id)
    assert open_envelope(sealed(content), "bob", BOB).content == content


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_texts_around_the_borders_of_chunks(chunks: int, extra: int) -> None:
    head_len = 16 + 8 + 4 + 7 + 2 + 5
    content = content_for("bob", text="x" * (chunks * CHUNK_LEN - head_len + extra))
    assert open_envelope(sealed(content), "bob", BOB).content == content


def test_an_empty_text_is_a_text() -> None:
    assert open_envelope(sealed(content_for("bob", text="")), "bob", BOB).content.text == ""


def test_one_flipped_bit_anywhere_is_found_by_each_recipient() -> None:
    envelope = sealed(content_for("bob", "carol", text="hi"))
    for position, bit in itertools.product(range(len(envelope)), range(8)):
        changed = bytearray(envelope)
        changed[position] ^= 1 << bit
        for name in ("bob", "carol"):
            with pytest.raises(SealingError):
                open_envelope(bytes(changed), name, KEYS[name])


def test_every_truncation_and_extension_is_found() -> None:
    envelope = sealed(content_for("bob"))
    for length in range(len(envelope)):
        with pytest.raises(SealingError):
            open_envelope(envelope[:length], "bob", BOB)
    for tail in (b"\x00", envelope[-32:], envelope):
        with pytest.raises(SealingError):
            open_envelope(envelope + tail, "bob", BOB)


def test_chunks_cannot_be_dropped_or_moved() -> None:
    envelope = sealed(content_for("bob", text="x" * (3 * CHUNK_LEN)))
    start, step = 8 + 128, CHUNK_LEN + 16
    first, second = envelope[start : start + step], envelope[start + step : start + 2 * step]
    head, rest = envelope[:start], envelope[start + 2 * step :]
    for chunks in (second + first, first, second, first + first + second):
        with pytest.raises(SealingError):
            open_envelope(head + chunks + rest, "bob", BOB)


def test_a_sealed_key_does_not_open_another_envelope() -> None:
    one, two = sealed(content_for("bob", text="one")), sealed(content_for("bob", text="two"))
    with pytest.raises(SealingError):
        open_envelope(one[:8] + two[8:136] + one[136:], "bob", BOB)


def test_a_recipient_cannot_pass_the_senders_key_on_with_other_words() -> None:
    """Bob knows the content key, yet cannot make Carol believe that Alice wrote something else."""
    key = b"\x07" * 32
    original = sealed(content_for("bob", "carol", text="one"), key)
    forged = seal(
        content_for("bob", "carol", text="two"),
        BOB,
        {"bob": BOB.public, "carol": CAROL.public},
        content_key=key,
        ephemerals=EPHEMERALS[:2],
    )
    assert open_envelope(forged, "carol", CAROL).sender_agreement_public == agreement_public(BOB.public)
    slots = slice(15, 15 + 2 * 128)
    with pytest.raises(SealingError):
        open_envelope(forged[: slots.start] + original[slots] + forged[slots.stop :], "carol", CAROL)


def test_other_devices_and_other_keys_cannot_open() -> None:
    envelope = sealed(content_for("bob"))
    with pytest.raises(SealingError, match="other devices"):
        open_envelope(envelope, "carol", CAROL)
    with pytest.raises(SealingError, match="sealed key"):
        open_envelope(envelope, "bob", CAROL)


def test_another_version_is_named() -> None:
    envelope = sealed(content_for("bob"))
    with pytest.raises(SealingError, match="version 2"):
        open_envelope(b"\x02" + envelope[1:], "bob", BOB)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_garbage_is_a_sealing_error(garbage: bytes) -> None:
    for envelope in (garbage, b"\x01\x01\x00\x03\x00bob" + garbage, b"\x01" + garbage):
        with pytest.raises(SealingError):
            open_envelope(envelope, "bob", BOB)


@pytest.mark.parametrize(
    "change",
    [
        {"message_id": b"short"},
        {"channel": -1},
        {"channel": 2**32},
        {"sent_at": -1},
        {"sent_at": 2**63},
        {"sender": ""},
        {"sender": "x" * 513},
        {"sender": "\ud800"},
        {"text": "\ud800"},
        {"recipients": ("carol",)},
        {"recipients": ()},
    ],
)
def test_a_content_out_of_range_is_not_sealed(change: dict[str, object]) -> None:
    with pytest.raises(SealingError):
        seal(
            content_for("bob", **change),  # type: ignore[arg-type]
            ALICE,
            {"bob": BOB.public},
            content_key=bytes(32),
            ephemerals=EPHEMERALS[:1],
        )


def test_keys_of_the_wrong_kind_are_not_used() -> None:
    content = content_for("bob")
    for recipients, key, count in (
        ({"bob": bytes(32)}, bytes(32), 1),  # a point of small order
        ({"bob": BOB.public[:31]}, bytes(32), 1),
        ({"bob": BOB.public}, bytes(31), 1),
        ({"bob": BOB.public}, bytes(32), 2),
    ):
        with pytest.raises(SealingError):
            seal(content, ALICE, recipients, content_key=key, ephemerals=EPHEMERALS[:count])


def test_too_many_recipients_are_refused_before_any_work() -> None:
    names = tuple(sorted(f"d{n}" for n in range(MAX_RECIPIENTS + 1)))
    with pytest.raises(SealingError, match="5000"):
        seal(
            content_for(*names),
            ALICE,
            dict.fromkeys(names, BOB.public),
            content_key=bytes(32),
            ephemerals=EPHEMERALS[:1] * len(names),
        )
