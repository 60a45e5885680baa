"""Runs the CCP-1 test vectors for varints, frames and call messages against commucat_proto.

Each runner takes the whole vector document and one case, and raises
:class:`ConformanceFailure` when our code disagrees with the case or when the case has a
member, kind or operation that the runner does not know: no case passes unread.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, NoReturn

from commucat_cli.conformance.failure import ConformanceFailure
from commucat_proto.calls import decode_call_message
from commucat_proto.decoder import FrameDecoder
from commucat_proto.errors import CodecError, CodecErrorCode, ProtoError
from commucat_proto.frames import Frame, FrameType, decode_frame, encode_frame
from commucat_proto.varint import decode_varint, encode_varint, read_varint

Case = dict[str, Any]

_TYPES = {frame_type.wire_name: frame_type for frame_type in FrameType}


def run_varint(_: Case, case: Case) -> None:
    """``roundtrip``, ``decode_only`` and ``error`` cases of varint.json."""
    kind = _member(case, "kind")
    data = bytes.fromhex(_member(case, "hex"))
    if kind == "error":
        _require(case, "name kind hex error")
        _expect_error(case["error"], lambda: decode_varint(data))
        return
    if kind not in ("roundtrip", "decode_only"):
        _unknown("kind", kind)
    _require(case, "name kind hex value consumed")
    value, consumed = int(case["value"]), case["consumed"]
    _expect("decoded", decode_varint(data), (value, consumed))
    _expect("decoded at an offset", decode_varint(b"\xff" + data, 1), (value, consumed + 1))
    _expect("read too early", read_varint(data, 0, consumed - 1), None)
    if kind == "roundtrip":
        _expect("encoded", encode_varint(value), data)
    elif encode_varint(value) == data:
        raise ConformanceFailure("the encoder emits an overlong form")


def run_frames_good(_: Case, case: Case) -> None:
    """``roundtrip`` and ``decode_only`` cases of frames_good.json."""
    kind = _member(case, "kind")
    shape = "name kind type type_code channel_id sequence payload_kind consumed"
    shape += " payload_json payload_text" if _member(case, "payload_kind") == "control" else ""
    if kind == "roundtrip":
        frame = _given_frame(case)
        encoded = frame.encode()
        if "frame_hex" in case:
            _require(case, f"{shape} frame_hex sha256", optional="payload_hex note")
            _expect("encoded", encoded.hex(), case["frame_hex"])
        else:
            _require(case, f"{shape} payload_build sha256", optional="note")
        _expect("SHA-256 of the encoded frame", sha256(encoded).hexdigest(), case["sha256"])
        _check_decoded(case, frame, encoded)
    elif kind == "decode_only":
        _require(case, f"{shape} frame_hex reencoded_hex", optional="payload_hex note")
        frame = _given_frame(case)
        _expect("encoded again", frame.encode().hex(), case["reencoded_hex"])
        _check_decoded(case, frame, bytes.fromhex(case["frame_hex"]))
    else:
        _unknown("kind", kind)


def _given_frame(case: Case) -> Frame:
    """The frame a case describes by its fields."""
    frame_type = _frame_type(case)
    if "type_code" in case:
        _expect("type code", int(frame_type), case["type_code"])
    channel, sequence = _member(case, "channel_id"), _member(case, "sequence")
    kind = case.get("payload_kind")
    if kind == "control":
        frame = Frame.of_control(frame_type, channel, sequence, case["payload_json"])
        _expect("JSON text", frame.payload, case["payload_text"].encode())
        return frame
    if kind != "opaque":
        _unknown("payload_kind", kind)
    return Frame(frame_type, channel, sequence, _given_payload(case))


def _given_payload(case: Case) -> bytes:
    if "payload_hex" in case:
        return bytes.fromhex(case["payload_hex"])
    return _built(_member(case, "payload_build"))


def _check_decoded(case: Case, expected: Frame, data: bytes) -> None:
    """Decode the bytes at once, followed by others, and byte by byte."""
    decoder = FrameDecoder()
    streamed: list[Frame] = []
    for offset in range(len(data)):
        _expect("frames before the last byte", len(streamed), 0)
        decoder.feed(data[offset : offset + 1])
        streamed += decoder.frames()
    if len(streamed) != 1:
        raise ConformanceFailure(f"{len(streamed)} frames out of the stream, expected one")
    for frame, used in (*(decode_frame(data + tail) for tail in (b"", b"\xff")), (streamed[0], len(data))):
        _expect("consumed", used, case["consumed"])
        _expect("type", frame.type, expected.type)
        _expect("channel", frame.channel, expected.channel)
        _expect("sequence", frame.sequence, expected.sequence)
        if not expected.type.is_opaque:
            # The standard library's text tells 1 from 1.0 and 0.0 from -0.0.
            _expect("JSON value", _canonical(frame.control), _canonical(case["payload_json"]))
            frame = Frame.of_control(frame.type, frame.channel, frame.sequence, frame.control)
        _expect("payload", frame.payload, expected.payload)


def run_frames_bad(_: Case, case: Case) -> None:
    """``decode`` and ``encode`` cases of frames_bad.json."""
    operation = _member(case, "op")
    if operation == "decode":
        if "build" in case:
            _require(case, "name op error build length sha256", optional="note")
            data = _built(case["build"])
            _expect("length of the built bytes", len(data), case["length"])
            _expect("SHA-256 of the built bytes", sha256(data).hexdigest(), case["sha256"])
        else:
            _require(case, "name op error frame_hex", optional="note")
            data = bytes.fromhex(case["frame_hex"])
        _expect_error(case["error"], lambda: decode_frame(data))
        _check_stream_refuses(data, case["error"])
    elif operation == "encode":
        shape = "name op error type channel_id sequence"
        channel, sequence = _member(case, "channel_id"), _member(case, "sequence")
        frame_type = _frame_type(case)
        if "payload_json_string_of" in case:
            _require(case, f"{shape} payload_json_string_of", optional="note")
            character, count = case["payload_json_string_of"]
            frame = Frame.of_control(frame_type, channel, sequence, character * count)
            _expect_error(case["error"], frame.encode)
        else:
            source = "payload_hex" if "payload_hex" in case else "payload_build"
            _require(case, f"{shape} {source}", optional="note")
            payload = _given_payload(case)
            _expect_error(case["error"], lambda: encode_frame(frame_type, channel, sequence, payload))
    else:
        _unknown("op", operation)


def _check_stream_refuses(data: bytes, error: str) -> None:
    """A stream decoder gives the same error, but waits where only more bytes can tell."""
    decoder = FrameDecoder()
    decoder.feed(data)
    incomplete = error == CodecErrorCode.UNEXPECTED_EOF.value and not _has_announced_bytes(data)
    if incomplete:
        _expect("the stream decoder's answer", decoder.next_frame(), None)
        _expect("bytes kept", decoder.buffered, len(data))
        return
    for _ in range(2):
        _expect_error(error, decoder.next_frame)
        decoder.feed(encode_frame(FrameType.MSG, 1, 1, b""))


def _has_announced_bytes(data: bytes) -> bool:
    found = read_varint(data, 0, len(data))
    return found is not None and len(data) - found[1] >= found[0]


def run_call_messages(_: Case, case: Case) -> None:
    """Cases of call_messages.json: an input and its normalised form, or an error."""
    name = _member(case, "message")
    if "error" in case:
        _require(case, "name message input error", optional="note")
        _expect_error(case["error"], lambda: decode_call_message(name, case["input"]))
        return
    _require(case, "name message input normalised normalised_text", optional="note")
    message = decode_call_message(name, case["input"])
    _expect("normalised value", _canonical(message.to_wire()), _canonical(case["normalised"]))
    _expect("normalised text", message.encode(), case["normalised_text"].encode())
    frame, _used = decode_frame(message.to_frame(7, 1).encode())
    _expect("read back", decode_call_message(frame.type, frame.control), message)


def _reported(run: Callable[[Case, Case], None]) -> Callable[[Case, Case], None]:
    """Whatever else a case makes our code or the runner refuse is a disagreement as well."""

    def reporting(document: Case, case: Case) -> None:
        try:
            run(document, case)
        except (ProtoError, LookupError, TypeError, ValueError) as exc:
            raise ConformanceFailure(f"{type(exc).__name__}: {exc}") from exc

    return reporting


RUNNERS: Final[dict[str, Callable[[Case, Case], None]]] = {
    "varint": _reported(run_varint),
    "frames_good": _reported(run_frames_good),
    "frames_bad": _reported(run_frames_bad),
    "call_messages": _reported(run_call_messages),
}


def _member(case: Case, name: str) -> Any:
    if name not in case:
        raise ConformanceFailure(f"the case has no {name}")
    return case[name]


def _require(case: Case, required: str, optional: str = "") -> None:
    names = set(required.split())
    missing, unknown = names - case.keys(), case.keys() - names - set(optional.split())
    if missing or unknown:
        raise ConformanceFailure(f"unknown shape: lacks {sorted(missing)}, has {sorted(unknown)}")


def _unknown(what: str, value: object) -> NoReturn:
    raise ConformanceFailure(f"unknown {what} {value!r}")


def _frame_type(case: Case) -> FrameType:
    name = _member(case, "type")
    if name not in _TYPES:
        _unknown("type", name)
    return _TYPES[name]


def _built(parts: list[tuple[str, int]]) -> bytes:
    return b"".join(bytes.fromhex(text) * count for text, count in parts)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _expect(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise ConformanceFailure(f"{what}: got {_brief(actual)}, expected {_brief(expected)}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _expect_error(name: str, action: Callable[[], object]) -> None:
    try:
        outcome = action()
    except CodecError as exc:
        _expect("error", exc.code.value, name)
    else:
        raise ConformanceFailure(f"accepted as {_brief(outcome)}, expected the error {name}")
