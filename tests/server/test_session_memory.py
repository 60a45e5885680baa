"""What a session keeps while it is silent, and what is left when it has ended."""

import gc
from pathlib import Path

import pytest
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from commucat_crypto import NoiseTransport
from commucat_proto import FrameType, ServerSession
from commucat_server.connect.dispatch import FrameDispatcher
from commucat_server.connect.session import EstablishedSession
from commucat_server.connect.writer import SessionWriter
from commucat_server.routing.live import LiveSession
from server.collector_builders import no_collector
from server.connect_builders import Person, Server, running_server, upkeep_of

ALICE = Person(handle="alice")
BOB = Person(handle="bob")
CHANNEL = 7


def transports_of(server: Server) -> list[NoiseTransport]:
    """Those of the live sessions; not those of the clients, which are in this process too."""
    found = []
    for live in server.context.registry:
        [session] = [each for each in gc.get_referents(live.rest) if hasattr(each, "seal")]
        found += [each for each in gc.get_referents(session) if isinstance(each, NoiseTransport)]
    return found


def ciphers(transport: NoiseTransport) -> int:
    kept = gc.get_referents(transport)
    return sum(isinstance(getattr(each, "__self__", None), ChaCha20Poly1305) for each in kept)


async def test_a_silent_session_keeps_no_ciphers_and_goes_on_later(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        bob = await server.connect(BOB)
        alice = await server.connect(ALICE)
        await alice.join(CHANNEL, BOB.device_id)
        await alice.message(CHANNEL, b"before")
        assert (await bob.next_of(FrameType.MSG)).payload == b"before"
        assert sorted(map(ciphers, transports_of(server))) == [1, 2]

        upkeep = upkeep_of(server)
        await upkeep.rest()
        assert sorted(map(ciphers, transports_of(server))) == [1, 2]
        await upkeep.rest()
        assert sorted(map(ciphers, transports_of(server))) == [0, 0]

        await alice.message(CHANNEL, b"after")
        assert (await bob.next_of(FrameType.MSG)).payload == b"after"


@pytest.mark.parametrize("politely", [True, False])
async def test_sessions_that_end_leave_nothing_to_the_collector(tmp_path: Path, politely: bool) -> None:
    kinds = (EstablishedSession, LiveSession, ServerSession, SessionWriter, FrameDispatcher)
    async with running_server(tmp_path) as server:
        others = len(server.nursery.child_tasks)
        with no_collector(*kinds) as alive:
            for _ in range(3):
                client = await server.connect(ALICE)
                assert alive() == len(kinds)
                if politely:
                    client.stream.close()
                else:
                    client.stream.lose()
                del client
                while len(server.nursery.child_tasks) > others:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                assert alive() == 0
