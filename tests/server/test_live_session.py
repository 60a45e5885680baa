"""Strict number order per device with bounded memory, whatever the timing."""

from hypothesis import given
from hypothesis import strategies as st

from commucat_proto import Frame, FrameType, decode_frame
from commucat_server.routing.live import ANSWERS_BYTES, LiveSession
from commucat_server.routing.reception import WINDOW_BYTES, WINDOW_FRAMES
from commucat_server.routing.registry import REPLACED, Registry
from commucat_storage import InboxPage, InboxRow


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def __call__(self) -> int:
        self.value += 1
        return self.value


def new_live(confirmed: int = 0, *, receives: bool = True, device_id: str = "bob") -> LiveSession:
    return LiveSession(
        device_id=device_id,
        user_id="user",
        token_hash="hash",
        epoch="epoch",
        confirmed=confirmed,
        receives=receives,
        delivery_ack=True,
        wake=lambda: None,
        next_sequence=Counter(),
    )


def frames_of(taken: list[bytes]) -> list[Frame]:
    return [decode_frame(encoded)[0] for encoded in taken]


def numbers_of(taken: list[bytes]) -> list[int]:
    return [frame.sequence for frame in frames_of(taken)]


def offer(live: LiveSession, number: int, payload: bytes = b"m") -> None:
    live.offer(number, FrameType.MSG, 5, payload)


def page(*numbers: int, head: int, complete: bool = True) -> InboxPage:
    rows = tuple(InboxRow(number, FrameType.MSG, 5, b"m") for number in numbers)
    return InboxPage(rows, head, complete)


def caught_up(confirmed: int = 0) -> LiveSession:
    live = new_live(confirmed)
    live.take_page(page(head=confirmed))
    return live


def test_a_fresh_session_is_behind_until_the_store_was_read() -> None:
    live = new_live(confirmed=3)
    offer(live, 4)
    assert live.behind
    assert live.take() == []

    live.take_page(page(4, head=4))

    assert not live.behind
    assert numbers_of(live.take()) == [4]


def test_committed_messages_go_straight_through_once_caught_up() -> None:
    live = caught_up()
    offer(live, 1)
    offer(live, 2)

    assert numbers_of(live.take()) == [1, 2]
    assert live.taken == 2


def test_a_gap_sends_the_writer_to_the_store() -> None:
    live = caught_up()
    offer(live, 2)  # told before 1: another connection to the database was faster

    assert live.behind
    assert live.take() == []
    live.take_page(page(1, 2, head=2))
    assert numbers_of(live.take()) == [1, 2]
    offer(live, 1)
    assert live.take() == []


def test_offers_during_a_read_are_not_forgotten() -> None:
    live = new_live()
    offer(live, 1)  # while the page is being read, which does not see it yet

    live.take_page(page(head=0))

    assert live.behind
    live.take_page(page(1, head=1))
    assert numbers_of(live.take()) == [1]
    assert not live.behind


def test_numbers_without_rows_are_passed_over() -> None:
    live = new_live()
    live.take_page(page(3, head=7))
    offer(live, 8)

    assert numbers_of(live.take()) == [3, 8]


def test_an_incomplete_page_leaves_the_session_behind() -> None:
    live = new_live()
    live.take_page(page(1, 2, head=9, complete=False))

    assert numbers_of(live.take()) == [1, 2]
    assert live.behind
    assert live.cursor == 2


def test_a_full_window_of_frames_falls_back_to_the_store() -> None:
    live = caught_up()
    for number in range(1, WINDOW_FRAMES + 10):
        offer(live, number)

    assert live.behind
    assert len(live.take()) == WINDOW_FRAMES


def test_a_full_window_of_bytes_falls_back_to_the_store() -> None:
    live = caught_up()
    payload = bytes(WINDOW_BYTES // 2)
    for number in range(1, 10):
        offer(live, number, payload)

    assert live.behind
    assert len(live.take()) == 2


def test_send_only_sessions_get_no_deliveries() -> None:
    live = new_live(receives=False)
    offer(live, 1)

    assert live.idle
    assert live.take() == []


def test_answers_have_their_own_counter_and_a_bound() -> None:
    live = caught_up()
    live.answer(FrameType.ACK, 5, b'{"ack":1}')
    live.answer(FrameType.ACK, 5, b'{"ack":2}')
    offer(live, 1)
    assert [(f.type, f.sequence) for f in frames_of(live.take())] == [
        (FrameType.ACK, 1),
        (FrameType.ACK, 2),
        (FrameType.MSG, 1),
    ]

    assert not live.answers_full
    while not live.answers_full:
        live.answer(FrameType.ERROR, 5, b'"' + bytes(1000) + b'"')
    assert sum(map(len, live.take())) < ANSWERS_BYTES + 2000
    assert not live.answers_full


@given(st.data())
def test_every_message_is_handed_over_once_and_in_order(data: st.DataObject) -> None:
    """A model store, a model journal that tells commits late and out of order, a lazy writer."""
    live = new_live()
    stored: list[int] = []
    untold: list[int] = []
    received: list[int] = []
    for _ in range(data.draw(st.integers(0, 40))):
        step = data.draw(st.sampled_from(["commit", "tell", "write", "read"]))
        if step == "commit":
            stored.append(len(stored) + 1)
            untold.append(stored[-1])
        elif step == "tell" and untold:
            offer(live, untold.pop(data.draw(st.integers(0, min(1, len(untold) - 1)))))
        elif step == "read" and live.behind and live.drained:
            above = [n for n in stored if n > live.cursor]
            limit = data.draw(st.integers(1, 5))
            live.take_page(page(*above[:limit], head=len(stored), complete=len(above) <= limit))
        elif step == "write":
            received += numbers_of(live.take())
    for number in untold:
        offer(live, number)
    while not live.idle:
        received += numbers_of(live.take())
        if live.behind:
            live.take_page(page(*[n for n in stored if n > live.cursor], head=len(stored)))

    assert received == stored


# -- the registry ---------------------------------------------------------------------------------------


def test_a_newer_session_replaces_the_older_which_is_told() -> None:
    registry, older, newer = Registry(), new_live(), new_live()
    registry.attach(older)
    registry.attach(newer)

    assert older.farewell == REPLACED
    assert newer.farewell is None
    assert registry.receiver("bob") is newer


def test_the_end_of_a_replaced_session_does_not_remove_the_newer_one() -> None:
    registry, older, newer = Registry(), new_live(), new_live()
    registry.attach(older)
    registry.attach(newer)

    assert registry.detach(older) is False

    assert registry.receiver("bob") is newer
    assert len(registry) == 1
    assert registry.detach(newer) is True
    assert registry.receiver("bob") is None


def test_send_only_sessions_replace_nobody() -> None:
    registry, listener, sender = Registry(), new_live(), new_live(receives=False)
    registry.attach(listener)
    registry.attach(sender)

    assert listener.farewell is None
    assert registry.receiver("bob") is listener
    assert len(registry) == 2


def test_ending_a_device_ends_all_its_sessions_and_no_others() -> None:
    registry = Registry()
    sessions = [new_live(), new_live(receives=False), new_live(device_id="carol")]
    for session in sessions:
        registry.attach(session)

    registry.end_device("bob", {"error": "revoked"})

    assert [session.farewell for session in sessions] == [{"error": "revoked"}, {"error": "revoked"}, None]


def test_who_comes_during_shutdown_is_sent_away_too() -> None:
    registry, early, late = Registry(), new_live(), new_live(device_id="carol")
    registry.attach(early)
    registry.end_all({"error": "shutdown"})
    registry.attach(late)

    assert early.farewell == late.farewell == {"error": "shutdown"}
