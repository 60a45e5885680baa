"""What a device says to the head of a ledger that its server tells."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from commucat_cli.audit.watch import judge
from commucat_cli.profile import open_state
from commucat_cli.profile.state import REMEMBERED_LEDGERS
from commucat_crypto import DeviceKeyPair
from commucat_ledger import SignedHead, Signer

SERVER = DeviceKeyPair.from_private(b"s" * 32)
THIEF = DeviceKeyPair.from_private(b"t" * 32)


def head(
    size: int, text: str = "", *, ledger: int = 1, node: str = "main", keys: DeviceKeyPair = SERVER
) -> SignedHead:
    return SignedHead.make(
        Signer(key=keys.public, sign=keys.sign),
        ledger=bytes([ledger]) * 32,
        size=size,
        head=(f"{size}{text}".encode() + bytes(32))[:32],
        signed_at=1_700_000_000 + size,
        node=node,
    )


def test_a_growing_ledger_is_remembered_in_silence() -> None:
    assert judge(head(3).to_wire(), [], SERVER.public) == attrs.evolve(
        judge(None, [], SERVER.public), keep=head(3)
    )
    grown = judge(head(5).to_wire(), [head(3)], SERVER.public)
    assert (grown.keep, grown.warning) == (head(5), None)
    same = judge(head(5).to_wire(), [head(5)], SERVER.public)
    assert (same.keep, same.warning) == (None, None)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (head(2).to_wire(), "has 2 records, and had 3"),
        (head(3, "other").to_wire(), "was rewritten"),
        (None, "no longer says"),
        (head(9, keys=THIEF).to_wire(), "not signed by it"),
        (head(9).to_wire() | {"size": 10}, "does not verify"),
        (head(9).to_wire() | {"signature": "00"}, "signature of a head has a wrong form"),
        ({}, "not signed by it"),
        ("text", "not signed by it"),
    ],
)
def test_what_cannot_be_right_is_told_and_the_proof_is_kept(told: Any, text: str) -> None:
    judgement = judge(told, [head(3)], SERVER.public)
    assert judgement.keep is None
    assert text in (judgement.warning or "")


def test_a_ledger_begun_anew_is_told_once() -> None:
    anew = head(1, ledger=2)
    judgement = judge(anew.to_wire(), [head(3)], SERVER.public)
    assert judgement.keep == anew
    assert "begun anew" in (judgement.warning or "")
    assert judge(head(2, ledger=2).to_wire(), [head(3), anew], SERVER.public).warning is None


def test_another_node_has_a_ledger_of_its_own() -> None:
    other = head(1, ledger=2, node="second")
    judgement = judge(other.to_wire(), [head(3)], SERVER.public)
    assert (judgement.keep, judgement.warning) == (other, None)


def test_a_profile_remembers_the_newest_head_of_each_ledger(tmp_path: Path) -> None:
    with open_state(tmp_path, create=True) as state:
        state.keep_ledger_head(head(1))
        state.keep_ledger_head(head(1, ledger=2))
        state.keep_ledger_head(head(4))
    with open_state(tmp_path, create=False) as state:
        assert state.ledger_heads() == [head(4), head(1, ledger=2)]
        for number in range(3, 3 + REMEMBERED_LEDGERS):
            state.keep_ledger_head(head(1, ledger=number))
        assert len(state.ledger_heads()) <= REMEMBERED_LEDGERS
