"""Live frames of others in a session: their place, their bound, their end."""

from commucat_proto import Frame, FrameType, decode_frame
from commucat_server.connect.dispatch import _QUICK, _SLOW
from commucat_server.routing.live import NOTICES_BYTES, LiveSession
from commucat_server.routing.registry import REPLACED


def new_live(*, receives: bool = True) -> LiveSession:
    numbers = iter(range(1, 10**6))
    live = LiveSession(
        device_id="bob",
        user_id="user",
        token_hash="hash",
        epoch="epoch",
        confirmed=0,
        receives=receives,
        delivery_ack=True,
        wake=lambda: None,
        next_sequence=lambda: next(numbers),
    )
    live.behind = False
    return live


def frames_of(live: LiveSession) -> list[Frame]:
    return [decode_frame(encoded)[0] for encoded in live.take()]


def test_every_type_of_frame_has_its_room() -> None:
    assert set(_QUICK) | set(_SLOW) == set(FrameType)
    assert not set(_QUICK) & set(_SLOW)


def test_notice_goes_out_behind_what_was_delivered_before() -> None:
    live = new_live()
    live.offer(1, FrameType.CALL_OFFER, 7, b"{}")
    assert live.notice(FrameType.TRANSPORT_UPDATE, 7, b"{}")
    live.answer(FrameType.ACK, 7, b"{}")

    assert not live.idle
    types = [frame.type for frame in frames_of(live)]
    assert types == [FrameType.ACK, FrameType.CALL_OFFER, FrameType.TRANSPORT_UPDATE]
    assert live.idle


def test_notices_are_bounded_and_do_not_stop_the_client_from_being_read() -> None:
    live = new_live()
    payload = bytes(10_000)
    taken = [live.notice(FrameType.VOICE_FRAME, 7, payload) for _ in range(100)]

    assert 0 < taken.count(True) <= NOTICES_BYTES // 10_000
    assert taken == sorted(taken, reverse=True)
    assert not live.answers_full
    assert len(frames_of(live)) == taken.count(True)
    assert live.notice(FrameType.VOICE_FRAME, 7, payload)


def test_one_large_frame_passes_an_empty_queue() -> None:
    live = new_live()

    assert live.notice(FrameType.VIDEO_FRAME, 7, bytes(2 * NOTICES_BYTES))
    assert not live.notice(FrameType.TYPING, 7, b"{}")


def test_nothing_comes_after_the_last_word() -> None:
    live = new_live()
    live.end(REPLACED)

    assert not live.notice(FrameType.TYPING, 7, b"{}")
    assert live.idle


def test_session_that_does_not_receive_gets_none() -> None:
    assert not new_live(receives=False).notice(FrameType.TYPING, 7, b"{}")
