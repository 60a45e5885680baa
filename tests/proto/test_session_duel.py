"""A client and a server session against each other, driven at random: in order, out of order, cut, broken."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commucat_crypto import NoisePattern
from commucat_proto import (
    AuthReceived,
    ClientSession,
    Frame,
    FramesReceived,
    HandshakeDetail,
    HandshakeFailed,
    LocalProtocolError,
    PeerClosed,
    Refused,
    ServerSession,
    SessionFailed,
    encode_frame,
)
from commucat_proto.client_session import ClientState
from commucat_proto.hello import MAX_HELLO_LEN
from commucat_proto.server_session import ServerState
from proto.frame_builders import frames
from proto.session_builders import new_client, new_server, send_auth

LAST_EVENTS = (HandshakeFailed, SessionFailed, PeerClosed, Refused)

S, C = ServerState, ClientState
SERVER_TABLE: dict[str, dict[ServerState, set[ServerState]]] = {
    # What may follow a call that was allowed; a state that is missing forbids the call.
    "receive": {
        S.AWAITING_HELLO: {S.AWAITING_HELLO, S.HELLO_READ, S.CLOSED},
        S.HELLO_READ: {S.HELLO_READ, S.CLOSED},
        S.AWAITING_PROOF: {S.AWAITING_PROOF, S.PROVED, S.CLOSED},
        S.PROVED: {S.PROVED, S.CLOSED},
        S.ESTABLISHED: {S.ESTABLISHED, S.CLOSED},
    },
    "auth": {S.HELLO_READ: {S.AWAITING_PROOF}},
    "establish": {S.PROVED: {S.ESTABLISHED}},
    "refuse": {state: {S.CLOSED} for state in (S.AWAITING_HELLO, S.HELLO_READ, S.AWAITING_PROOF, S.PROVED)},
    "pending": {
        S.AWAITING_HELLO: {S.AWAITING_HELLO},
        S.HELLO_READ: {S.HELLO_READ, S.CLOSED},
        S.AWAITING_PROOF: {S.AWAITING_PROOF, S.PROVED, S.CLOSED},
        S.PROVED: {S.PROVED, S.CLOSED},
        S.ESTABLISHED: {S.ESTABLISHED, S.CLOSED},
        S.CLOSED: {S.CLOSED},
    },
}
CLIENT_TABLE: dict[str, dict[ClientState, set[ClientState]]] = {
    "start": {C.NEW: {C.AWAITING_AUTH}},
    "receive": {
        C.AWAITING_AUTH: {C.AWAITING_AUTH, C.AWAITING_ACK, C.CLOSED, C.ESTABLISHED},
        C.AWAITING_ACK: {C.AWAITING_ACK, C.ESTABLISHED, C.CLOSED},
        C.ESTABLISHED: {C.ESTABLISHED, C.CLOSED},
    },
    "seal": {C.ESTABLISHED: {C.ESTABLISHED}},
}


@attrs.define
class Duel:
    """Both machines, the bytes on their way, and what was sent and received."""

    client: ClientSession
    server: ServerSession
    up: bytearray = attrs.Factory(bytearray)
    down: bytearray = attrs.Factory(bytearray)
    sent_up: list[Frame] = attrs.Factory(list)
    sent_down: list[Frame] = attrs.Factory(list)
    got_up: list[Frame] = attrs.Factory(list)
    got_down: list[Frame] = attrs.Factory(list)
    broken: bool = False
    """Bytes were changed on their way."""
    was_established: bool = False

    def _call(self, machine: Any, table: Any, name: str, function: Callable[[], Any]) -> Any:
        """Call, and compare the state before and after with the table; None for what it forbids."""
        before = machine.state
        allowed = table[name].get(before)
        if allowed is None:
            with pytest.raises(LocalProtocolError):
                function()
            assert machine.state is before
            return None
        result = function()
        assert machine.state in allowed, f"{name}: {before} -> {machine.state}"
        return result

    def at_server(self, name: str, function: Callable[[], Any]) -> Any:
        return self._call(self.server, SERVER_TABLE, name, function)

    def at_client(self, name: str, function: Callable[[], Any]) -> Any:
        return self._call(self.client, CLIENT_TABLE, name, function)

    # -- steps

    def start(self) -> None:
        self.up += self.at_client("start", self.client.start) or b""

    def auth(self) -> None:
        self.down += self.at_server("auth", lambda: send_auth(self.server)) or b""
        self.pending()

    def establish(self) -> None:
        self.down += self.at_server("establish", lambda: self.server.establish({})) or b""
        self.was_established = self.was_established or self.server.state is S.ESTABLISHED
        self.pending()

    def refuse(self) -> None:
        self.down += self.at_server("refuse", lambda: self.server.refuse(HandshakeDetail.STORAGE)) or b""

    def pending(self) -> None:
        self._server_events(self.at_server("pending", self.server.pending_events))

    def deliver_up(self, count: int) -> None:
        if data := bytes(self.up[:count]):
            del self.up[:count]
            self._server_events(self.at_server("receive", lambda: self.server.receive_data(data)))

    def deliver_down(self, count: int) -> None:
        if data := bytes(self.down[:count]):
            del self.down[:count]
            self._client_events(self.at_client("receive", lambda: self.client.receive_data(data)))

    def end_up(self) -> None:
        events = self.at_server("receive", lambda: self.server.receive_data(b""))
        assert events in (None, [PeerClosed()])

    def end_down(self) -> None:
        events = self.at_client("receive", lambda: self.client.receive_data(b""))
        assert events in (None, [PeerClosed()])

    def send_up(self, sent: list[Frame]) -> None:
        encoded = [encode_frame(f.type, f.channel, f.sequence, f.payload) for f in sent]
        data = self.at_client("seal", lambda: self.client.seal(encoded))
        if data is not None:
            self.up += data
            self.sent_up += sent

    def send_down(self, sent: list[Frame]) -> None:
        encoded = [encode_frame(f.type, f.channel, f.sequence, f.payload) for f in sent]
        if self.was_established:
            self.down += self.server.seal(encoded)
            self.sent_down += sent
        elif self.server.state not in (S.PROVED, S.AWAITING_PROOF, S.CLOSED):
            with pytest.raises(LocalProtocolError):
                self.server.seal(encoded)

    def damage(self, place: int, bit: int, *, up: bool) -> None:
        pipe = self.up if up else self.down
        if pipe:
            pipe[place % len(pipe)] ^= 1 << bit
            self.broken = True

    def insert(self, place: int, data: bytes, *, up: bool) -> None:
        pipe = self.up if up else self.down
        place %= len(pipe) + 1
        pipe[place:place] = data
        self.broken = self.broken or bool(data)

    # -- events

    def _server_events(self, events: list[Any] | None) -> None:
        for event in events or []:
            if isinstance(event, FramesReceived):
                assert event.frames
                self.got_up += event.frames
            elif isinstance(event, HandshakeFailed):
                self.down += event.reply
        self._check_order(events or [], self.server.state is S.CLOSED)

    def _client_events(self, events: list[Any] | None) -> None:
        for event in events or []:
            if isinstance(event, AuthReceived):
                self.up += event.reply
            elif isinstance(event, FramesReceived):
                assert event.frames
                self.got_down += event.frames
        self._check_order(events or [], self.client.state is C.CLOSED)

    def _check_order(self, events: list[Any], closed: bool) -> None:
        assert not any(isinstance(event, LAST_EVENTS) for event in events[:-1])
        assert closed or not (events and isinstance(events[-1], LAST_EVENTS))
        assert self.got_up == self.sent_up[: len(self.got_up)]
        assert self.got_down == self.sent_down[: len(self.got_down)]

    def finish(self) -> None:
        """Let an unbroken pair come to the end of what it began; then nothing may be missing."""
        for _ in range(6):
            self.deliver_up(10**9)
            if self.server.state is S.HELLO_READ:
                self.auth()
            if self.server.state is S.PROVED:
                self.establish()
            self.deliver_down(10**9)


def step_of(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> Any:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


counts = st.integers(1, 400) | st.just(10**9)
some_frames = st.lists(frames, min_size=1, max_size=4)
fair_steps = st.one_of(
    step_of("start"),
    step_of("auth"),
    step_of("establish"),
    step_of("pending"),
    step_of("deliver_up", counts),
    step_of("deliver_up", counts),
    step_of("deliver_down", counts),
    step_of("deliver_down", counts),
    step_of("send_up", some_frames),
    step_of("send_down", some_frames),
    step_of("finish"),
)
ending_steps = st.one_of(step_of("refuse"), step_of("end_up"), step_of("end_down"))
foul_steps = st.one_of(
    step_of("damage", st.integers(0, 2**16), st.integers(0, 7), up=st.booleans()),
    step_of("insert", st.integers(0, 2**16), st.binary(max_size=80), up=st.booleans()),
)


def play(pattern: NoisePattern, script: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> Duel:
    duel = Duel(new_client(pattern=pattern), new_server())
    duel.start()
    for name, arguments, named in script:
        getattr(duel, name)(*arguments, **named)
    return duel


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
@settings(max_examples=60)
@given(script=st.lists(fair_steps, max_size=25))
def test_whatever_the_order_of_legal_steps_every_frame_arrives(pattern: NoisePattern, script: Any) -> None:
    duel = play(pattern, script)

    duel.finish()

    assert (duel.client.state, duel.server.state) == (C.ESTABLISHED, S.ESTABLISHED)
    assert duel.got_up == duel.sent_up
    assert duel.got_down == duel.sent_down
    assert (duel.up, duel.down) == (b"", b"")


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
@settings(max_examples=100)
@given(script=st.lists(fair_steps | fair_steps | ending_steps | foul_steps, max_size=25))
def test_whatever_happens_frames_are_a_prefix_and_the_table_is_kept(
    pattern: NoisePattern, script: Any
) -> None:
    duel = play(pattern, script)

    duel.finish()

    for machine, closed in ((duel.server, S.CLOSED), (duel.client, C.CLOSED)):
        if machine.state is closed:
            for data in (b"", b"x"):
                with pytest.raises(LocalProtocolError):
                    machine.receive_data(data)
            assert machine.state is closed


def test_nothing_comes_of_a_session_that_failed_while_its_caller_decided() -> None:
    server = new_server()
    server.receive_data(new_client().start())
    [failed] = server.receive_data(bytes(MAX_HELLO_LEN + 1))

    assert isinstance(failed, HandshakeFailed)
    assert server.pending_events() == []
