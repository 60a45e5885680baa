"""One real session over a plain socket: TLS, HTTP/2, Noise, no event loop.

The handshake blocks; from then on nothing does, except where a method says so. What is sent and
received is what every client sends and receives: the session machine is the same.
"""

import secrets
import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs

from commucat_cli.bench import arrival_clock
from commucat_cli.bench.http2_wire import Http2Wire, WireError
from commucat_cli.bench.tls_pipe import TlsPipe
from commucat_cli.client.answers import Answer, handshake_refusal, read_acknowledgement, read_refusal
from commucat_cli.errors import CliError
from commucat_cli.transport import ServerAddress
from commucat_crypto import StaticKeyPair
from commucat_proto import (
    AuthReceived,
    ClientEvent,
    ClientParameters,
    ClientSession,
    Established,
    Frame,
    FramesReceived,
    FrameType,
    HandshakeFailed,
    PeerClosed,
    Refused,
    SessionFailed,
    json_text,
)

_READ_LEN = 65_536
CLOSE_TIMEOUT = 2.0
"""Seconds until the server has taken everything and ended its side."""


class LoadLostError(CliError):
    """The session is over before its time."""


@attrs.frozen(kw_only=True)
class LoadTarget:
    """The server under load, as its clients see it."""

    address: ServerAddress
    context: ssl.SSLContext = attrs.field(repr=False)
    domain: str
    noise_public: bytes
    patience: float
    """Seconds for each step of a handshake."""


class LoadSession:
    """An established session. Made by :meth:`open`."""

    def __init__(
        self, connected: socket.socket, tls: TlsPipe, wire: Http2Wire, session: ClientSession
    ) -> None:
        self._socket = connected
        self._tls = tls
        self._wire = wire
        self._session = session
        self._unsent = b""
        self._ready = b""
        self._later: list[bytes] = []
        self._early: list[Frame] = []
        self._failure: LoadLostError | None = None
        self.came_at = 0.0
        """When bytes came last, by the monotonic clock: to the socket, before this client was woken."""
        self._empty_at = 0.0
        """When everything had been read: no later bytes came before, whatever the wall clock was set to."""

    @classmethod
    def open(cls, target: LoadTarget, parameters: ClientParameters) -> Self:
        """Connect and lead the handshake to its end; waits.

        Raises:
            CliError: what went wrong.
        """
        address = target.address
        try:
            plain = socket.create_connection((address.host, address.port), target.patience)
        except OSError as exc:
            raise LoadLostError(f"cannot connect to {address.authority}: {_words(exc)}") from exc
        ephemeral, randomness = StaticKeyPair.generate(), secrets.token_bytes(64)
        machine = ClientSession(parameters, ephemeral=ephemeral, proof_randomness=randomness)
        session = cls(
            plain,
            TlsPipe(target.context, address.host),
            Http2Wire("/connect", address.authority),
            machine,
        )
        try:
            # Without it small records wait for the peer's delayed acknowledgement.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            arrival_clock.note_arrivals(plain)
            session._begin_tls(address)
            session._establish()
        except (OSError, WireError) as exc:
            plain.close()
            raise LoadLostError(f"the handshake with {address.authority} failed: {_words(exc)}") from exc
        except CliError:
            plain.close()
            raise
        plain.setblocking(False)
        return session

    def _begin_tls(self, address: ServerAddress) -> None:
        try:
            done, outgoing = self._tls.shake_hands()
            while not done:
                self._socket.sendall(outgoing)
                data = self._socket.recv(_READ_LEN)
                if not data:
                    raise LoadLostError(f"no TLS with {address.authority}: it closed the connection")
                done, outgoing = self._tls.shake_hands(data)
            self._socket.sendall(outgoing)
        except OSError as exc:
            raise LoadLostError(f"no TLS with {address.authority}: {_words(exc)}") from exc

    def _establish(self) -> None:
        self._wire.send(self._session.start())
        while True:
            if data := self._wire.take_outgoing():
                self._socket.sendall(self._tls.encrypt(data))
            data = self._socket.recv(_READ_LEN)
            if not data:
                raise LoadLostError("the server closed the connection during the handshake")
            body = self._wire.receive(self._tls.decrypt(data))
            if not body:
                if self._wire.ended:
                    raise LoadLostError("the server ended the handshake")
                continue
            events = self._session.receive_data(body)
            for index, event in enumerate(events):
                match event:
                    case AuthReceived(reply):
                        self._wire.send(reply)
                    case Refused(error):
                        raise handshake_refusal(error, with_code=False)
                    case HandshakeFailed(_, reason):
                        raise LoadLostError(f"the handshake failed: {reason}")
                    case Established():
                        self._early = self._frames(events[index + 1 :])
                        return

    # -- sending ----------------------------------------------------------------------------------

    def prepare(self, frame_type: FrameType, channel: int, payload: bytes) -> tuple[int, bytes]:
        """A frame under the next sequence, for :meth:`send`: (sequence, bytes)."""
        return self._session.frame(frame_type, channel, payload)

    def send(self, encoded: Sequence[bytes]) -> None:
        """Encrypt prepared frames together and pass on what the network takes; :meth:`flush` the rest.

        Raises:
            LoadLostError: the session is over.
        """
        self._wire.send(self._session.seal(encoded))
        self.flush()

    def make_ready(self, encoded: Sequence[bytes]) -> None:
        """Encrypt prepared frames as far as can be, for :meth:`send_ready`; all else waits behind them."""
        if self._later or not self._wire.open:
            # Behind a window that is shut they would go when it opens: before they are due.
            self._later += encoded
            return
        self._wire.send(self._session.seal(encoded))
        if data := self._wire.take_outgoing():
            self._ready += self._tls.encrypt(data)

    def send_ready(self) -> None:
        """Pass on what was made ready, as :meth:`send` does.

        Raises:
            LoadLostError: the session is over.
        """
        self._unsent, self._ready = self._unsent + self._ready, b""
        later, self._later = self._later, []
        if later:
            self._wire.send(self._session.seal(later))
        self.flush()

    def confirm(self, number: int) -> None:
        """Tell the server that everything up to inbox number ``number`` is safe here."""
        self.send([self._session.control_frame(FrameType.ACK, 0, {"ack": number})[1]])

    def flush(self) -> None:
        """Pass on what waits.

        Raises:
            LoadLostError: the session is over.
        """
        try:
            while data := self._unsent or self._encrypt_next():
                self._unsent = data
                self._unsent = data[self._socket.send(data) :]
        except BlockingIOError:
            return
        except OSError as exc:
            raise LoadLostError(f"the connection was lost: {_words(exc)}") from exc

    def _encrypt_next(self) -> bytes:
        if self._ready or not (data := self._wire.take_outgoing()):
            return b""
        return self._tls.encrypt(data)

    def request(
        self, frame_type: FrameType, channel: int, value: Mapping[str, Any], patience: float
    ) -> Answer:
        """Send a control frame and wait for its answer; other frames that come meanwhile are kept.

        Raises:
            LoadLostError: the session is over, or no answer came within ``patience`` seconds.
        """
        sequence, encoded = self.prepare(frame_type, channel, json_text.dumps(dict(value)))
        self.send([encoded])
        others: list[Frame] = []
        end = time.monotonic() + patience
        found: Answer | None = None
        while found is None and (left := end - time.monotonic()) > 0:
            for frame in self.wait(left):
                answer = answer_in(frame)
                if answer is not None and answer.sequence == sequence:
                    found = answer
                else:
                    others.append(frame)
        self._early = others
        if found is not None:
            return found
        raise LoadLostError(f"the server does not answer {frame_type.wire_name} within {patience:g} s")

    # -- receiving --------------------------------------------------------------------------------

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def receive(self) -> list[Frame]:
        """What has come, perhaps nothing. Never waits.

        Raises:
            LoadLostError: the session is over.
        """
        frames, self._early = self._early, []
        try:
            if self._failure is None:
                self._read_into(frames)
        except LoadLostError as exc:
            self._failure = exc
        except (OSError, WireError) as exc:
            self._failure = LoadLostError(f"the connection was lost: {_words(exc)}")
        # What came before the end counts; the end is told at the next call.
        if self._failure is not None and not frames:
            raise self._failure
        return frames

    def _read_into(self, frames: list[Frame]) -> None:
        try:
            while True:
                looked = time.monotonic()
                data, came = arrival_clock.receive(self._socket, _READ_LEN)
                if not data:
                    raise LoadLostError("the server closed the connection")
                self.came_at = max(came, self._empty_at)
                if body := self._wire.receive(self._tls.decrypt(data)):
                    frames += self._frames(self._session.receive_data(body))
                if self._wire.ended:
                    raise LoadLostError("the server ended the session")
                # A short read mostly was the last one; if not, the selector tells again.
                if len(data) < _READ_LEN:
                    self._empty_at = looked
                    break
        except BlockingIOError:
            self._empty_at = looked
        self.flush()

    def wait(self, seconds: float) -> list[Frame]:
        """What comes within ``seconds``: as soon as there is something to read, or nothing.

        ``select`` and not ``epoll``: its clock is a thousand times finer. A load process has few sessions
        where it matters.
        """
        if self._early:
            return self.receive()
        writers = [self] if self._unsent else []
        if max(self.fileno(), 0) < _SELECT_LIMIT:
            readable, writable, _ = select.select([self], writers, [], max(seconds, 0.0))
        else:
            poller = select.poll()
            poller.register(self, select.POLLIN | (select.POLLOUT if writers else 0))
            readable = writable = [self] if poller.poll(max(seconds, 0.0) * 1000) else []
        if writable:
            self.flush()
        return self.receive() if readable else []

    def _frames(self, events: Sequence[ClientEvent]) -> list[Frame]:
        frames: list[Frame] = []
        for event in events:
            match event:
                case FramesReceived(received):
                    frames += received
                case PeerClosed():
                    raise LoadLostError("the server ended the session")
                case SessionFailed(_, reason):
                    raise LoadLostError(f"the server's data cannot be read: {reason}")
        return frames

    # -- the end ----------------------------------------------------------------------------------

    def close(self, *, orderly: bool = True) -> None:
        """End the session: by its rules (waits ``CLOSE_TIMEOUT`` at most), or as a dead device does."""
        if orderly:
            try:
                self._wire.end()
                self.send_ready()
                end = time.monotonic() + CLOSE_TIMEOUT
                while not self._wire.ended and (left := end - time.monotonic()) > 0:
                    self.wait(left)
            except LoadLostError:
                pass  # which is what was wanted
        self._socket.close()


_SELECT_LIMIT = 1024  # FD_SETSIZE


def answer_in(frame: Frame) -> Answer | None:
    """The server's answer to a frame of ours, if it is one."""
    if frame.type is FrameType.ACK:
        return read_acknowledgement(frame.control) if isinstance(frame.control, Mapping) else None
    if frame.type is FrameType.ERROR:
        return read_refusal(frame.control) if isinstance(frame.control, Mapping) else None
    return None


def _words(exc: Exception) -> str:
    """An error of the system or of TLS, in words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate: {exc.verify_message}"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(getattr(exc, "strerror", None) or exc).lower()
