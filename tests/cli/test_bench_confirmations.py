"""A load client confirms as our client does: what it has, a moment later."""

import math

from commucat_cli.bench.clients.receiver import Confirmations
from commucat_cli.client.connection import CONFIRM_WITHIN


class Session:
    """Writes down what is confirmed."""

    def __init__(self) -> None:
        self.confirmed: list[int] = []

    def confirm(self, number: int) -> None:
        self.confirmed.append(number)


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_latest_number_is_confirmed_when_the_first_has_waited_long_enough() -> None:
    clock, session = Time(), Session()
    waiting = Confirmations(clock)
    assert waiting.send_due() == math.inf
    waiting.add(session, 1)
    clock.now += CONFIRM_WITHIN / 2
    waiting.add(session, 2)
    assert math.isclose(waiting.send_due(), CONFIRM_WITHIN / 2, rel_tol=1e-6)
    assert session.confirmed == []
    clock.now += CONFIRM_WITHIN
    assert waiting.send_due() == math.inf
    assert session.confirmed == [2]


def test_each_session_waits_for_itself_and_the_end_for_nobody() -> None:
    clock, early, late = Time(), Session(), Session()
    waiting = Confirmations(clock)
    waiting.add(early, 7)
    clock.now += CONFIRM_WITHIN / 2
    waiting.add(late, 3)
    waiting.add(early, 8)
    clock.now += 0.75 * CONFIRM_WITHIN
    assert 0 < waiting.send_due() < CONFIRM_WITHIN / 2
    assert (early.confirmed, late.confirmed) == ([8], [])
    waiting.add(early, 9)
    waiting.send_all()
    assert (early.confirmed, late.confirmed) == ([8, 9], [3])
    waiting.send_all()
    assert (early.confirmed, late.confirmed) == ([8, 9], [3])
