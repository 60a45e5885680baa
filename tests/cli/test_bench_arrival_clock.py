"""When bytes came is known to a benchmark's client however late it looks."""

import select
import socket
import time
from collections.abc import Iterator

import pytest

from commucat_cli.bench.arrival_clock import monotonic_time, note_arrivals, receive

LATE = 0.01
"""Seconds after which a client looks."""
ALIKE = 0.0005
"""Seconds by which the kernel's two clocks may seem apart."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of a TCP connection: the one that notes, and the other."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        note_arrivals(near)
        far, _ = server.accept()
        with far:
            yield near, far


def spend(seconds: float) -> None:
    """What a client does that has others to read first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100))


def test_bytes_came_when_they_were_there_not_when_they_were_read(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    sent = time.monotonic()
    far.sendall(b"hello")
    select.select([near], [], [])
    there = time.monotonic()
    spend(LATE)
    data, came = receive(near, 100)
    assert data == b"hello"
    assert sent - ALIKE <= came <= there + ALIKE


def test_of_bytes_that_came_one_after_the_other_the_last_counts(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    far.sendall(b"hello ")
    spend(LATE)
    last = time.monotonic()
    far.sendall(b"world")
    data, came = receive(near, 100)
    assert data == b"hello world"
    assert came >= last - ALIKE


def test_without_the_kernels_note_it_is_when_they_were_read() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"hello")
        before = time.monotonic()
        data, came = receive(near, 100)
        assert data == b"hello"
        assert before <= came <= time.monotonic()


def test_no_moment_is_after_now() -> None:
    # As after the wall clock was set back.
    assert monotonic_time(time.time_ns() + 10**12) <= time.monotonic()


def test_the_end_and_nothing_yet_are_told_as_by_every_socket(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    near.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(near, 100)
    far.shutdown(socket.SHUT_WR)
    select.select([near], [], [])
    assert receive(near, 100)[0] == b""
