"""Which sessions go on without encryption, and how these differ from the others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from commucat_crypto import NoisePattern, StaticKeyPair
from commucat_proto import DELIVERY_ACK, SEND_ONLY, FrameType, Hello, decode_frame
from commucat_proto.hello import parse_hello
from commucat_server.config import ClearFrames
from commucat_server.connect.clear import is_clear, is_client_of_2025, linger, watch_window
from commucat_server.provision import NoiseKeyVersion
from server.connect_builders import NOW, MemoryConnectStream, Person, Server, running_server, until_dropped

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")
NEVER, AUTO, ALWAYS = ClearFrames
OLD = "CommuCat-CLI/0.1"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path, settings={"clear_frames": AUTO}) as server:
        yield server


def hello_of(pattern: NoisePattern, *capabilities: str) -> Hello:
    frame, _ = decode_frame(ALICE.session(pattern=pattern, capabilities=capabilities).start())
    return parse_hello(frame, tuple(NoisePattern))


@pytest.mark.parametrize(
    ("mode", "user_agent", "pattern", "capabilities", "clear"),
    [
        (NEVER, OLD, NoisePattern.XK, ("noise", "zstd"), False),
        (AUTO, OLD, NoisePattern.XK, ("noise", "zstd"), True),
        (AUTO, "CommuCat-CLI/", NoisePattern.XK, (), True),
        (AUTO, "commucat-cli/0.1", NoisePattern.XK, (), False),
        (AUTO, "my CommuCat-CLI/0.1", NoisePattern.XK, (), False),
        (AUTO, None, NoisePattern.XK, ("noise", "zstd"), False),
        (AUTO, OLD, NoisePattern.XK, ("noise", DELIVERY_ACK), False),
        (AUTO, OLD, NoisePattern.XK, (SEND_ONLY,), False),
        (AUTO, OLD, NoisePattern.IK, (), False),
        (ALWAYS, None, NoisePattern.XK, ("noise",), True),
        (ALWAYS, "curl/8", NoisePattern.XK, (), True),
        (ALWAYS, OLD, NoisePattern.XK, (DELIVERY_ACK,), False),
        (ALWAYS, None, NoisePattern.XK, (SEND_ONLY,), False),
        (ALWAYS, None, NoisePattern.IK, (), False),
    ],
)
def test_which_sessions_are_clear(
    mode: ClearFrames,
    user_agent: str | None,
    pattern: NoisePattern,
    capabilities: tuple[str, ...],
    clear: bool,
) -> None:
    headers = {} if user_agent is None else {"user-agent": user_agent}
    hello = hello_of(pattern, *capabilities)

    assert is_clear(mode, headers, hello) is clear
    if mode is AUTO:
        assert is_client_of_2025(headers, hello) is clear


async def test_frames_go_both_ways_in_clear_and_sessions_are_counted(server: Server) -> None:
    bob, alice = await server.connect_clear(BOB), await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    await bob.join(CHANNEL, ALICE.device_id)

    assert await bob.message(CHANNEL, b"purr") == {"ack": 4}
    assert (await alice.next_of(FrameType.MSG)).payload == b"purr"
    assert "refused" not in await alice.message(CHANNEL, b"meow")
    assert (await bob.next_of(FrameType.MSG)).payload == b"meow"
    assert server.context.counters.clear_sessions == 1


async def test_frames_sent_behind_the_proof_are_read(server: Server) -> None:
    bob = await server.connect(BOB)
    alice = await server.connect_clear(ALICE)
    await alice.join(CHANNEL, BOB.device_id)

    sequences = [alice.send(FrameType.MSG, CHANNEL, b"%d" % number) for number in range(300)]

    assert [(await alice.next_of(FrameType.ACK)).control for _ in sequences] == [
        {"ack": sequence} for sequence in sequences
    ]
    assert [(await bob.next_of(FrameType.MSG)).payload for _ in sequences] == [b"%d" % n for n in range(300)]


async def test_its_ack_names_only_the_newest_key(server: Server) -> None:
    older = NoiseKeyVersion(
        version=0, keys=StaticKeyPair.generate(), valid_after=0, rotates_at=NOW, expires_at=NOW * 2
    )
    catalogue = server.context.noise_keys
    catalogue.replace((*catalogue.versions, older))

    clear, encrypted = await server.connect_clear(BOB), await server.connect(ALICE)

    assert [key["version"] for key in clear.ack["noise_keys"]] == [1]
    assert "signature" not in clear.ack["noise_keys"][0]
    assert [key["version"] for key in encrypted.ack["noise_keys"]] == [1, 0]


async def test_a_message_that_it_cannot_take_waits_for_another_client(server: Server) -> None:
    (await server.connect(BOB)).stream.lose()
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    for payload in (b"short", bytes(100_000), b"behind"):
        await alice.message(CHANNEL, payload)

    bob = await server.connect_clear(BOB)
    assert (await bob.next_of(FrameType.MSG)).payload == b"short"
    error = await bob.next_of(FrameType.ERROR)
    assert isinstance(error.control, dict)
    assert (error.channel, error.control["error"]) == (0, "too_large")
    assert await bob.next_frame() is None
    assert not bob.stream.lost
    bob.stream.close()

    current = await server.connect(BOB)
    sizes = [len((await current.next_of(FrameType.MSG)).payload) for _ in range(2)]
    assert sizes == [100_000, len(b"behind")]


async def test_a_client_that_takes_nothing_is_ended_and_not_reset(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    stream = MemoryConnectStream()
    bob = await server.connect_clear(BOB, stream=stream)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    await alice.message(CHANNEL, b"never read")
    await until_dropped(server, BOB, mock_clock)
    assert (stream.ended, stream.lost) == (True, False)
    assert await bob.next_frame() is None
    stream.close()

    again = await server.connect_clear(BOB)
    assert (await again.next_of(FrameType.MSG)).payload == b"never read"


# -- the watch and the end ------------------------------------------------------------------------------


async def test_the_watch_ends_what_does_not_move(autojump_clock: trio.testing.MockClock) -> None:
    stream = MemoryConnectStream()
    await stream.send(b"waits")

    with pytest.raises(trio.TooSlowError):
        await watch_window(stream, 30.0)

    assert 30.0 <= trio.current_time() <= 40.0


async def test_the_watch_lets_be_what_moves_or_has_nothing_to_wait_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = MemoryConnectStream()
    with trio.move_on_after(1000) as idle:
        await watch_window(stream, 30.0)
    assert idle.cancelled_caught

    async def trickle() -> None:
        while True:
            await stream.send(b"xy")
            await trio.sleep(20)
            del stream._down[0]

    with trio.move_on_after(1000) as slow:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            nursery.start_soon(watch_window, stream, 30.0)
    assert slow.cancelled_caught


async def test_it_is_waited_for_until_it_ends_too_but_not_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    polite, silent = MemoryConnectStream(), MemoryConnectStream()
    polite.write(b"last words")
    polite.close()

    await linger(polite)
    assert trio.current_time() == 0.0
    await linger(silent)
    assert 0.0 < trio.current_time() <= 5.0
