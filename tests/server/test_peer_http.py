"""Requests to other servers by httpx: whatever is wrong with a peer, there is no answer, and nothing else."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trio

from commucat_server.config.federation_section import peer_endpoint
from commucat_server.federation.client import PeerClient, PeerUnreachableError
from server.listener_builders import certificate_pem, write_certificate

BAD_FRAME = bytes(9)
"""DATA of the stream 0, which ends every HTTP/2 connection (RFC 9113, section 6.1)."""


@asynccontextmanager
async def breaking_peer(folder: Path) -> AsyncIterator[str]:
    """A server whose answer begins well; when that was read it breaks the rules of HTTP/2."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*write_certificate(folder))
    context.set_alpn_protocols(["h2"])

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        protocol.initiate_connection()
        while data := await tls.receive_some():
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    protocol.send_headers(event.stream_id, [(":status", "200")])
                    protocol.ping(b"was read")
                elif isinstance(event, h2.events.PingAckReceived):
                    await tls.send_all(BAD_FRAME)
            await tls.send_all(protocol.data_to_send())

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        yield f"https://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "endpoint",
    ["https://b..example", "https://.example", f"https://{'b' * 64}.example", "https://xn--a.example"],
)
async def test_a_host_that_is_no_name_is_one_that_cannot_be_reached(endpoint: str) -> None:
    """Operators' commands and the configuration take such endpoints, and peers name them."""
    client = PeerClient(None, 10.0, "test")

    with pytest.raises(PeerUnreachableError):
        await client.get(peer_endpoint(endpoint))

    await client.aclose()


async def test_a_peer_that_breaks_the_rules_in_its_answer_gives_none(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificate_pem()[0])
    client = PeerClient(authority, 10.0, "test")
    async with breaking_peer(tmp_path) as endpoint:
        with trio.fail_after(30), pytest.raises(PeerUnreachableError):
            await client.get(endpoint)

        await client.aclose()
