"""The real server under faults: garbage, silence, slow readers, a full and a stalled disk."""

import contextlib
import os
import re
import resource
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import pytest
import trio

from commucat_cli.client import Answer, Connection
from commucat_cli.errors import CliError
from commucat_cli.transport import open_h2
from commucat_proto import FrameType, encode_varint
from end_to_end.raw_people import CHANNEL, Reach, reach, receiver, sender, take
from end_to_end.server_process import DEADLINE, ServerProcess, server_process

IMPATIENT = """
[timeouts]
handshake = 0.3
"""
SOON_STALLED = """
[server]
auto_approve_devices = true
[timeouts]
write_stall = 1.0
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path) as server:
        yield server
        assert server.stop() == 0, "the server must end in order"
        assert "Traceback" not in server.log.read_text()
        assert '"level":"error"' not in server.log.read_text() or "commit failed" in server.log.read_text()


def tls(server: ServerProcess) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
    return context.wrap_socket(raw, server_hostname="localhost")


def connect_stream(server: ServerProcess, body: bytes) -> bytes:
    """POST these bytes to /connect; everything the server answers until it ends the stream."""
    answer = b""
    with tls(server) as sock:
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        conn.initiate_connection()
        headers = [
            (":method", "POST"),
            (":path", "/connect"),
            (":scheme", "https"),
            (":authority", "localhost"),
        ]
        conn.send_headers(1, headers)
        conn.send_data(1, body)
        sock.sendall(conn.data_to_send())
        while data := sock.recv(65536):
            for event in conn.receive_data(data):
                match type(event).__name__:
                    case "DataReceived":
                        answer += event.data
                    case "StreamEnded" | "StreamReset":
                        return answer
            sock.sendall(conn.data_to_send())
    return answer


async def alive(server: ServerProcess) -> Reach:
    """The server still serves: both a REST request and a message."""
    where = await reach(server)
    async with receiver(where, "witness"):
        pass
    async with sender(where, "speaker", "witness") as speaker:
        answer = await speaker.request(FrameType.MSG, CHANNEL, b"still here")
        assert answer.error is None
        assert answer.refused == ()
    async with receiver(where, "witness") as witness:
        [(number, payload)] = await take(witness, 1)
        assert payload == b"still here"
        witness.confirm(number)
    return where


# -- garbage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        encode_varint(16 * 1024 * 1024 + 1),
        encode_varint(5) + b"\xff\x00\x00\x00\x00",
        b"\xff" * 11,
        b"GET / HTTP/1.1\r\n\r\n" * 20,
    ],
    ids=["16 MiB + 1", "unknown type", "endless varint", "text"],
)
async def test_garbage_instead_of_a_hello_is_answered_and_ends_only_that_stream(
    server: ServerProcess, body: bytes
) -> None:
    answer = await trio.to_thread.run_sync(connect_stream, server, body)

    assert b'"error":"decode"' in answer or b'"error":"handshake"' in answer
    await alive(server)


async def test_garbage_instead_of_tls_and_of_http_leaves_the_server_alone(server: ServerProcess) -> None:
    def plain() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while sock.recv(4096):
                pass

    def inside_tls() -> None:
        with tls(server) as sock:
            sock.sendall(os.urandom(2000))
            while sock.recv(4096):
                pass

    for garbage in (plain, inside_tls):
        # One of the ways in which a server may hang up.
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            await trio.to_thread.run_sync(garbage)
        await alive(server)


async def test_garbage_after_the_handshake_ends_only_that_session(server: ServerProcess) -> None:
    where = await alive(server)
    async with receiver(where, "noisy") as noisy:
        noisy._stream.send(b"\x10" + bytes(16))
        with pytest.raises(CliError, match="ended"):
            await noisy.deliveries()
    await alive(server)


async def test_client_that_stops_in_the_middle_of_the_handshake_is_dropped(tmp_path: Path) -> None:
    with server_process(tmp_path, IMPATIENT) as server:
        half_a_hello = encode_varint(5000) + b"\x01"

        answer = await trio.to_thread.run_sync(connect_stream, server, half_a_hello)

        assert b"handshake timeout" in answer
        assert server.stop() == 0


# -- slow receivers ------------------------------------------------------------------------------------


async def send_many(connection: Connection, payloads: list[bytes], window: int = 500) -> None:
    """Send with at most ``window`` unanswered; every one must be accepted."""
    waiting: set[int] = set()
    lot = trio.lowlevel.ParkingLot()

    def answered(answer: Answer) -> None:
        assert answer.error is None, answer
        assert answer.refused == ()
        waiting.discard(answer.sequence)
        lot.unpark_all()

    for payload in payloads:
        while len(waiting) >= window:
            await lot.park()
        waiting.add(connection.send_frame(FrameType.MSG, CHANNEL, payload, answered))
    while waiting:
        await lot.park()


async def test_receiver_that_stops_reading_costs_bounded_memory_and_no_message(tmp_path: Path) -> None:
    with server_process(tmp_path, SOON_STALLED) as server:
        where = await reach(server)
        payloads = [b"%06d" % n + bytes(4000) for n in range(24_000)]  # 96 MB
        async with receiver(where, "bob", "alice"):
            pass
        async with sender(where, "alice", "bob") as alice:
            before = server.rss_kib()
            async with receiver(where, "bob"):
                # Never asks for deliveries: flow control stops the server in the end.
                await send_many(alice, payloads)
                grown = server.rss_kib() - before
        async with receiver(where, "bob") as bob:
            got = await take(bob, len(payloads))
            bob.confirm(got[-1][0])

        assert [payload for _, payload in got] == payloads
        assert grown < 64 * 1024
        assert server.stop() == 0


# -- the disk --------------------------------------------------------------------------------------------


async def test_full_disk_is_told_with_retry_and_nothing_acknowledged_is_lost(server: ServerProcess) -> None:
    """The kernel refuses to let the server's files grow, as a full disk would."""
    where = await reach(server)
    async with receiver(where, "bob"):
        pass
    accepted: list[bytes] = []
    refused = 0
    async with sender(where, "alice", "bob") as alice:
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        log_file = server.database.with_name("commucat.db-wal")
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (log_file.stat().st_size + 100_000, hard))
        for number in range(40):
            payload = b"%d" % number + bytes(20_000)
            answer = await alice.request(FrameType.MSG, CHANNEL, payload)
            if answer.error is None:
                accepted.append(payload)
            else:
                assert answer.error == "storage"
                assert answer.retry
                refused += 1
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert refused > 0
        assert accepted
        answer = await alice.request(FrameType.MSG, CHANNEL, b"after")
        assert answer.error is None
        accepted.append(b"after")
    server.kill()
    server.start()
    where = await reach(server)
    async with receiver(where, "bob") as bob:
        got = await take(bob, len(accepted))
        bob.confirm(got[-1][0])

    assert [payload for _, payload in got] == accepted


async def test_stalled_disk_makes_senders_wait_and_nothing_else(server: ServerProcess) -> None:
    where = await reach(server)
    async with receiver(where, "bob"):
        pass
    async with sender(where, "alice", "bob") as alice:
        lock = sqlite3.connect(server.database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        answers: list[Answer] = []
        for number in range(100):
            alice.send_frame(FrameType.MSG, CHANNEL, b"%d" % number, answers.append)
        async with open_h2(where.address, where.trust) as client:
            assert (await client.get("/healthz", [])).status == 200
        assert answers == []
        lock.execute("ROLLBACK")
        lock.close()
        last = await alice.request(FrameType.MSG, CHANNEL, b"100")

        assert last.error is None
        assert [answer.error for answer in answers] == [None] * 100
    async with receiver(where, "bob") as bob:
        got = await take(bob, 101)
        bob.confirm(got[-1][0])
        assert [payload for _, payload in got] == [b"%d" % n for n in range(101)]


async def test_every_acknowledgement_stands_behind_a_disk_sync(tmp_path: Path) -> None:
    """SIGKILL does not prove the disk, the system calls do: a sync between each message and its Ack."""
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,recvfrom,sendto"
    with server_process(
        tmp_path, prefix=("strace", "-f", "-qq", "-s", "8", "-e", calls, "-o", str(trace))
    ) as server:
        where = await reach(server)
        async with receiver(where, "bob"):
            pass
        count = 20
        async with sender(where, "alice", "bob") as alice:
            for number in range(count):
                # A size of its own, to be found again among the system calls.
                answer = await alice.request(FrameType.MSG, CHANNEL, bytes(3000 + number))
                assert answer.error is None
        assert server.stop() == 0
    events = ""
    for line in trace.read_text().splitlines():
        if "sendto(" in line and r"\27\3\3" in line:  # a TLS record of data
            events += "S"  # It begins here; its end may be told in a line of its own.
            continue
        result = re.search(r"= (\d+)$", line)
        if result is None:
            continue
        if "fsync" in line or "fdatasync" in line:
            events += "F"
        elif "recvfrom" in line and 3000 < int(result[1]) < 3300:
            events += "R"
    # Each message is read, the disk is synced, and only then something is sent.
    assert events.count("R") == count, events
    assert len(re.findall(r"RF+S", events)) == count, events
