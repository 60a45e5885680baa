"""The state of a call, as its caller and those who are called see it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_cli.calls.signalling import Call, CallState, Cause, Joined, Out, Over
from commucat_proto.calls import CallAnswer, CallEnd, CallOffer, EndReason, RejectReason

DEADLINE = 30.0


def outgoing(*to: str) -> Call:
    return Call.outgoing("c1", "alice", to or ("bob",), deadline=DEADLINE)


def ringing(*to: str) -> Call:
    call = outgoing(*to)
    assert call.offered([]) == []
    return call


def incoming(*to: str, own: str = "bob") -> Call:
    offer = CallOffer(call_id="c1", sender="alice", to=to or ("bob",))
    return Call.incoming(offer, own, deadline=DEADLINE)


def accepts() -> CallAnswer:
    return CallAnswer(call_id="c1", accept=True)


def declines(reason: RejectReason | None = RejectReason.DECLINE) -> CallAnswer:
    return CallAnswer(call_id="c1", accept=False, reason=reason)


def ended(reason: EndReason, cause: str | None = None, device: str = "bob") -> CallEnd:
    metadata = None if cause is None else {"system": True, "cause": cause, "device": device}
    return CallEnd(call_id="c1", reason=reason, metadata=metadata)


def test_a_call_that_is_taken() -> None:
    call = outgoing()
    assert call.state is CallState.OFFERING
    call.offered([])
    assert call.state is CallState.RINGING
    assert call.answered("bob", accepts()) == [Joined("bob")]
    assert call.state is CallState.RUNNING
    assert call.inside == {"alice", "bob"}
    assert call.next_deadline() is None
    assert call.answered("bob", accepts()) == []
    assert call.ended(ended(EndReason.HANGUP)) == [Over(Cause.ENDED)]
    assert (call.state, call.cause) == (CallState.OVER, Cause.ENDED)


def test_an_answer_may_come_before_the_servers_word_for_the_offer() -> None:
    call = outgoing()
    assert call.answered("bob", accepts()) == [Joined("bob")]
    assert call.offered([]) == []
    assert call.state is CallState.RUNNING


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (RejectReason.BUSY, Cause.BUSY),
        (RejectReason.DECLINE, Cause.DECLINED),
        (None, Cause.DECLINED),
        (RejectReason.UNSUPPORTED, Cause.UNSUPPORTED),
        (RejectReason.TIMEOUT, Cause.NO_ANSWER),
        (RejectReason.ERROR, Cause.FAILED),
    ],
)
def test_a_call_that_is_not_taken(reason: RejectReason | None, cause: Cause) -> None:
    call = ringing()
    assert call.answered("bob", declines(reason)) == [Out("bob", cause), Over(cause, "bob")]


def test_several_are_called_and_one_declines() -> None:
    call = ringing("bob", "carol")
    assert call.answered("carol", declines(RejectReason.BUSY)) == [Out("carol", Cause.BUSY)]
    assert call.state is CallState.RINGING
    assert call.answered("bob", accepts()) == [Joined("bob")]
    assert call.others == {"bob"}


def test_of_several_reasons_the_one_worth_telling_is_told() -> None:
    call = ringing("bob", "carol")
    call.answered("carol", declines(RejectReason.BUSY))
    assert call.answered("bob", declines()) == [Out("bob", Cause.DECLINED), Over(Cause.BUSY, "bob")]


def test_whom_the_server_leaves_out() -> None:
    call = outgoing("bob", "carol")
    assert call.offered(["carol"]) == [Out("carol", Cause.REFUSED)]
    assert call.state is CallState.RINGING
    alone = outgoing()
    assert alone.offered(["bob"]) == [Out("bob", Cause.REFUSED), Over(Cause.REFUSED, "bob")]
    busy = outgoing()
    assert busy.offered(["bob"], busy=["bob"]) == [Out("bob", Cause.BUSY), Over(Cause.BUSY, "bob")]


def test_nobody_answers_in_time() -> None:
    call = ringing()
    assert call.handle_timer(DEADLINE - 0.1) == (None, [])
    message, events = call.handle_timer(DEADLINE)
    assert isinstance(message, CallEnd)
    assert message.reason is EndReason.TIMEOUT
    assert events == [Over(Cause.NO_ANSWER)]
    assert call.handle_timer(DEADLINE + 1) == (None, [])


def test_a_device_that_does_not_answer_in_time_says_so() -> None:
    call = incoming()
    message, events = call.handle_timer(DEADLINE)
    assert isinstance(message, CallAnswer)
    assert (message.accept, message.reason) == (False, RejectReason.TIMEOUT)
    assert events == [Over(Cause.NO_ANSWER)]


def test_taking_a_call() -> None:
    call = incoming("bob", "carol")
    assert call.state is CallState.RINGING
    assert call.others == {"alice", "carol"}
    assert call.accepted() == [Joined("bob")]
    assert call.state is CallState.RUNNING
    assert call.accepted() == []
    assert call.answered("carol", accepts()) == [Joined("carol")]


def test_an_answer_of_another_before_ones_own_begins_nothing() -> None:
    call = incoming("bob", "carol")
    assert call.answered("carol", accepts()) == [Joined("carol")]
    assert call.state is CallState.RINGING


def test_declining_a_call() -> None:
    call = incoming()
    answer = call.decline(RejectReason.BUSY)
    assert (answer.accept, answer.reason) == (False, RejectReason.BUSY)
    assert answer.metadata == {"device": "bob"}
    assert call.cause is Cause.BUSY


@pytest.mark.parametrize(
    ("reason", "cause", "expected"),
    [
        (EndReason.CANCEL, "answered_elsewhere", Cause.ANSWERED_ELSEWHERE),
        (EndReason.CANCEL, "declined_elsewhere", Cause.DECLINED),
        (EndReason.TIMEOUT, "ring_timeout", Cause.NO_ANSWER),
        (EndReason.TIMEOUT, "idle", Cause.IDLE),
        (EndReason.FAILURE, "disconnect", Cause.LOST),
        (EndReason.FAILURE, "something new", Cause.FAILED),
        (EndReason.CANCEL, None, Cause.CANCELLED),
        (EndReason.TIMEOUT, None, Cause.NO_ANSWER),
    ],
)
def test_ends_that_others_announce(reason: EndReason, cause: str | None, expected: Cause) -> None:
    [event] = incoming().ended(ended(reason, cause))
    assert isinstance(event, Over)
    assert event.cause is expected
    assert event.device == (None if cause is None else "bob")


def test_who_hangs_up_tells_what_the_others_need() -> None:
    caller = ringing()
    end = caller.hang_up()
    assert isinstance(end, CallEnd)
    assert (end.reason, caller.cause) == (EndReason.CANCEL, Cause.CANCELLED)

    running = ringing()
    running.answered("bob", accepts())
    end = running.hang_up()
    assert isinstance(end, CallEnd)
    assert (end.reason, running.cause) == (EndReason.HANGUP, Cause.HUNG_UP)
    assert running.hang_up() is None

    callee = incoming()
    callee.accepted()
    assert isinstance(callee.hang_up(), CallEnd)

    unanswered = incoming()
    answer = unanswered.hang_up()
    assert isinstance(answer, CallAnswer)
    assert not answer.accept


def test_one_of_several_leaves_and_the_others_go_on() -> None:
    bob = incoming("bob", "carol")
    bob.accepted()
    bob.answered("carol", accepts())
    leaving = bob.hang_up()
    assert isinstance(leaving, CallAnswer)
    assert not leaving.accept

    alice = ringing("bob", "carol")
    alice.answered("bob", accepts())
    alice.answered("carol", accepts())
    assert alice.answered("bob", leaving) == [Out("bob", Cause.LEFT)]
    assert alice.state is CallState.RUNNING
    assert alice.answered("carol", leaving) == [Out("carol", Cause.LEFT), Over(Cause.LEFT, "carol")]


def test_the_server_does_not_know_the_call_any_more() -> None:
    call = ringing()
    call.answered("bob", accepts())
    assert call.lost() == [Over(Cause.LOST)]


STEPS: dict[str, Callable[[Call], object]] = {
    "offered": lambda call: call.offered(["carol"]),
    "bob accepts": lambda call: call.answered("bob", accepts()),
    "carol accepts": lambda call: call.answered("carol", accepts()),
    "mallory accepts": lambda call: call.answered("mallory", accepts()),
    "bob declines": lambda call: call.answered("bob", declines()),
    "alice declines": lambda call: call.answered("alice", declines()),
    "carol declines": lambda call: call.answered("carol", declines(RejectReason.BUSY)),
    "accepted": lambda call: call.accepted(),
    "ended": lambda call: call.ended(ended(EndReason.HANGUP)),
    "hang up": lambda call: call.hang_up(),
    "decline": lambda call: call.decline(RejectReason.DECLINE),
    "time": lambda call: call.handle_timer(DEADLINE),
    "lost": lambda call: call.lost(),
}


@given(is_caller=st.booleans(), steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_any_order_of_things_leaves_a_call_that_makes_sense(is_caller: bool, steps: list[str]) -> None:
    call = outgoing("bob", "carol") if is_caller else incoming("bob", "carol")
    for step in steps:
        over = call.state is CallState.OVER
        before = call.cause
        STEPS[step](call)
        assert "mallory" not in call.others
        assert (call.cause is not None) == (call.state is CallState.OVER)
        if over:
            assert (call.state, call.cause) == (CallState.OVER, before)
        if call.state is CallState.RUNNING:
            assert call.own in call.inside
            assert call.others
