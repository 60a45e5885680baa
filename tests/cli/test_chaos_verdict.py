"""The chaos checker sees each kind of fault, and nothing in a history without any."""

from pathlib import Path

import pytest

from cli.chaos_builders import Story, message
from commucat_cli.chaos.faults import FaultKind, Verdict, counts
from commucat_cli.chaos.history import HistoryWriter, read_history
from commucat_cli.chaos.verdict import judge

ONE, TWO, THREE = message(1), message(2), message(3)


@pytest.fixture
def story() -> Story:
    story = Story()
    story.opened("bob")
    return story


def faults(story: Story) -> list[FaultKind]:
    return [fault.kind for fault in judge(story.records).faults]


def test_a_history_without_faults_holds(story: Story) -> None:
    story.acknowledged(ONE, TWO)
    story.came(ONE, 1)
    story.confirmed(1)
    story.came(TWO, 2)
    verdict = judge(story.records)
    assert verdict == Verdict(
        acknowledged=2,
        delivered=2,
        group_changes=0,
        notices=0,
        redelivered=0,
        resent=0,
        refused=0,
        returned=0,
        faults=(),
    )
    assert verdict.holds


def test_an_empty_history_holds() -> None:
    assert judge([]).holds


# -- lost -----------------------------------------------------------------------------------------


def test_an_acknowledged_message_that_never_comes_is_lost(story: Story) -> None:
    story.acknowledged(ONE, TWO, THREE)
    story.came(ONE, 1)
    story.came(THREE, 3)
    assert faults(story) == [FaultKind.LOST]


def test_a_message_is_lost_for_each_recipient_that_lacks_it(story: Story) -> None:
    story.sent(ONE, "bob", "carol", "dave")
    story.answered(ONE)
    story.came(ONE, 1)
    assert faults(story) == [FaultKind.LOST, FaultKind.LOST]


def test_a_recipient_that_the_ack_leaves_out_lacks_nothing(story: Story) -> None:
    story.sent(ONE, "bob", "carol")
    story.answered(ONE, "carol")
    story.came(ONE, 1)
    assert faults(story) == []


def test_the_sender_need_not_have_its_own_message(story: Story) -> None:
    story.sent(ONE, "alice", "bob")
    story.answered(ONE)
    story.came(ONE, 1)
    assert faults(story) == []


def test_a_message_without_an_answer_may_come_or_not(story: Story) -> None:
    story.sent(ONE)
    story.sent(TWO)
    story.came(TWO, 1)
    assert faults(story) == []


def test_nothing_counts_as_lost_before_the_drain(story: Story) -> None:
    story.acknowledged(ONE)
    assert judge(story.records, drained=False).holds


# -- invented -------------------------------------------------------------------------------------


def test_a_message_that_nobody_sent_is_invented(story: Story) -> None:
    story.came(ONE, 1)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_damaged_payload_is_invented(story: Story) -> None:
    story.came(None, 1)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_message_on_another_channel_is_invented(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1, channel=8)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_refused_message_that_comes_is_invented(story: Story) -> None:
    story.sent(ONE)
    story.answered(ONE, error="storage")
    story.came(ONE, 1)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_refused_copy_says_nothing_about_one_without_an_answer(story: Story) -> None:
    story.sent(ONE)
    story.sent(ONE, attempt=2, session=2)
    story.answered(ONE, attempt=2, error="storage")
    story.came(ONE, 1)
    assert faults(story) == []


# -- order ----------------------------------------------------------------------------------------


def test_messages_of_one_sender_that_change_places_are_seen(story: Story) -> None:
    story.acknowledged(ONE, TWO)
    story.came(TWO, 1)
    story.came(ONE, 2)
    assert faults(story) == [FaultKind.OUT_OF_ORDER]


def test_a_late_message_is_seen_behind_several_others(story: Story) -> None:
    story.acknowledged(ONE, TWO, THREE)
    story.came(THREE, 1)
    story.came(ONE, 2)
    story.came(TWO, 3)
    assert faults(story) == [FaultKind.OUT_OF_ORDER, FaultKind.OUT_OF_ORDER]


def test_senders_and_channels_have_no_order_between_them(story: Story) -> None:
    other, elsewhere = message(1, sender="carol"), message(1, channel=9)
    story.acknowledged(ONE, other, elsewhere)
    story.came(elsewhere, 1, channel=9)
    story.came(other, 2)
    story.came(ONE, 3)
    assert faults(story) == []


def test_a_commit_that_failed_unheard_lets_the_next_message_go_first(story: Story) -> None:
    story.sent(ONE)
    story.sent(TWO)
    story.sent(ONE, attempt=2, session=2)
    story.sent(TWO, attempt=2, session=2)
    story.answered(ONE, attempt=2)
    story.answered(TWO, attempt=2)
    story.came(TWO, 1)
    story.came(ONE, 2)
    story.came(TWO, 3)
    assert faults(story) == []


def test_numbers_of_a_session_that_go_back_are_seen(story: Story) -> None:
    one, other = message(1), message(1, sender="carol")
    story.acknowledged(one, other)
    story.came(one, 2)
    story.came(other, 1)
    assert faults(story) == [FaultKind.OUT_OF_ORDER]


# -- duplicates and numbers -----------------------------------------------------------------------


def test_the_same_message_again_in_a_later_session_is_a_redelivery(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.opened("bob", session=2)
    story.came(ONE, 1, session=2)
    verdict = judge(story.records)
    assert verdict.holds
    assert (verdict.delivered, verdict.redelivered) == (1, 1)


def test_the_same_number_twice_in_one_session_is_a_duplicate(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.came(ONE, 1)
    assert faults(story) == [FaultKind.DUPLICATE]


def test_a_redelivery_under_another_number_is_seen(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.came(ONE, 2)
    assert faults(story) == [FaultKind.RENUMBERED]


def test_another_message_under_the_same_number_is_seen(story: Story) -> None:
    story.acknowledged(ONE, TWO)
    story.came(ONE, 1)
    story.opened("bob", session=2)
    story.came(TWO, 1, session=2)
    assert faults(story) == [FaultKind.RENUMBERED]


def test_a_message_sent_twice_may_come_under_two_numbers_and_not_under_three(story: Story) -> None:
    story.sent(ONE)
    story.sent(ONE, attempt=2, session=2)
    story.answered(ONE, attempt=2)
    story.came(ONE, 1)
    story.came(ONE, 2)
    assert faults(story) == []
    story.came(ONE, 3)
    assert faults(story) == [FaultKind.DUPLICATE]


# -- routes ---------------------------------------------------------------------------------------


def test_a_device_that_the_senders_route_does_not_name_is_excluded(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.came(ONE, 1, device="mallory")
    assert faults(story) == [FaultKind.EXCLUDED]


def test_a_lost_copy_may_take_a_later_route_of_its_sender(story: Story) -> None:
    story.sent(ONE)
    story.asked("alice", "carol")
    story.came(ONE, 1, device="carol")
    assert faults(story) == []


def test_a_device_whose_own_route_shuts_the_sender_out_must_refuse(story: Story) -> None:
    story.joined("bob", "carol")
    story.acknowledged(ONE)
    story.came(ONE, 1)
    assert faults(story) == [FaultKind.EXCLUDED]


@pytest.mark.parametrize("change", ["left", "joined", "asked before the answer"])
def test_a_route_that_may_have_changed_shuts_nobody_out(story: Story, change: str) -> None:
    story.joined("bob", "carol")
    if change == "left":
        story.left("bob")
    elif change == "joined":
        story.joined("bob", "alice")
    story.sent(ONE)
    if change == "asked before the answer":
        story.asked("bob", "alice")
    story.answered(ONE)
    story.came(ONE, 1)
    assert faults(story) == []


# -- watermarks -----------------------------------------------------------------------------------


def test_a_watermark_above_what_was_confirmed_is_seen(story: Story) -> None:
    story.acknowledged(ONE, TWO)
    story.came(ONE, 1)
    story.came(TWO, 2)
    story.confirmed(1)
    story.opened("bob", session=2, watermark=2)
    assert faults(story) == [FaultKind.UNCONFIRMED]


def test_a_resume_confirms(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.opened("bob", session=2, watermark=1, resume=1)
    assert faults(story) == []


def test_a_delivery_below_the_watermark_is_seen(story: Story) -> None:
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.confirmed(1)
    story.opened("bob", session=2, watermark=1)
    story.came(ONE, 1, session=2)
    assert faults(story) == [FaultKind.BELOW_WATERMARK]


# -- counting -------------------------------------------------------------------------------------


def test_every_kind_of_fault_is_counted_by_name(story: Story) -> None:
    story.acknowledged(ONE, TWO)
    found = counts(judge(story.records))
    assert found == {kind.value: 0 for kind in FaultKind} | {"lost": 2}


def test_refusals_and_resends_are_counted(story: Story) -> None:
    story.sent(ONE, "bob", "ghost")
    story.sent(ONE, "bob", "ghost", attempt=2)
    story.answered(ONE, "ghost", attempt=2)
    story.sent(TWO)
    story.answered(TWO, error="no_route")
    story.came(ONE, 1)
    verdict = judge(story.records)
    assert (verdict.acknowledged, verdict.resent, verdict.refused) == (1, 1, 2)


def test_a_history_survives_the_way_through_a_file(story: Story, tmp_path: Path) -> None:
    story.joined("bob", "carol")
    story.left("bob")
    story.acknowledged(ONE)
    story.came(ONE, 1)
    story.came(None, 2)
    story.confirmed(2)
    path = tmp_path / "history"
    with path.open("wb") as file:
        writer = HistoryWriter(file)
        for record in story.records:
            writer.add(record)
    assert list(read_history([path])) == story.records
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_history([path])) == story.records[:-1]
