"""The chaos checker judges membership: exactly where it can know it, and not where it cannot."""

import pytest

from cli.chaos_builders import GROUP, Story, group_message, message
from commucat_cli.chaos.faults import FaultKind
from commucat_cli.chaos.history import Answered, Change, Sent
from commucat_cli.chaos.membership import Memberships
from commucat_cli.chaos.steps import GroupEvent
from commucat_cli.chaos.verdict import judge
from commucat_proto import FrameType

CREATE, INVITE, REMOVE, LEAVE = GroupEvent.CREATE, GroupEvent.INVITE, GroupEvent.REMOVE, GroupEvent.LEAVE
LOST, EXCLUDED = FaultKind.LOST, FaultKind.EXCLUDED


@pytest.fixture
def story() -> Story:
    """Alice has a group of herself, bob and carol; all three were told."""
    story = Story()
    for device in ("alice", "bob", "carol", "dave"):
        story.opened(device)
    one = story.changed(1, CREATE, "bob", "carol")
    for device in ("bob", "carol"):
        story.noticed(one, CREATE, 1, device)
    return story


def faults(story: Story, *, drained: bool = True) -> list[FaultKind]:
    return [fault.kind for fault in judge(story.records, drained=drained).faults]


# -- members must have it -------------------------------------------------------------------------


def test_a_message_to_a_group_reaches_its_members(story: Story) -> None:
    one = group_message(2)
    story.told_group(one)
    story.came(one, 2, "bob")
    story.came(one, 2, "carol")
    verdict = judge(story.records)
    assert verdict.holds
    assert (verdict.acknowledged, verdict.delivered) == (1, 2)
    assert (verdict.group_changes, verdict.notices) == (1, 2)


def test_a_member_all_the_while_that_lacks_a_message_has_lost_it(story: Story) -> None:
    one = group_message(2)
    story.told_group(one)
    story.came(one, 2, "bob")
    assert faults(story) == [LOST]


def test_a_member_that_the_ack_leaves_out_lacks_nothing(story: Story) -> None:
    one = group_message(2)
    story.told_group(one, "carol")
    story.came(one, 2, "bob")
    assert faults(story) == []


def test_a_left_out_member_that_gets_it_all_the_same_is_seen(story: Story) -> None:
    one = group_message(2)
    story.told_group(one, "carol")
    story.came(one, 2, "bob")
    story.came(one, 2, "carol")
    assert faults(story) == [FaultKind.INVENTED]


@pytest.mark.parametrize("sender", ["bob", "carol"])
def test_every_member_may_write_and_the_owner_hears_it(story: Story, sender: str) -> None:
    one = group_message(1, sender)
    story.told_group(one)
    (other,) = {"bob", "carol"} - {sender}
    story.came(one, 2, other)
    assert faults(story) == [LOST]
    story.came(one, 1, "alice")
    assert faults(story) == []


def test_whoever_was_invited_before_must_have_it(story: Story) -> None:
    invited = story.changed(2, INVITE, "dave")
    one = group_message(3)
    story.told_group(one)
    for device in ("bob", "carol", "dave"):
        start = 1 if device == "dave" else 2
        story.noticed(invited, INVITE, start, device)
        if device != "dave":
            story.came(one, start + 1, device)
    assert faults(story) == [LOST]


# -- others must not ------------------------------------------------------------------------------


def test_whoever_was_never_a_member_must_not_have_it(story: Story) -> None:
    one = group_message(2)
    story.told_group(one)
    for device in ("bob", "carol", "dave"):
        story.came(one, 2, device)
    assert faults(story) == [EXCLUDED]


def removed(story: Story) -> None:
    """Bob is no member any more, and was told."""
    notice = story.changed(2, REMOVE, "bob")
    story.noticed(notice, REMOVE, 2, "bob")
    story.noticed(notice, REMOVE, 2, "carol")


def test_a_removed_member_must_not_have_what_was_sent_after_the_ack(story: Story) -> None:
    removed(story)
    one = group_message(3)
    story.told_group(one)
    story.came(one, 3, "carol")
    assert faults(story) == []
    story.came(one, 3, "bob")
    assert set(faults(story)) == {EXCLUDED}


@pytest.mark.parametrize("reached", [(), ("bob",)])
def test_what_was_on_its_way_during_the_removal_may_reach_the_removed_or_not(
    story: Story, reached: tuple[str, ...]
) -> None:
    one, removal = group_message(1, "carol"), group_message(2)
    story.to_group(one)
    story.wished(removal, REMOVE, "bob")
    story.answered(one)
    story.answered(removal)
    for device in reached:
        story.came(one, 2, device)
    story.noticed(removal, REMOVE, 3, "bob")
    story.came(one, 1, "alice")
    story.noticed(removal, REMOVE, 2, "carol")
    assert faults(story) == []


def test_nothing_may_follow_the_notice_of_ones_own_removal(story: Story) -> None:
    """By the clock it may have been sent in time; the numbers of the inbox know better."""
    one, removal = group_message(1, "carol"), group_message(2)
    story.to_group(one)
    story.wished(removal, REMOVE, "bob")
    story.answered(one)
    story.answered(removal)
    story.noticed(removal, REMOVE, 2, "bob")
    story.came(one, 3, "bob")
    story.came(one, 1, "alice")
    story.noticed(removal, REMOVE, 2, "carol")
    assert faults(story) == [EXCLUDED]


def test_after_a_new_invitation_it_may(story: Story) -> None:
    removed(story)
    invited = story.changed(3, INVITE, "bob")
    one = group_message(4)
    story.told_group(one)
    for device in ("bob", "carol"):
        story.noticed(invited, INVITE, 3, device)
        story.came(one, 4, device)
    assert faults(story) == []


def test_whoever_has_left_must_not_have_it(story: Story) -> None:
    left = story.changed(1, LEAVE, "bob", by="bob")
    story.noticed(left, LEAVE, 1, "alice")
    story.noticed(left, LEAVE, 2, "carol")
    one = group_message(2)
    story.told_group(one)
    story.came(one, 3, "carol")
    assert faults(story) == []
    story.came(one, 2, "bob")
    assert faults(story) == [EXCLUDED]


@pytest.mark.parametrize("reached", [(), ("bob",)])
def test_a_removal_without_an_answer_may_have_worked_or_not(story: Story, reached: tuple[str, ...]) -> None:
    story.wished(group_message(2), REMOVE, "bob")
    one = group_message(3)
    story.told_group(one)
    for device in ("carol", *reached):
        story.came(one, 2, device)
    assert faults(story) == []


def test_a_refused_removal_changes_nothing(story: Story) -> None:
    refused = group_message(1, "carol")
    story.wished(refused, REMOVE, "bob")
    story.answered(refused, error="not_allowed")
    one = group_message(2)
    story.told_group(one)
    story.came(one, 2, "carol")
    assert faults(story) == [LOST]


def test_a_refused_change_that_is_told_is_invented(story: Story) -> None:
    refused = group_message(1, "carol")
    story.wished(refused, REMOVE, "bob")
    story.answered(refused, error="not_allowed")
    story.noticed(refused, REMOVE, 1, "alice")
    assert faults(story) == [FaultKind.INVENTED]


# -- notices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [REMOVE, GroupEvent.ROLE, GroupEvent.TRANSFER])
def test_a_change_that_somebody_concerned_is_not_told_is_lost(story: Story, event: GroupEvent) -> None:
    notice = story.changed(2, event, "bob")
    story.noticed(notice, event, 2, "carol")
    assert faults(story) == [LOST]


def test_a_change_that_another_member_is_not_told_is_lost(story: Story) -> None:
    notice = story.changed(2, INVITE, "dave")
    for device, number in (("bob", 2), ("dave", 1)):
        story.noticed(notice, INVITE, number, device)
    assert faults(story) == [LOST]


def test_a_change_that_strangers_are_told_is_seen(story: Story) -> None:
    notice = story.changed(2, GroupEvent.ROLE, "bob")
    for device in ("bob", "carol", "dave"):
        story.noticed(notice, GroupEvent.ROLE, 2, device)
    assert faults(story) == [EXCLUDED]


def test_a_creation_that_was_answered_only_at_the_second_time_is_known_all_the_same() -> None:
    story = Story()
    first, second, one = group_message(1), group_message(2), group_message(3)
    story.wished(first, CREATE, "bob")
    story.wished(second, CREATE, "bob")
    story.answered(second, error="group_exists")
    story.noticed(first, CREATE, 1, "bob")
    story.told_group(one)
    assert faults(story) == [LOST]


# -- other rules ----------------------------------------------------------------------------------


def test_a_frame_that_comes_as_another_type_is_invented() -> None:
    story = Story()
    one = message(1)
    story.acknowledged(one)
    story.came(one, 1, frame=FrameType.KEY_UPDATE)
    assert faults(story) == [FaultKind.INVENTED]


def test_a_send_only_session_receives_nothing() -> None:
    story = Story()
    story.opened("bob", receives=False)
    one = message(1)
    story.acknowledged(one)
    story.came(one, 1)
    assert faults(story) == [EXCLUDED]


def test_a_group_shuts_nobody_out_by_a_route() -> None:
    """Two members of a group, each with a route to it: neither names the other."""
    story = Story()
    notice = story.changed(1, CREATE, "bob")
    story.noticed(notice, CREATE, 1)
    one = group_message(2)
    story.told_group(one)
    story.came(one, 2)
    assert faults(story) == []


# -- certainty ------------------------------------------------------------------------------------


def membership(*changes: tuple[GroupEvent, int, int | None]) -> Memberships:
    """Bob's, out of changes with the times at which they were asked for and answered."""
    attempts = []
    for sequence, (event, start, end) in enumerate(changes):
        one = group_message(sequence)
        sent = Sent(start, 1, one, 1, (), FrameType.GROUP_EVENT, GROUP, Change(event.value, ("bob",)))
        attempts.append((sent, None if end is None else Answered(end, one, 1, None, ())))
    return Memberships(attempts)


@pytest.mark.parametrize(
    ("changes", "start", "end", "inside", "outside"),
    [
        ([(INVITE, 10, 20)], 1, 5, False, True),
        ([(INVITE, 10, 20)], 5, 15, False, False),
        ([(INVITE, 10, 20)], 15, 30, False, False),
        ([(INVITE, 10, 20)], 21, 30, True, False),
        ([(INVITE, 10, None)], 21, 30, False, False),
        ([(INVITE, 10, 20), (REMOVE, 30, 40)], 21, 29, True, False),
        ([(INVITE, 10, 20), (REMOVE, 30, 40)], 21, 35, False, False),
        ([(INVITE, 10, 20), (REMOVE, 30, 40)], 41, 50, False, True),
        ([(INVITE, 10, 20), (REMOVE, 15, 40)], 41, 50, False, False),
        ([(INVITE, 10, 20), (REMOVE, 30, None)], 41, 50, False, False),
        ([(INVITE, 10, 20), (REMOVE, 30, None)], 21, 29, True, False),
        ([(INVITE, 10, 20), (REMOVE, 30, 40), (INVITE, 50, 60)], 41, 49, False, True),
        ([(INVITE, 10, 20), (REMOVE, 30, 40), (INVITE, 50, 60)], 41, 55, False, False),
        ([(INVITE, 10, 20), (REMOVE, 30, 40), (INVITE, 50, 60)], 61, 70, True, False),
        ([(INVITE, 10, None), (REMOVE, 30, 40)], 41, 50, False, False),
    ],
)
def test_membership_over_an_interval(
    changes: list[tuple[GroupEvent, int, int | None]], start: int, end: int, inside: bool, outside: bool
) -> None:
    memberships = membership(*changes)
    assert ("bob" in memberships.surely_in(GROUP, start, end)) == inside
    assert memberships.surely_out(GROUP, "bob", start, end) == outside
