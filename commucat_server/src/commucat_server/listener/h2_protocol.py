"""The protocol library's connection with our limits, in less memory. See ``h2_lazy`` for who needs it."""

import functools
from collections.abc import Callable, ItemsView, Iterator, Mapping
from types import MethodType
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.settings import ChangedSetting, SettingCodes
from h2.stream import StreamState
from h2.windows import WindowManager

from commucat_server.listener.frame_intake import JOINED_SIZE
from commucat_server.listener.h2_frames import INITIAL_WINDOW, LARGEST_FRAME, data_frame
from commucat_server.listener.h2_parts import HeadDecoder, HeadEncoder, Receivers
from commucat_server.listener.settings import ListenerSettings

_HEADER_TABLE_SIZE = 4096  # section 6.5.2

# RFC 9113, section 6.5.2, and RFC 8441, section 3: the values each setting may take, and the error else.
_RANGES: dict[int, tuple[int, int, ErrorCodes]] = {
    SettingCodes.ENABLE_PUSH: (0, 1, ErrorCodes.PROTOCOL_ERROR),
    SettingCodes.INITIAL_WINDOW_SIZE: (0, 2**31 - 1, ErrorCodes.FLOW_CONTROL_ERROR),
    SettingCodes.MAX_FRAME_SIZE: (2**14, 2**24 - 1, ErrorCodes.PROTOCOL_ERROR),
    SettingCodes.ENABLE_CONNECT_PROTOCOL: (0, 1, ErrorCodes.PROTOCOL_ERROR),
}
_ANY = (0, 2**32 - 1, ErrorCodes.PROTOCOL_ERROR)
_DEFAULTS: dict[int, tuple[int, ...]] = {
    SettingCodes.HEADER_TABLE_SIZE: (_HEADER_TABLE_SIZE,),
    SettingCodes.ENABLE_PUSH: (0,),
    SettingCodes.INITIAL_WINDOW_SIZE: (INITIAL_WINDOW,),
    SettingCodes.MAX_FRAME_SIZE: (LARGEST_FRAME,),
    SettingCodes.ENABLE_CONNECT_PROTOCOL: (0,),
}
_KNOWN = frozenset(SettingCodes)

_SENDING = (StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE)  # section 5.1

# Bytes stay bytes, and what we send is looked at where it comes from, see ``H2Stream``. One object serves all
# connections, as nothing in it changes.
_CONFIG = h2.config.H2Configuration(
    client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)


# Where the peer may send DATA.
_RECEIVING = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)


@functools.lru_cache(maxsize=64)
def _settled(values: tuple[tuple[int, tuple[int, ...]], ...]) -> Mapping[int, tuple[int, ...]]:
    """One mapping for all connections with these values; a few kinds of clients are all there are."""
    return dict(values)


class SmallSettings(h2.settings.Settings):
    """The settings of one side; per setting the value in force, then those not yet acknowledged.

    The library keeps a queue object per setting, 11 KiB per connection, and a new one for every code a peer
    makes up, 45 MiB if it names them all. Here a setting nobody knows is ignored, as RFC 9113, section 6.5.2,
    wants it. Most connections settle on the same values: these share one mapping, which is never changed.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[int, tuple[int, ...]] = _DEFAULTS) -> None:
        self._values = values

    def acknowledge(self) -> dict[SettingCodes | int, ChangedSetting]:
        """Put the next value of each setting in force; return what changed."""
        changed: dict[SettingCodes | int, ChangedSetting] = {}
        after: list[tuple[int, tuple[int, ...]]] = []
        for code, values in self._values.items():
            if len(values) > 1:
                known = SettingCodes(code)
                changed[known] = ChangedSetting(known, values[0], values[1])
            after.append((code, values[1:] or values))
        if changed:
            self._values = _settled(tuple(after))
        return changed

    def validate_received_setting(self, setting: SettingCodes | int, value: int) -> None:
        """Check a value of the peer.

        Raises:
            h2.exceptions.InvalidSettingsValueError: the value is out of range.
        """
        low, high, error = _RANGES.get(setting, _ANY)
        if not low <= value <= high:
            raise h2.exceptions.InvalidSettingsValueError(f"setting {setting} is {value}", error_code=error)

    def __getitem__(self, key: SettingCodes | int) -> int:
        return self._values[key][0]

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        self.validate_received_setting(key, value)
        if key == SettingCodes.HEADER_TABLE_SIZE:
            # How much of our answers the peer offers to remember for compression: so must we, so not more
            # than we want to.
            value = min(value, _HEADER_TABLE_SIZE)
        if key in _KNOWN:
            # What has no default is in force at once.
            self._values = {**self._values, key: (*self._values.get(key, ()), value)}

    def __delitem__(self, key: SettingCodes | int) -> None:
        self._values = {code: values for code, values in self._values.items() if code != key}

    def __iter__(self) -> Iterator[SettingCodes | int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


class OwnSettings(SmallSettings):
    """What this side announces with its opening: in force when the peer has acknowledged it."""

    __slots__ = ()

    def items(self) -> ItemsView[SettingCodes | int, int]:
        """What the library puts into the opening: of each setting the value to come.

        It has no way for that. With other values it would send them a frame later, which each peer answers
        a second time.
        """
        return {code: values[-1] for code, values in self._values.items()}.items()


@functools.lru_cache(maxsize=8)
def _announced(settings: ListenerSettings) -> Mapping[int, tuple[int, ...]]:
    ours = {
        SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_streams,
        SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window,
        SettingCodes.MAX_FRAME_SIZE: settings.max_frame_size,
        SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_size,
        SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,  # RFC 8441: WebSocket over a stream
    }
    return {**_DEFAULTS, **{code: (*_DEFAULTS.get(code, ()), value) for code, value in ours.items()}}


class ServerProtocol(h2.connection.H2Connection):
    """The server side of HTTP/2, bytes in and events out, with our limits in force."""

    # How each of the last streams was closed; the library's default remembers 65,536 of them.
    MAX_CLOSED_STREAMS = 256

    _receivers: Mapping[type[Any], Callable[..., Any]] = {}

    def __init__(self) -> None:
        super().__init__(_CONFIG)
        self.encoder, self.decoder = HeadEncoder(), HeadDecoder()
        self.local_settings = SmallSettings()
        self.remote_settings = SmallSettings()

    def open(self, settings: ListenerSettings) -> None:
        """Queue our side's opening."""
        self.local_settings = OwnSettings(_announced(settings))
        self.initiate_connection()
        if settings.connection_window > INITIAL_WINDOW:
            self.increment_flow_control_window(settings.connection_window - INITIAL_WINDOW)
        # From the first request on, not only after the peer has acknowledged our settings.
        self.decoder.max_header_list_size = settings.max_header_size

    def adopt(self, stream_id: int, inbound: WindowManager, outbound: int) -> None:
        """Use these windows for a stream, if it is still open, or for the connection (0).

        Args:
            stream_id: whose windows.
            inbound: what the peer may send.
            outbound: bytes that it takes.
        """
        if not stream_id:
            self._inbound_flow_control_window_manager = inbound
            self.outbound_flow_control_window = outbound
        elif (stream := self.streams.get(stream_id)) is not None:
            stream._inbound_window_manager = inbound
            stream.outbound_flow_control_window = outbound

    def take_data(self, stream_id: int, data: bytes) -> bool:
        """Account for a plain DATA frame of a stream, neither padded nor the last, instead of the library.

        Nearly everything that comes is such a frame, and the library would spend more on it than all the rest
        of the server. Its own windows are used, and everything that is not plain is left to it.
        ``False``: nothing was done, and ``take_frames`` must judge it, see ``data_frame``.
        """
        stream = self.streams.get(stream_id)
        size = len(data)
        if (
            stream is None
            or stream.state_machine.state not in _RECEIVING
            or self.state_machine.state is not ConnectionState.SERVER_OPEN
            or stream._expected_content_length is not None  # the library counts what comes
            or size > stream.inbound_flow_control_window
            or size > self.inbound_flow_control_window
        ):
            return False
        # There is no public way to these two. If another version of the library names them otherwise, the
        # comparison of both ways in the tests fails.
        self._inbound_flow_control_window_manager.window_consumed(size)
        stream._inbound_window_manager.window_consumed(size)
        return True

    # A private name of the library: if it has another one some day, this is not used, and nothing breaks.
    @property  # type: ignore[override]  # no dict, but all that is asked of one
    def _frame_dispatch_table(self) -> Receivers:
        return Receivers(self, self._receivers)

    @_frame_dispatch_table.setter  # type: ignore[override]  # it takes what the library sets
    def _frame_dispatch_table(self, table: Mapping[type[Any], MethodType]) -> None:
        if not ServerProtocol._receivers:
            # Functions of the class: the same for every connection.
            ServerProtocol._receivers = {kind: method.__func__ for kind, method in table.items()}

    def take_frames(self, frames: bytes) -> list[h2.events.Event]:
        """Take complete frames that ``FrameIntake`` has checked and joined.

        Raises:
            h2.exceptions.ProtocolError: the peer broke the protocol; a GOAWAY is queued.
        """
        # Joined frames may be larger than the size we announced.
        self.max_inbound_frame_size = JOINED_SIZE
        return self.receive_data(frames)

    def frame_data(self, stream_id: int, chunk: bytes) -> bytes | None:
        """A DATA frame that does not end its stream, ready to be sent behind what is queued here.

        The library's ``send_data`` makes the same bytes and the same changes in some sixty calls; this is
        done for every delivery. ``None``, and nothing has changed, if there is no room for it or the stream
        is not one to send on: ``send_data`` then tells why.
        """
        stream = self.streams.get(stream_id)
        size = len(chunk)
        if (
            stream is None
            or self.state_machine.state is not ConnectionState.SERVER_OPEN
            or stream.state_machine.state not in _SENDING
            or size > stream.outbound_flow_control_window
            or size > self.outbound_flow_control_window
            or size > self.max_outbound_frame_size
        ):
            return None
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        return data_frame(stream_id, chunk)
