"""Token buckets per address, in a bounded table."""

import pytest

from commucat_server.security import rate
from commucat_server.security.rate import RateLimit, identity_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_burst_then_refill() -> None:
    clock = Clock()
    limit = RateLimit(burst=2, period=1.0, clock=clock)

    assert [limit.take("a"), limit.take("a")] == [0.0, 0.0]
    assert limit.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limit.take("a") == 0.0
    assert limit.take("b") == 0.0


def test_refusals_do_not_cost_anything() -> None:
    clock = Clock()
    limit = RateLimit(burst=1, period=1.0, clock=clock)
    limit.take("a")
    for _ in range(10):
        assert limit.take("a") > 0.0
    clock.now += 1.0

    assert limit.take("a") == 0.0


def test_what_succeeded_is_given_back() -> None:
    limit = RateLimit(burst=1, period=1.0, clock=Clock())
    for _ in range(10):
        assert limit.take("a") == 0.0
        limit.give_back("a")
    limit.give_back("nobody")
    assert len(limit) == 1


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_IDENTITIES", 10)
    limit = RateLimit(burst=1, period=1.0, clock=Clock())
    for number in range(50):
        limit.take(str(number))

    assert len(limit) == 10


@pytest.mark.parametrize(
    ("host", "identity"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_identity_is_the_subscriber_not_the_connection(host: str, identity: str) -> None:
    assert identity_of(host) == identity


def test_who_finds_the_bucket_empty_waits_for_the_penalty() -> None:
    clock = Clock()
    limit = RateLimit(burst=2, period=1.0, penalty=10.0, clock=clock)
    assert [limit.take("a"), limit.take("a")] == [0.0, 0.0]

    assert limit.take("a") == 10.0
    clock.now += 4.0
    assert limit.take("a") == pytest.approx(6.0)
    assert limit.take("b") == 0.0
    clock.now += 6.0
    assert [limit.take("a"), limit.take("a")] == [0.0, 0.0]
    assert limit.take("a") == 10.0


def test_new_numbers_hold_for_those_that_are_known_and_shorten_penalties() -> None:
    clock = Clock()
    limit = RateLimit(burst=1, period=1000.0, penalty=500.0, clock=clock)
    limit.take("a")
    limit.take("a")

    limit.configure(burst=5, period=1.0, penalty=0.0)

    clock.now += 1.0
    assert [limit.take("a") for _ in range(6)].count(0.0) == 5


def test_a_penalty_elsewhere_holds_here() -> None:
    clock = Clock()
    limit = RateLimit(burst=1, period=1.0, penalty=10.0, clock=clock)
    limit.block("a", 3.0)

    assert limit.take("a") == 3.0
    clock.now += 3.0
    assert limit.take("a") == 0.0
