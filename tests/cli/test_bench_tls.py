"""The benchmark's TLS against another side, and messages that are encrypted before they are due."""

import datetime
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cli.test_bench_wire import Peer
from commucat_cli.bench.http2_wire import Http2Wire
from commucat_cli.bench.load_session import LoadLostError, LoadSession
from commucat_cli.bench.tls_pipe import TlsPipe
from commucat_proto import FramesReceived, FrameType, ServerSession
from commucat_server.provision import self_signed
from proto.frame_builders import split
from proto.session_builders import established_pair

cuts = st.lists(st.integers(0, 100_000), max_size=6)


@attrs.frozen
class Contexts:
    """Of a client that trusts the server, and of the server."""

    client: ssl.SSLContext
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = self_signed(key=key, domain="chat.example.org", bind_host="127.0.0.1", now=now)
    file = Path(folder, "both.pem")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(certificate + key.private_bytes(encoding, form, serialization.NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return Contexts(ssl.create_default_context(cadata=certificate.decode()), server)


class ServerSide:
    """TLS of the standard library, between buffers."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def read(self, data: bytes) -> bytes:
        self.incoming.write(data)
        found = b""
        while True:
            try:
                found += self.tls.read()
            except ssl.SSLWantReadError:
                return found

    def write(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()


def shaken(contexts: Contexts, name: str = "chat.example.org") -> tuple[TlsPipe, ServerSide]:
    pipe, server = TlsPipe(contexts.client, name), ServerSide(contexts.server)
    done, outgoing = pipe.shake_hands()
    while not done:
        server.incoming.write(outgoing)
        # Until the client has finished.
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.do_handshake()
        for piece in split(server.outgoing.read(), [1, 100]):
            done, outgoing = pipe.shake_hands(piece)
    server.incoming.write(outgoing)
    server.tls.do_handshake()
    return pipe, server


@given(to_server=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4))
def test_records_arrive_in_the_order_in_which_they_were_made(
    contexts: Contexts, to_server: list[bytes]
) -> None:
    pipe, server = shaken(contexts)
    records = [pipe.encrypt(data) for data in to_server]
    assert server.read(b"".join(records)) == b"".join(to_server)


@given(to_client=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4), cuts=cuts)
def test_what_comes_is_read_however_it_is_split(
    contexts: Contexts, to_client: list[bytes], cuts: list[int]
) -> None:
    pipe, server = shaken(contexts)
    # With the session tickets of TLS before it.
    wire = server.outgoing.read() + b"".join(server.write(data) for data in to_client)
    assert b"".join(pipe.decrypt(piece) for piece in split(wire, cuts)) == b"".join(to_client)


def test_what_came_before_the_end_counts_and_nothing_behind_it(contexts: Contexts) -> None:
    pipe, server = shaken(contexts)
    wire = server.write(b"the last words")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    wire += server.outgoing.read()
    assert pipe.decrypt(wire + b"rubbish") == b"the last words"


def test_what_is_no_tls_is_an_error(contexts: Contexts) -> None:
    pipe, _ = shaken(contexts)
    with pytest.raises(ssl.SSLError):
        pipe.decrypt(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_somebody_else_is_refused(contexts: Contexts) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(contexts, "another.example.org")


@attrs.frozen
class Far:
    """The server's end of a load session."""

    socket: socket.socket
    tls: ServerSide
    peer: Peer
    session: ServerSession

    def payloads(self) -> list[bytes]:
        """Of the messages that have come."""
        before = len(self.peer.body)
        try:
            while data := self.socket.recv(65_536):
                self.peer.take(self.tls.read(data))
        except BlockingIOError:
            came = self.peer.body[before:]
            events = self.session.receive_data(came) if came else []
            frames = [
                frame for event in events if isinstance(event, FramesReceived) for frame in event.frames
            ]
            return [frame.payload for frame in frames]
        raise AssertionError("the client has gone")

    def ping(self) -> None:
        self.peer.h2.ping(b"are you?")
        self.socket.send(self.tls.write(self.peer.h2.data_to_send()))


@contextmanager
def load_session(contexts: Contexts) -> Iterator[tuple[LoadSession, Far]]:
    """An established one, whose server answers nothing by itself."""
    pipe, server = shaken(contexts)
    pair = established_pair()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        session = LoadSession(near, pipe, Http2Wire("/connect", "localhost"), pair.client)
        end = Far(far, server, Peer(), pair.server)
        session.flush()
        assert end.payloads() == []
        end.peer.answer()
        far.send(server.write(end.peer.h2.data_to_send()))
        assert session.receive() == []
        yield session, end


def message(session: LoadSession, text: bytes) -> bytes:
    return session.prepare(FrameType.MSG, 7, text)[1]


def test_what_is_ready_waits_until_it_is_due_and_all_else_behind_it(contexts: Contexts) -> None:
    with load_session(contexts) as (session, far):
        session.make_ready([message(session, b"first")])
        session.send([message(session, b"second")])
        far.ping()
        assert session.receive() == []
        assert far.payloads() == []

        session.send_ready()

        assert far.payloads() == [b"first", b"second"]
        assert session.came_at > 0
        session.send_ready()
        session.send([message(session, b"third")])
        assert far.payloads() == [b"third"]


def test_nothing_that_was_made_ready_is_lost_when_the_network_is_full(contexts: Contexts) -> None:
    with load_session(contexts) as (session, far):
        sent = [bytes([number]) * 20_000 for number in range(100)]
        came: list[bytes] = []
        for text in sent:
            session.make_ready([message(session, text)])
            session.send_ready()
            if len(came) < len(sent) // 2:
                came += far.payloads()
        while len(came) < len(sent):
            # Credit for the client's windows goes out with the answer to a ping.
            far.ping()
            session.receive()
            came += far.payloads()
        assert came == sent


@pytest.mark.parametrize("length", [60_000, 65_535, 100_000])
def test_a_window_that_opens_lets_nothing_go_that_is_not_due(contexts: Contexts, length: int) -> None:
    with load_session(contexts) as (session, far):
        first, second = b"1" * length, b"2" * length
        session.make_ready([message(session, first)])
        session.send_ready()
        session.make_ready([message(session, second)])
        came: list[bytes] = []
        for _ in range(10):
            came += far.payloads()
            far.ping()
            session.receive()
        assert came == [first]
        assert b"2" * 100 not in far.peer.body

        session.send_ready()

        for _ in range(10):
            came += far.payloads()
            far.ping()
            session.receive()
        assert came == [first, second]


def test_the_end_of_the_server_is_told(contexts: Contexts) -> None:
    with load_session(contexts) as (session, far):
        far.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(LoadLostError, match="closed the connection"):
            session.receive()
