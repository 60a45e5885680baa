"""What a store tells about itself, the same on every backend."""

import pytest

from commucat_storage import Storage, Timings
from storage.storage_builders import LATER, NOW, add_devices, confirm, message, send


def test_durations_are_counted_by_range() -> None:
    timings = Timings(bounds=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        timings.note(seconds)

    assert timings.counts == [2, 1, 1]
    assert timings.cumulative() == [(0.1, 2), (1.0, 3), (float("inf"), 4)]
    assert (timings.total, timings.longest) == (pytest.approx(7.65), 7.0)


async def test_what_waits_is_counted_over_all_inboxes(storage: Storage) -> None:
    await add_devices(storage, "a", "b", "c")
    empty = await storage.queue_state(NOW)
    await send(storage, message("a", "b", payload=b"12345"), message("a", expires_at=NOW + 10))

    state = await storage.queue_state(NOW)

    assert (empty.messages, empty.size, empty.inboxes, empty.earliest_expiry) == (0, 0, 0, None)
    assert (state.messages, state.inboxes) == (3, 2)
    assert state.size >= 10
    assert state.earliest_expiry == NOW + 10
    # The inbox of which something expires earlier is left out.
    assert (await storage.queue_state(NOW + 10)).earliest_expiry == LATER
    await confirm(storage, "a", 2)
    assert (await storage.queue_state(NOW)).messages == 1


async def test_each_commit_is_timed(storage: Storage) -> None:
    await add_devices(storage, "a")
    before = sum(storage.commit_times.counts)
    await send(storage, message("a"))
    await send(storage, message("a"))

    assert sum(storage.commit_times.counts) == before + 2
    assert 0 < storage.commit_times.longest <= storage.commit_times.total
    assert storage.waiting_rows == 0


async def test_connections_are_counted(storage: Storage) -> None:
    state = storage.pool_state

    assert state.limit >= 1
    assert (state.used, state.waiting) == (0, 0)
