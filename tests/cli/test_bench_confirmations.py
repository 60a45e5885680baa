"""A load client confirms as our client does: what it has, and not too often."""

import math

from commucat_cli.bench.clients.receiver import Confirmations
from commucat_cli.client.connection import CONFIRM_INTERVAL


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


def test_the_first_goes_at_once_and_the_latest_of_the_others_when_it_may() -> None:
    clock, session = Time(), Session()
    waiting = Confirmations(clock)
    assert waiting.send_due() == math.inf
    waiting.add(session, 1)
    assert session.confirmed == [1]
    clock.now += CONFIRM_INTERVAL / 4
    waiting.add(session, 2)
    waiting.add(session, 3)
    assert math.isclose(waiting.send_due(), 0.75 * CONFIRM_INTERVAL, rel_tol=1e-6)
    assert session.confirmed == [1]
    clock.now += CONFIRM_INTERVAL
    assert waiting.send_due() == math.inf
    assert session.confirmed == [1, 3]
    clock.now += 2 * CONFIRM_INTERVAL
    waiting.add(session, 4)
    assert session.confirmed == [1, 3, 4]


def test_each_session_waits_for_itself_and_the_end_for_nobody() -> None:
    clock, early, late = Time(), Session(), Session()
    waiting = Confirmations(clock)
    waiting.add(early, 7)
    clock.now += CONFIRM_INTERVAL / 2
    waiting.add(late, 3)
    assert (early.confirmed, late.confirmed) == ([7], [3])
    # The one that waits first is not the one that may first.
    waiting.add(late, 4)
    waiting.add(early, 8)
    clock.now += 0.75 * CONFIRM_INTERVAL
    assert 0 < waiting.send_due() < CONFIRM_INTERVAL / 2
    assert (early.confirmed, late.confirmed) == ([7, 8], [3])
    waiting.add(early, 9)
    waiting.send_all()
    assert (early.confirmed, late.confirmed) == ([7, 8, 9], [3, 4])
    waiting.send_all()
    assert (early.confirmed, late.confirmed) == ([7, 8, 9], [3, 4])
