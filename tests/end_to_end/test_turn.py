"""Credentials of ``/api/p2p/assist`` at a real TURN server, coturn, that shares the secret."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from commucat_proto import stun
from commucat_server.config.ice_section import TurnServer
from commucat_server.nat.turn import turn_documents
from end_to_end.rest_site import running_site
from end_to_end.turn_client import DEADLINE, FIRST_CHANNEL, Coturn, TurnRefusedError, running_coturn

SECRET = "a secret that both servers know"


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    with running_coturn(tmp_path_factory.mktemp("coturn"), SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def credential(coturn: Coturn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As a real server gives it to a client."""
    urls = f"turn:127.0.0.1:{coturn.port}?transport=udp"
    config = f'[ice.turn.main]\nurls = "{urls}"\nsecret = "{SECRET}"\n'
    with running_site(tmp_path_factory.mktemp("site"), config) as site:
        _, token = site.someone()
        [server] = site.ask("GET", "/api/p2p/assist", token).json()["ice"]["servers"]
    assert server["urls"] == [urls]
    assert 500 < server["ttl_secs"] <= 600
    return dict(server)


def credential_of(secret: str, *, now: float) -> dict[str, Any]:
    server = TurnServer(name="main", urls=("turn:x",), secret=secret)
    [document] = turn_documents([server], fragment="0011223344556677", ttl=60, now=int(now))
    return document


async def test_our_credential_allocates_and_relays_data_both_ways(
    coturn: Coturn, credential: dict[str, Any]
) -> None:
    with trio.fail_after(DEADLINE):
        async with coturn.client(credential["username"], credential["credential"]) as client:
            relayed = await client.allocate()
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                await opened.bind(("127.0.0.1", 0))
                peer = stun.SocketAddress.of(*opened.getsockname())

                await client.permit(peer)
                await client.send_indication(peer, b"by a Send indication")
                data, source = await opened.recvfrom(2048)
                assert (data, stun.SocketAddress.of(*source)) == (b"by a Send indication", relayed)
                await opened.sendto(b"back by a Data indication", (str(relayed.ip), relayed.port))
                assert await client.receive_data() == (None, b"back by a Data indication")

                await client.bind(FIRST_CHANNEL, peer)
                await client.socket.send(stun.channel_data(FIRST_CHANNEL, b"by a channel"))
                assert (await opened.recvfrom(2048))[0] == b"by a channel"
                await opened.sendto(b"back by it", (str(relayed.ip), relayed.port))
                assert await client.receive_data() == (FIRST_CHANNEL, b"back by it")


async def test_two_clients_reach_each_other_through_their_allocations(
    coturn: Coturn, credential: dict[str, Any]
) -> None:
    username, password = credential["username"], credential["credential"]
    with trio.fail_after(DEADLINE):
        async with coturn.client(username, password) as one, coturn.client(username, password) as two:
            first, second = await one.allocate(), await two.allocate()
            await one.permit(second)
            await two.permit(first)
            await one.send_indication(second, b"voice")
            assert await two.receive_data() == (None, b"voice")


@pytest.mark.parametrize(
    ("secret", "age"), [("another secret", 0.0), (SECRET, 3600.0)], ids=["wrong secret", "expired"]
)
async def test_another_secret_and_an_ended_name_are_refused(coturn: Coturn, secret: str, age: float) -> None:
    document = credential_of(secret, now=time.time() - age)
    with trio.fail_after(DEADLINE):
        async with coturn.client(document["username"], document["credential"]) as client:
            with pytest.raises(TurnRefusedError) as caught:
                await client.allocate()
    assert caught.value.code == 401


async def test_a_name_cannot_be_given_a_later_end(coturn: Coturn, credential: dict[str, Any]) -> None:
    end, _, fragment = credential["username"].partition(":")
    with trio.fail_after(DEADLINE):
        async with coturn.client(f"{int(end) + 86_400}:{fragment}", credential["credential"]) as client:
            with pytest.raises(TurnRefusedError) as caught:
                await client.allocate()
    assert caught.value.code == 401
