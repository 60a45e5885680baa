"""Signed events and friend requests between servers; the vectors are run by the conformance tests."""

import datetime
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair
from commucat_proto.errors import ProtoError
from commucat_proto.federation import (
    Event,
    EventFormatError,
    EventVerificationError,
    FriendEvent,
    FriendEventError,
    FriendEventKind,
    InstantError,
    SignedEvent,
    Verification,
    format_instant,
    parse_instant,
)

KEYS = DeviceKeyPair.from_seed(bytes(range(0x20, 0x30)) * 2)
OTHER = DeviceKeyPair.from_seed(b"x" * 32)
NANOSECONDS = 1_759_667_696_123_456_789
EVENT = Event(
    event_id="evt-1",
    origin="a.example",
    created_at=NANOSECONDS,
    payload={"target": "dev-1@b.example", "sender": "dev-ж", "sequence": 3, "channel": 7, "payload": "00ff"},
    scope="b.example",
)
REQUEST = FriendEvent(
    kind=FriendEventKind.REQUEST,
    request_id="req-1",
    sender="alice@a.example",
    recipient="bob@b.example",
    timestamp="2025-10-05T12:34:56.123456+00:00",
    message="hi",
)
payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


# -- instants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2025-10-05T12:34:56.123456789Z", NANOSECONDS),
        ("2025-10-05t14:34:56.1234567899999+02:00", NANOSECONDS),
        ("2025-10-05 09:04:56.123456789-03:30", NANOSECONDS),
        ("1970-01-01T00:00:00z", 0),
        ("1969-12-31T23:59:59.9Z", -100_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000_000_000),
    ],
)
def test_instants_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert parse_instant(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025-10-05",
        "2025-10-05T12:34:56",
        "2025-10-05T12:34Z",
        "2025-13-05T12:34:56Z",
        "2025-02-29T12:34:56Z",
        "0000-01-01T00:00:00Z",
        "2025-10-05T24:00:00Z",
        "2025-10-05T12:60:00Z",
        "2025-10-05T12:00:61Z",
        "2025-10-05T12:00:00+24:00",
        "2025-10-05T12:00:00.Z",
        "2025-10-05T12:00:00." + "1" * 60 + "Z",
        "٢٠٢٥-10-05T12:34:56Z",
        "2025-10-05T12:34:56Z\n",
    ],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InstantError):
        parse_instant(text)


@given(st.datetimes(timezones=st.just(datetime.UTC)), st.integers(0, 999))
def test_instants_come_back_and_agree_with_datetime(moment: datetime.datetime, more: int) -> None:
    nanoseconds = parse_instant(moment.isoformat())
    delta = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert nanoseconds == delta // datetime.timedelta(microseconds=1) * 1000
    text = format_instant(nanoseconds + more)
    assert parse_instant(text) == nanoseconds + more
    assert len(text.partition(".")[2]) in (0, 4, 7, 10)


@pytest.mark.parametrize("year", [0, 10_000])
def test_years_beyond_four_digits_have_no_text(year: int) -> None:
    with pytest.raises(InstantError):
        format_instant((year - 1970) * 366 * 86_400 * 10**9)


# -- events -------------------------------------------------------------------------------------------------


def test_the_event_of_the_specification_has_its_digest_and_signature() -> None:
    signed = EVENT.sign(KEYS)
    assert signed.digest.hex() == "346b01396b9ede433d82a90474de4bfa89e96d1d221b649327bdcd75409d954b"
    assert signed.signature.hex() == (
        "4aca32f75133fc491e493dcc879bb29178de9d540a54cc208fe659f6ccd77a73"
        "fa780069748f15b29da1e675f8befe138a773142f4393e7e184a3c1b3844f409"
    )


@given(payloads, st.integers(-(2**63), 2**63 - 1))
def test_a_signed_event_travels_and_is_believed(payload: Any, created_at: int) -> None:
    signed = attrs.evolve(EVENT, payload=payload, created_at=created_at).sign(KEYS)
    received = SignedEvent.decode(signed.encode())
    received.verify(KEYS.public)
    assert received.encode() == signed.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": "evt-2"},
        {"origin": "c.example"},
        {"scope": "relay"},
        {"created_at": NANOSECONDS + 1},
        {"payload": {"channel": 7}},
        {"payload": "\ud800"},
    ],
)
def test_a_changed_event_is_not_believed(change: dict[str, Any]) -> None:
    signed = EVENT.sign(KEYS)
    changed = attrs.evolve(signed, event=attrs.evolve(EVENT, **change))
    with pytest.raises(EventVerificationError) as refused:
        changed.verify(KEYS.public)
    assert refused.value.reason is Verification.DIGEST_MISMATCH


def test_an_event_of_somebody_else_is_not_believed() -> None:
    with pytest.raises(EventVerificationError) as refused:
        EVENT.sign(OTHER).verify(KEYS.public)
    assert refused.value.reason is Verification.SIGNATURE


def test_names_run_into_each_other_so_the_digest_says_nothing_about_their_borders() -> None:
    """Why whoever takes an event compares origin and scope with what it expects."""
    moved = attrs.evolve(EVENT, origin="a.exampleb", scope=".example")
    assert moved.digest() == EVENT.digest()


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_garbage_is_no_event(data: bytes) -> None:
    with pytest.raises(EventFormatError):
        SignedEvent.decode(data)


def wire(**changes: Any) -> bytes:
    value = json.loads(EVENT.sign(KEYS).encode())
    for name, member in changes.items():
        place, key = (value["event"], name[6:]) if name.startswith("event_") else (value, name)
        if member is None:
            del place[key]
        else:
            place[key] = member
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"event": 7},
        {"event_event_id": 7},
        {"event_origin": None},
        {"event_created_at": "yesterday"},
        {"event_payload": None},
        {"event_scope": ["b"]},
        {"signature": "00"},
        {"signature": [256]},
        {"signature": [True]},
        {"signature": [1.0]},
        {"signature": [0] * 5000},
        {"digest": None},
        {"digest": {"0": 1}},
    ],
)
def test_an_event_of_another_shape_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EventFormatError):
        SignedEvent.decode(wire(**changes))


def test_members_that_nobody_knows_are_passed_over() -> None:
    SignedEvent.decode(wire(trace="x", event_next_year=1)).verify(KEYS.public)


# -- friend requests ---------------------------------------------------------------------------------------


def test_the_friend_request_of_the_specification_has_its_signature() -> None:
    assert REQUEST.sign(KEYS).signature.hex() == (
        "a2f7784f35fe74520abd788c7c2f2b7b1cf23bb967be117ec7aee6c7801cbaf2"
        "0ebdb46aa84a04e364aa6090dde78f14a240fd853e6635a9def6efb237142808"
    )


@pytest.mark.parametrize(
    "event",
    [
        REQUEST,
        attrs.evolve(REQUEST, message=None),
        attrs.evolve(REQUEST, kind=FriendEventKind.RESPONSE, message=None, accept=True),
        attrs.evolve(REQUEST, kind=FriendEventKind.RESPONSE, message=None, accept=False),
    ],
)
def test_friend_events_travel_and_are_believed(event: FriendEvent) -> None:
    signed = event.sign(KEYS)
    received = FriendEvent.from_wire(json.loads(json.dumps(signed.to_wire())))
    assert received == signed
    received.verify(KEYS.public)
    with pytest.raises(FriendEventError, match="invalid signature"):
        received.verify(OTHER.public)
    with pytest.raises(FriendEventError, match="invalid signature"):
        attrs.evolve(received, sender="mallory@a.example").verify(KEYS.public)


def test_an_answer_cannot_be_turned_into_another_one() -> None:
    accepted = attrs.evolve(REQUEST, kind=FriendEventKind.RESPONSE, message=None, accept=True).sign(KEYS)
    with pytest.raises(FriendEventError):
        attrs.evolve(accepted, accept=False).verify(KEYS.public)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"type": None}, "missing 'type' field"),
        ({"type": "friend_poke"}, "unsupported event type: friend_poke"),
        ({"request_id": ""}, "missing 'request_id'"),
        ({"request_id": "a|b"}, "'request_id' must not hold '|'"),
        ({"from": 7}, "missing 'from' field"),
        ({"to": " "}, "missing 'to' field"),
        ({"to": "x" * 321}, "'to' is too long"),
        ({"message": 7}, "'message' must be a string"),
        ({"timestamp": None}, "missing 'timestamp' field"),
        ({"timestamp": "soon"}, "not a time of RFC 3339"),
        ({"signature": None}, "missing 'signature' field"),
        ({"signature": "xyz"}, "invalid signature encoding"),
        ({"signature": "00"}, "invalid signature length"),
        ({"type": "friend_response"}, "missing 'accept' field"),
    ],
)
def test_a_friend_event_of_another_shape_is_refused(change: dict[str, Any], detail: str) -> None:
    value = {**REQUEST.sign(KEYS).to_wire(), **change}
    with pytest.raises(ProtoError, match=detail.replace("|", r"\|")):
        FriendEvent.from_wire(value)


@given(payloads)
def test_garbage_is_no_friend_event(value: Any) -> None:
    with pytest.raises(FriendEventError):
        FriendEvent.from_wire(value)
