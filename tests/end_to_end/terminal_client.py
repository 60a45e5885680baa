"""The terminal client of October 2025, as its observable behaviour is described; it shares no code with ours.

After the handshake it forgets the Noise keys and speaks plain frames. It never opens its HTTP/2 window, never
sends an Ack, presents the certificate it was given, and ends at any frame whose shape it does not know.
"""

import contextlib
from typing import Self

import h2.events

from end_to_end.spec_client import (
    Device,
    Endpoint,
    Frame,
    FrameType,
    Http2,
    JsonObject,
    ServerInfo,
    Session,
    SpecError,
    StreamEndedError,
    Wire,
    device_private,
    dump_json,
)

USER_AGENT = "CommuCat-CLI/0.1"
CAPABILITIES = ("noise", "zstd")
HTTP2_WINDOW = 65_535  # RFC 9113, section 6.9.2: what a stream and a connection begin with
_NEEDED = {
    FrameType.PRESENCE: "entity",
    FrameType.TYPING: "device",
    FrameType.CALL_OFFER: "call_id",
    FrameType.CALL_ANSWER: "call_id",
    FrameType.CALL_END: "call_id",
}
_OPAQUE = (FrameType.MSG, FrameType.KEY_UPDATE, FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME)


class ClosedWindowHttp2(Http2):
    """Gives the server no credit for what it has received."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.received_data = 0

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            assert event.data is not None
            self._streams[event.stream_id].body += event.data
            self._received += len(event.data)
            self.received_data += event.flow_controlled_length or 0
        else:
            super()._handle(event)

    def drop(self) -> None:
        """The machine of this client is gone: nothing more is said, in HTTP/2 or in TLS."""
        self._socket.close()


def terminal_device(name: str, unique: str, seed: bytes) -> Device:
    """Its X25519 key is made of the same 32 bytes as its Ed25519 key."""
    private = device_private(seed)
    return Device(f"{name}-{unique}", f"{name}-{unique}", private=private, noise_private=private)


class Terminal(Session):
    """One start of the program."""

    def __init__(
        self,
        endpoint: Endpoint,
        info: ServerInfo,
        device: Device,
        certificate: JsonObject | None = None,
        user_agent: str = USER_AGENT,
    ) -> None:
        self.http = ClosedWindowHttp2(endpoint)
        headers = {"user-agent": user_agent, "te": "trailers"}
        super().__init__(endpoint, info, device, Wire(endpoint, self.http, headers))
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            noise = self.say_hello("XK", CAPABILITIES, certificate=certificate)
            self.read_auth(noise)
            self.send_message_3(noise)
            self.ack = self._receive_clear(FrameType.ACK)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    @property
    def certificate(self) -> JsonObject:
        """The one that the server gave, which the program stores for its next start."""
        certificate: JsonObject = self.ack.json()["device_certificate"]
        return certificate

    def send(self, kind: FrameType, channel: int, payload: bytes) -> int:
        frame = Frame(kind, channel, self.next_sequence(), payload)
        self.wire.send_clear(frame)
        return frame.sequence

    def enter(self, channel: int) -> None:
        """Join as it does, and see the answer."""
        members = {"members": [self.device.device_id], "relay": False}
        sequence = self.send(FrameType.JOIN, channel, dump_json(members))
        assert self.next_of(FrameType.ACK).json() == {"ack": sequence}

    def say(self, channel: int, text: str) -> int:
        """Send a line of text; the answer comes among what is received."""
        return self.send(FrameType.MSG, channel, text.encode())

    def read(self) -> Frame:
        """The next frame, if the program can show it.

        Raises:
            StreamEndedError: the server has ended the session.
            SpecError: the program would have ended here.
        """
        frame = self.wire.receive_clear()
        if frame.kind is FrameType.KEY_UPDATE and frame.payload[:1] == b"{":
            raise SpecError("KeyUpdate with JSON")
        if frame.kind not in _OPAQUE:
            needed = _NEEDED.get(frame.kind)
            if needed is not None and not isinstance(frame.json().get(needed), str):
                raise SpecError(f"{frame.kind.name} without {needed}")
        return frame

    def next_of(self, kind: FrameType) -> Frame:
        """The next frame of this type; others are shown and forgotten. An Error is never skipped."""
        while (frame := self.read()).kind is not kind:
            if frame.kind is FrameType.ERROR:
                raise SpecError(f"the server answered {frame.payload!r}")
        return frame

    def heard(self) -> str:
        """The next line of text."""
        return self.next_of(FrameType.MSG).payload.decode()

    def read_to_end(self) -> list[Frame]:
        """What comes until the server ends the session, which it must do without a reset."""
        frames: list[Frame] = []
        with contextlib.suppress(StreamEndedError):
            while True:
                frames.append(self.read())
        self.wire.wait_for_end()
        return frames

    def leave_behind(self) -> None:
        """TCP ends without a word of HTTP/2."""
        self.http.drop()
