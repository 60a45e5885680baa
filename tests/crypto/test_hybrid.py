"""Hybrid sessions: chains, ratchet steps and roles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import (
    HybridRole,
    HybridSession,
    InvalidKeyError,
    PqKeyDerivationError,
    combine_secrets,
    derive_key_material,
    derive_message_key,
)

SECRETS = st.binary(min_size=64, max_size=64)


def peers(combined: bytes) -> tuple[HybridSession, HybridSession]:
    return HybridSession(combined, HybridRole.INITIATOR), HybridSession(combined, HybridRole.RESPONDER)


@given(combined=SECRETS, turns=st.lists(st.booleans(), max_size=20))
def test_peers_agree_on_every_message_key_and_none_repeats(combined: bytes, turns: list[bool]) -> None:
    left, right = peers(combined)
    seen = set()
    for to_right in turns:
        sender, reader = (left, right) if to_right else (right, left)
        key = sender.next_sending_key()
        assert reader.next_receiving_key() == key
        seen.add(key)
    assert len(seen) == len(turns)
    assert left.sent == right.received == sum(turns)


@given(first=SECRETS, second=SECRETS, swap=st.booleans())
def test_peers_agree_after_a_ratchet_step_in_either_role(first: bytes, second: bytes, swap: bool) -> None:
    left, right = peers(first)
    before = left.next_sending_key()
    roles = [HybridRole.INITIATOR, HybridRole.RESPONDER]
    left.ratchet(second, roles[swap])
    right.ratchet(second, roles[not swap])
    assert (left.sent, left.received) == (0, 0)
    key = left.next_sending_key()
    assert right.next_receiving_key() == key != before
    assert left.next_receiving_key() == right.next_sending_key()


def test_a_ratchet_step_depends_on_the_old_root() -> None:
    one, _ = peers(bytes(64))
    other, _ = peers(b"\x01" * 64)
    for session in (one, other):
        session.ratchet(b"\x02" * 64, HybridRole.INITIATOR)
    assert one.next_sending_key() != other.next_sending_key()


def test_salt_and_info_separate_sessions() -> None:
    combined = bytes(64)
    plain = derive_key_material(combined)
    assert plain == derive_key_material(combined, salt=bytes(64))
    assert (
        len({plain, derive_key_material(combined, salt=b"s"), derive_key_material(combined, info=b"i")}) == 3
    )


def test_a_refused_ratchet_step_changes_nothing() -> None:
    left, right = peers(bytes(64))
    with pytest.raises(InvalidKeyError):
        left.ratchet(bytes(63), HybridRole.INITIATOR)
    assert left.next_sending_key() == right.next_receiving_key()


def test_an_exhausted_chain_asks_for_a_ratchet_step_instead_of_repeating_keys() -> None:
    left, right = peers(bytes(64))
    left.sent = right.received = 2**32 - 1
    assert left.next_sending_key() == right.next_receiving_key()
    with pytest.raises(PqKeyDerivationError):
        left.next_sending_key()
    with pytest.raises(PqKeyDerivationError):
        right.next_receiving_key()
    left.ratchet(bytes(64), HybridRole.INITIATOR)
    left.next_sending_key()


@pytest.mark.parametrize("counter", [-1, 2**32])
def test_counters_outside_32_bits_are_refused(counter: int) -> None:
    with pytest.raises(PqKeyDerivationError):
        derive_message_key(bytes(32), counter)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_secrets_of_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidKeyError):
        combine_secrets(bytes(length), bytes(32))
    with pytest.raises(InvalidKeyError):
        combine_secrets(bytes(32), bytes(length))
    with pytest.raises(InvalidKeyError):
        derive_message_key(bytes(length), 0)


def test_a_session_shows_no_keys() -> None:
    combined = bytes(64)
    session = HybridSession(combined, HybridRole.INITIATOR)
    root = derive_key_material(combined)[:32]
    assert root.hex() not in repr(session)
    assert repr(root) not in repr(session)
