"""The board of calls: who may do what, and that nothing is left behind."""

from typing import Any

import pytest

from commucat_server.calls.board import IDLE_TIMEOUT, CallBoard
from commucat_server.calls.call import Call, CallRefusedError, offer_record
from commucat_server.calls.limits import CallLimits
from commucat_storage import CallRow


def reserve(board: CallBoard, call_id: str = "c", initiator: str = "alice", now: float = 0.0) -> Call:
    return board.reserve(call_id, channel=7, initiator=initiator, mode="full_duplex", video=False, now=now)


def ringing(board: CallBoard, *invited: str) -> Call:
    call = reserve(board)
    board.ring(call, invited, 0.0)
    return call


def refusal(board: CallBoard, call_id: str, device_id: str, channel: int = 7) -> str:
    with pytest.raises(CallRefusedError) as caught:
        board.take_part(call_id, device_id, channel)
    return caught.value.kind


def test_id_is_taken_from_its_reservation_to_the_end() -> None:
    board = CallBoard(CallLimits())
    call = reserve(board)
    with pytest.raises(CallRefusedError) as caught:
        reserve(board, initiator="bob")
    assert caught.value.kind == "call_exists"

    assert board.remove(call)
    assert not board.remove(call)
    reserve(board, initiator="bob")


def test_calls_that_a_device_began_are_limited_and_being_called_does_not_count() -> None:
    board = CallBoard(CallLimits())
    for number in range(CallLimits().per_device):
        board.ring(reserve(board, f"c{number}"), ["bob"], 0.0)
    with pytest.raises(CallRefusedError) as caught:
        reserve(board, "one more")

    assert caught.value.kind == "too_many_calls"
    reserve(board, "bob's own", "bob")


def test_only_participants_on_the_calls_channel_take_part() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, "bob")

    assert board.take_part("c", "bob", 7) is call
    assert refusal(board, "c", "mallory") == "not_participant"
    assert refusal(board, "c", "bob", 8) == "bad_request"
    assert refusal(board, "x", "bob") == "call_unknown"


def test_a_call_that_is_not_stored_yet_is_unknown_also_to_its_caller() -> None:
    """Nobody has heard of it, and its room is not there: another session of the caller may be faster."""
    board = CallBoard(CallLimits())
    call = reserve(board)
    assert refusal(board, "c", "alice") == "call_unknown"

    board.ring(call, ["bob"], 0.0)
    assert board.take_part("c", "alice", 7) is call


def test_decline_of_the_last_one_ends_the_call_and_of_one_among_many_does_not() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, "bob", "carol")

    assert not board.decline(call, "bob")
    assert refusal(board, "c", "bob") == "not_participant"
    assert board.decline(call, "carol")
    assert len(board) == 0


def test_ringing_ends_in_time_and_a_running_call_lives_while_it_is_heard() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, "bob")
    board.hear(call, 50.0)  # Statistics of the caller do not prolong the ringing.
    assert board.overdue(59.9) == ()
    assert board.overdue(60.0) == (call,)

    board.accept(call, "bob", 59.0)
    assert board.overdue(60.0) == ()
    board.hear(call, 100.0)
    assert board.overdue(99.0 + IDLE_TIMEOUT) == ()
    assert board.overdue(100.0 + IDLE_TIMEOUT) == (call,)


def test_device_is_in_the_calls_it_began_or_accepted() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, "bob")
    assert board.joined_by("alice") == (call,)
    assert board.joined_by("bob") == ()
    board.accept(call, "bob", 1.0)
    assert board.joined_by("bob") == (call,)


def test_offer_that_was_never_stored_runs_out_and_rings_no_more() -> None:
    board = CallBoard(CallLimits())
    call = reserve(board)
    assert board.joined_by("alice") == ()
    assert board.overdue(60.0) == (call,)
    board.remove(call)
    board.ring(call, ["bob"], 61.0)

    assert len(board) == 0
    assert board._of_device == {}


def test_nothing_is_left_of_calls_that_are_over() -> None:
    board = CallBoard(CallLimits())
    for number in range(50):
        call = reserve(board, f"c{number}")
        board.ring(call, ["bob", "carol"], 0.0)
        board.accept(call, "bob", 0.0)
        board.decline(call, "carol")
        board.remove(call)

    assert (len(board), board._of_device) == (0, {})


def test_record_of_a_large_call_is_bounded() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, *(f"device-{number}" for number in range(4999)))

    record = offer_record(call)

    assert len(record["participants"]) == 100
    assert record["participant_count"] == 5000


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, frozenset[str]]] = []

    def on_joined(self, call: Call, device_id: str) -> None:
        self.told.append(("joined", device_id, frozenset(call.joined)))

    def on_left(self, call: Call, device_id: str) -> None:
        self.told.append(("left", device_id, frozenset(call.joined)))

    def on_over(self, call: Call) -> None:
        self.told.append(("over", "", frozenset(call.joined)))


def test_listener_hears_of_everybody_who_comes_and_goes_in_order() -> None:
    board, heard = CallBoard(CallLimits()), Heard()
    board.listen(heard)
    call = ringing(board, "bob", "carol")
    board.accept(call, "bob", 1.0)
    board.accept(call, "bob", 2.0)
    board.accept(call, "carol", 3.0)
    board.decline(call, "carol")
    board.decline(call, "bob")
    board.remove(call)

    assert heard.told == [
        ("joined", "alice", {"alice"}),
        ("joined", "bob", {"alice", "bob"}),
        ("joined", "carol", {"alice", "bob", "carol"}),
        ("left", "carol", {"alice", "bob"}),
        ("left", "bob", {"alice"}),
        ("over", "", {"alice"}),
    ]


def test_listener_hears_of_calls_of_other_nodes_and_of_no_offer_that_was_not_stored() -> None:
    board, heard = CallBoard(CallLimits()), Heard()
    board.listen(heard)
    board.remove(reserve(board))
    assert heard.told == []

    def adopted() -> Call:
        call = board.adopt("d", channel=7, initiator="dora", mode="full_duplex", video=False, now=0.0)
        assert call is not None
        return call

    assert adopted() is adopted()
    board.remove(adopted())
    assert heard.told == [("joined", "dora", {"dora"}), ("over", "", {"dora"})]


def a_row(**fields: Any) -> CallRow:
    values: dict[str, Any] = {
        "call_id": "c",
        "channel": 7,
        "initiator": "alice",
        "mode": "full_duplex",
        "video": False,
        "participants": ("alice", "bob", "carol"),
        "accepted": ("bob",),
        "node": "n",
        "started_at": 1_000,
        "answered_at": 1_005,
        "last_update": 1_005,
    }
    return CallRow(**{**values, **fields})


def test_call_of_another_node_becomes_this_ones_with_what_is_known_of_it() -> None:
    board = CallBoard(CallLimits())
    call = board.adopt("c", channel=7, initiator="alice", mode="full_duplex", video=False, now=50.0)
    assert call is not None
    board.invite(call, ["bob", "carol"])
    board.accept(call, "carol", 51.0)
    board.go_away(call, "alice", 52.0)
    assert board.absent(1_000.0) == ()  # Its own node looks after it.

    assert board.restore(a_row(), home=True, now=60.0, wall=1_010.0) is call

    assert (call.home, call.recovered, call.started_at, call.answered_at) == (True, True, 1_000, 1_005)
    assert (call.joined, call.invited) == ({"alice", "carol"}, {"bob"})
    assert board.absent(52.0 + CallLimits().grace) == ((call, "alice"),)


def test_restored_call_is_as_its_row_says() -> None:
    board, heard = CallBoard(CallLimits(call_waiting=False)), Heard()
    board.listen(heard)
    row = a_row(gone=("carol",))
    call = board.restore(row, home=True, now=60.0, wall=1_010.0)

    assert (call.joined, call.invited, call.gone) == ({"alice", "bob"}, set(), {"carol"})
    assert (call.began, call.accepted, call.stored) == (50.0, True, True)
    assert board.busy() == {"alice", "bob"}
    assert [told[:2] for told in heard.told] == [("joined", "alice"), ("joined", "bob")]
    assert refusal(board, "c", "carol") == "not_participant"


def test_away_and_back_and_gone() -> None:
    board = CallBoard(CallLimits())
    call = ringing(board, "bob", "carol")
    board.accept(call, "bob", 1.0)
    board.go_away(call, "carol", 1.0)  # Rings there; nobody is missed.
    board.go_away(call, "bob", 2.0)
    board.go_away(call, "bob", 20.0)  # The first time counts.
    assert board.absent(2.0 + CallLimits().grace - 0.1) == ()
    assert board.absent(2.0 + CallLimits().grace) == ((call, "bob"),)
    assert board.come_back(call, "bob")
    assert not board.come_back(call, "bob")
    assert board.absent(1_000.0) == ()
