"""One live session as the rest of the server sees it: where deliveries and answers are put.

Strict number order per device with bounded memory: a committed message is handed over
directly only if everything below it has been handed over and the window has room.
Otherwise the session is *behind*, and its writer fetches rows above the cursor from the store
until it has caught up. The same rule serves a fresh connect, a resume, a slow reader and a
restart of the server.
"""

from collections.abc import Callable, Mapping
from typing import Any

from commucat_proto import FrameTemplate, FrameType, encode_frame, json_text
from commucat_server.routing.media_queue import Lost, MediaPacket, MediaQueue
from commucat_server.routing.reception import FULL, WINDOW_FRAMES, Reception
from commucat_storage import InboxPage

# Answers (Ack, Error) to what this client itself sent: beyond this its reader pauses.
ANSWERS_BYTES = 256 * 1024
# Beyond this, answers count those who refuse and do not name them: one frame of six bytes can be
# refused by hundreds of devices, and what its batch holds is not known before it is committed.
NAMES_BYTES = 1024 * 1024
# Live frames of others (typing, media, presence): beyond this they are dropped. They are worth nothing
# later, and nobody may make this client's own reading stop, or fill its memory.
NOTICES_BYTES = 256 * 1024

# Calling the enum costs five times as much.
_TYPES = {int(each): each for each in FrameType}


def _nothing() -> None:
    """For ``rest`` of a session that holds nothing, and for both when it is over."""


class LiveSession:
    """The meeting point of one connected session and everybody who has something for it.

    Every method is synchronous and must be called in the event-loop thread. ``wake`` is
    called whenever the writer has something to do, ``rest`` now and then, to give back memory
    that a silent session does not need.
    """

    __slots__ = (
        "_answers",
        "_answers_bytes",
        "_media",
        "_next_sequence",
        "_notices",
        "_notices_bytes",
        "_notices_left",
        "_offered",
        "_ready",
        "_ready_bytes",
        "_suspected",
        "_wake",
        "behind",
        "call_media",
        "claim",
        "closed",
        "cursor",
        "delivery_ack",
        "device_id",
        "displaced",
        "epoch",
        "farewell",
        "receives",
        "reception",
        "rest",
        "taken",
        "token_hash",
        "user_id",
    )

    def __init__(
        self,
        *,
        device_id: str,
        user_id: str,
        token_hash: str,
        epoch: str,
        confirmed: int,
        receives: bool,
        delivery_ack: bool,
        wake: Callable[[], None],
        next_sequence: Callable[[], int],
        rest: Callable[[], None] = _nothing,
        reception: Reception = FULL,
        claim: int = 0,
        call_media: bool = False,
    ) -> None:
        self.device_id = device_id
        self.user_id = user_id
        self.token_hash = token_hash
        self.epoch = epoch
        self.receives = receives
        self.delivery_ack = delivery_ack
        self.call_media = call_media
        """The client reads media packets of version 2, and the updates about a call's media."""
        self.cursor = confirmed
        """Highest inbox number handed to the writer."""
        self.taken = confirmed
        """Highest inbox number that the writer has begun to send; nothing above may be confirmed."""
        self.behind = receives
        """The store has, or may have, rows above the cursor that were not handed over."""
        self.farewell: Mapping[str, Any] | None = None
        """Set once the session is to end: the Error that tells the client why."""
        self.closed = False
        self.rest = rest
        self.claim = claim
        """Of several sessions of a device, on any node, the one with the highest claim receives."""
        self.displaced = False
        """A session on another node has taken over: the device is not gone."""
        self.reception = reception
        self._offered = confirmed
        self._suspected = 0
        self._wake = wake
        self._next_sequence = next_sequence
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._answers: list[bytes] = []
        self._answers_bytes = 0
        self._notices: list[bytes] = []
        self._notices_bytes = 0
        self._notices_left = reception.notices
        # Only while the device is in a call: most sessions never are.
        self._media: MediaQueue | None = None

    # -- deliveries -------------------------------------------------------------------------------

    def offer(
        self,
        number: int,
        frame_type: int,
        channel: int,
        payload: bytes,
        template: FrameTemplate | None = None,
    ) -> None:
        """A message for this device was committed under ``number``. ``template``, if given, is the same
        message, to be encoded for many."""
        if number > self._offered:
            self._offered = number
        if number <= self.cursor or self.closed or not self.receives:
            return
        if (
            self.behind
            or number != self.cursor + 1
            or len(self._ready) >= WINDOW_FRAMES
            or self._ready_bytes >= self.reception.window_bytes
        ):
            self.behind = True
        else:
            self._hand_over(number, frame_type, channel, payload, template)
        self._wake()

    def suspect(self, number: int) -> None:
        """Another node may have committed messages up to ``number``; only the store knows which."""
        if number <= self.cursor or self.closed or not self.receives:
            return
        # Hints of several nodes, and the node's own look, come in any order.
        self._suspected = max(self._suspected, number)
        if not self.behind:
            self.behind = True
            self._wake()

    def take_page(self, page: InboxPage) -> None:
        """Rows that the writer fetched above the cursor."""
        for row in page.rows:
            if row.number > self.cursor and not self._hand_over(
                row.number, row.frame_type, row.channel, row.payload
            ):
                return
        if page.complete:
            # Numbers up to head have no row any more: expired, purged or confirmed.
            self.cursor = max(self.cursor, page.head)
            # Commits that were offered while the page was read came in vain: look again.
            self.behind = self._offered > self.cursor or self._suspected > self.cursor
            # Once more at most: it may have been about an epoch that is over.
            self._suspected = 0

    def _hand_over(
        self,
        number: int,
        frame_type: int,
        channel: int,
        payload: bytes,
        template: FrameTemplate | None = None,
    ) -> bool:
        """False if the client can never take it: the message stays, and the session ends before it."""
        reception = self.reception
        if template is not None and reception.durable is None:
            encoded = template.encode(number)
        else:
            shape = _TYPES[frame_type]
            if reception.durable is not None:
                shape, payload = reception.durable(shape, payload)
            encoded = encode_frame(shape, channel, number, payload)
        if len(encoded) > reception.max_frame:
            detail = f"a message of {len(payload)} bytes waits, which this client cannot be sent"
            self.end({"error": "too_large", "title": "Message too large for this client", "detail": detail})
            return False
        self._ready.append(encoded)
        self._ready_bytes += len(encoded)
        self.cursor = number
        return True

    # -- answers ------------------------------------------------------------------------------------

    def answer(self, frame_type: FrameType, channel: int, payload: bytes) -> None:
        """Queue a frame of this connection's own counter that answers the client: an Ack, an Error."""
        if self.closed:
            return
        encoded = encode_frame(frame_type, channel, self._next_sequence(), payload)
        self._answers.append(encoded)
        self._answers_bytes += len(encoded)
        self._wake()

    def acknowledge(self, channel: int, sequence: int, extra: Mapping[str, Any] | None = None) -> None:
        """Queue the Ack of the client's frame ``sequence``, with further members."""
        # Without more, the bytes that any JSON library would write for {"ack": n}; this is the hot path.
        payload = json_text.dumps({"ack": sequence, **extra}) if extra else b'{"ack":%d}' % sequence
        self.answer(FrameType.ACK, channel, payload)

    def notice(self, frame_type: FrameType, channel: int, payload: bytes) -> bool:
        """Queue a live frame of somebody else; False if it was dropped.

        It goes out behind the deliveries that are queued already, never between them and their Acks.
        """
        if self.closed or not self.receives or self.farewell is not None:
            return False
        if self.reception.live is not None:
            shape = self.reception.live(frame_type, payload)
            if shape is None:
                return False
            frame_type, payload = shape
        if self._notices_bytes + len(payload) > NOTICES_BYTES and self._notices:
            return False
        if len(payload) > self._notices_left:
            return False
        encoded = encode_frame(frame_type, channel, self._next_sequence(), payload)
        self._notices_left -= len(encoded)
        self._notices.append(encoded)
        self._notices_bytes += len(encoded)
        self._wake()
        return True

    def media(self, packet: MediaPacket, clock: Callable[[], float], lost: Lost) -> bool:
        """Queue a packet of a call, behind everything else; False if it was dropped. It goes out with
        whatever is sent next, or with :meth:`send_media`.

        ``clock`` and ``lost`` are for the :class:`MediaQueue` that the first packet brings about.
        """
        if self.closed or not self.receives or self.farewell is not None or self.reception.live is not None:
            return False
        if self._media is None:
            self._media = MediaQueue(clock, lost)
        return self._media.put(packet)

    def send_media(self) -> None:
        """Have the media that is queued sent."""
        if self._media:
            self._wake()

    def end_media(self) -> None:
        """The device is in no call any more."""
        self._media = None

    @property
    def answers_full(self) -> bool:
        """The client does not read its answers; nothing more is read from it until it does."""
        return self._answers_bytes >= ANSWERS_BYTES

    @property
    def answers_bytes(self) -> int:
        """Bytes of answers that wait for the writer."""
        return self._answers_bytes

    # -- the writer's side ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing is to be fetched."""
        return not (self._ready or self._answers or self._notices or self._media or self.behind)

    @property
    def drained(self) -> bool:
        """Everything handed over has been taken; only the store may have more."""
        return not self._ready

    def take(self) -> list[bytes]:
        """Everything queued, as encoded frames; ``taken`` then stands behind it."""
        frames = self._answers
        frames.extend(self._ready)
        frames.extend(self._notices)
        self._answers, self._answers_bytes = [], 0
        if self._ready:
            self._ready, self._ready_bytes = [], 0
        if self._notices:
            self._notices, self._notices_bytes = [], 0
        self.taken = self.cursor
        return frames

    @property
    def has_media(self) -> bool:
        """Media of a call is queued."""
        return bool(self._media)

    @property
    def only_media(self) -> bool:
        """Media of a call is queued, and nothing else is to be sent."""
        return bool(self._media) and not (self._ready or self._answers or self._notices or self.behind)

    def take_media(self) -> list[bytes]:
        """The media that goes out now, as encoded frames; to be sent behind what :meth:`take` gave."""
        if self._media is None:
            return []
        return [template.encode(self._next_sequence()) for template in self._media.take()]

    def start_at(self, number: int) -> None:
        """Before the first delivery: the client has everything up to ``number`` already."""
        self.cursor = max(self.cursor, number)
        self.taken = self.cursor

    def know_head(self, number: int) -> None:
        """Before the first delivery: the store has nothing above ``number`` that will not be offered."""
        self.behind = self.receives and number > self.cursor

    def close(self) -> None:
        """Nothing is taken any more; lets go of the writer, which in turn holds this session."""
        self.closed = True
        self._media = None
        self._wake = self.rest = _nothing

    # -- the end ----------------------------------------------------------------------------------------

    def answer_last(self, frame_type: FrameType, value: Mapping[str, Any]) -> None:
        """The very last frame: on channel 0, behind everything that was queued."""
        self._ready.append(encode_frame(frame_type, 0, self._next_sequence(), json_text.dumps(dict(value))))

    def end(self, error: Mapping[str, Any]) -> None:
        """Ask the session to end and to tell its client ``error``. The first reason stays."""
        if self.farewell is None:
            self.farewell = error
            self._wake()
