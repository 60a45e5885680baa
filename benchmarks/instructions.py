"""How many bytecodes of Python the codec and the session machines execute: the same on every machine.

Time on a shared machine says little about a change of a few per cent; this count says it exactly, as far
as the work is Python's and not a C library's. ``instructions.json`` has the counts that were recorded,
for each version of Python; the command fails when one has grown by more than the tolerance.
"""

import argparse
import gc
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType as StackFrame
from typing import Any

from commucat_crypto import DeviceKeyPair, StaticKeyPair
from commucat_proto import (
    AuthReceived,
    ClientParameters,
    ClientProved,
    ClientSession,
    FrameDecoder,
    FramesReceived,
    FrameType,
    HelloReceived,
    ServerKey,
    ServerParameters,
    ServerSession,
    encode_frame,
)

BASELINE = Path(__file__).with_suffix(".json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = 0.05
"""Part by which a count may grow: patch releases of Python change their own library a little."""
FRAMES = 64
"""Frames of one wake-up under load."""
PAYLOAD = bytes(256)

Work = Callable[[], object]


def count_bytecodes(work: Work) -> int:
    """Bytecodes that ``work`` executes, those of libraries written in Python included."""
    count = 0

    def trace(frame: StackFrame, event: str, _argument: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        elif event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return trace

    gc.collect()
    gc.disable()  # a collection in between would count its finalizers
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
        gc.enable()
    return count


def key(number: int) -> StaticKeyPair:
    """Always the same pair."""
    return StaticKeyPair.from_private(bytes(range(number, number + 32)))


def new_pair() -> tuple[ClientSession, ServerSession]:
    """Both sides of a session, with nothing random in them."""
    parameters = ClientParameters(
        domain="example.org",
        server_static=key(0).public,
        device_id="device-1",
        device_keys=DeviceKeyPair.from_seed(b"s" * 32),
        static=key(1),
        capabilities=("delivery-ack",),
    )
    server = ServerParameters(domain="example.org", keys=[ServerKey(version=1, keys=key(0))])
    return (
        ClientSession(parameters, ephemeral=key(2), proof_randomness=b"r" * 64),
        ServerSession(server, ephemeral=key(3)),
    )


def establish(client: ClientSession, server: ServerSession) -> None:
    """Lead the handshake to its end."""
    [hello] = server.receive_data(client.start())
    if not isinstance(hello, HelloReceived):
        raise SystemExit(f"instructions: the handshake failed: {hello}")
    [reply] = client.receive_data(server.send_auth(session="s", user_id="u", user={"id": "u"}))
    if not isinstance(reply, AuthReceived):
        raise SystemExit(f"instructions: the handshake failed: {reply}")
    [proved] = server.receive_data(reply.reply)
    if not isinstance(proved, ClientProved):
        raise SystemExit(f"instructions: the handshake failed: {proved}")
    client.receive_data(server.establish({}))


def check(events: Sequence[object], frames: int) -> None:
    """All frames came at once."""
    [received] = events
    if not isinstance(received, FramesReceived) or len(received.frames) != frames:
        raise SystemExit("instructions: a session lost a frame")


def works() -> dict[str, tuple[Work, int]]:
    """What is counted: a name, the work, and how many operations it is."""
    encoded = [encode_frame(FrameType.MSG, 7, number, PAYLOAD) for number in range(1, FRAMES + 1)]
    stream = b"".join(encoded)

    def decode() -> None:
        decoder = FrameDecoder()
        decoder.feed(stream)
        if sum(1 for _ in decoder.frames()) != FRAMES:
            raise SystemExit("instructions: the decoder lost a frame")

    def handshake() -> None:
        establish(*new_pair())

    client, server = new_pair()
    establish(client, server)

    def up(frames: list[bytes]) -> None:
        check(server.receive_data(client.seal(frames)), len(frames))

    def down(frames: list[bytes]) -> None:
        check(client.receive_data(server.seal(frames)), len(frames))

    def encode() -> None:
        for number in range(1, FRAMES + 1):
            encode_frame(FrameType.MSG, 7, number, PAYLOAD)

    return {
        "encode_frame": (encode, FRAMES),
        "decode_frame": (decode, FRAMES),
        "handshake": (handshake, 1),
        "to_server_many": (lambda: up(encoded), FRAMES),
        "to_server_single": (lambda: up(encoded[:1]), 1),
        "to_client_many": (lambda: down(encoded), FRAMES),
        "to_client_single": (lambda: down(encoded[:1]), 1),
    }


def measure() -> dict[str, float]:
    """Bytecodes of each operation."""
    counts: dict[str, float] = {}
    for name, (work, operations) in works().items():
        work()  # what happens once, is not an operation's
        counts[name] = round(count_bytecodes(work) / operations, 2)
    return counts


class BaselineError(Exception):
    """There are no recorded counts to compare with; the text is one line for a person."""


def read(baseline: Path) -> dict[str, dict[str, float]]:
    """Recorded counts by version of Python.

    Raises:
        BaselineError: the file is not there, cannot be read, or holds something else.
    """
    try:
        recorded = json.loads(baseline.read_text())
    except OSError as exc:
        raise BaselineError(f"cannot read {baseline}: {exc.strerror}; --record makes it") from exc
    except ValueError as exc:
        raise BaselineError(f"{baseline} is no JSON: {exc}") from exc
    versions = recorded.values() if isinstance(recorded, dict) else [None]
    if not all(
        isinstance(counts, dict) and all(type(count) in (int, float) for count in counts.values())
        for counts in versions
    ):
        raise BaselineError(f"{baseline} holds no counts by version of Python and name")
    found: dict[str, dict[str, float]] = recorded
    return found


def judge(counts: dict[str, float], recorded: dict[str, float], tolerance: float) -> list[str]:
    """Names of those that have grown by more than ``tolerance`` (a part of 1)."""
    return [
        name
        for name, count in counts.items()
        if name in recorded and count > recorded[name] * (1 + tolerance)
    ]


def main() -> int:
    """Count, print and compare; returns the exit status."""
    parser = argparse.ArgumentParser(description="Count bytecodes of the codec and the session machines.")
    parser.add_argument("--record", action="store_true", help="keep these counts as the ones to compare with")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="part by which one may grow")
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="where recorded counts are"
    )
    options = parser.parse_args()
    if not 0 <= options.tolerance < math.inf:
        parser.error("--tolerance must be a number, not negative")
    try:
        first = options.record and not options.baseline.exists()
        baselines = {} if first else read(options.baseline)
    except BaselineError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1

    counts = measure()
    recorded = baselines.get(VERSION, {})
    print(f"{'bytecodes each':20}{'now':>12}{'recorded':>12}{'ratio':>8}")
    for name, count in counts.items():
        before = recorded.get(name)
        shown = f"{before:12.2f}{count / before:8.3f}" if before else f"{'-':>12}{'-':>8}"
        print(f"{name:20}{count:12.2f}{shown}")
    if options.record:
        baselines[VERSION] = counts
        options.baseline.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")
        print(f"recorded for Python {VERSION}")
        return 0
    if not recorded:
        print(f"nothing is recorded for Python {VERSION}; nothing is judged")
        return 0
    grown = judge(counts, recorded, options.tolerance)
    if grown:
        print(
            f"grown by more than {options.tolerance:.0%}: {', '.join(grown)}; if that is worth it, "
            "run benchmarks/instructions.py --record",
            file=sys.stderr,
        )
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
