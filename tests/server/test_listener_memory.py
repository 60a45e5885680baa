"""What a connection keeps, and what is left when it has ended."""

import gc
import sys
from collections import deque
from collections.abc import Callable

import h2.connection
import h2.settings
import hpack
import pytest
import trio.testing

from commucat_server.listener import ConnectStream, H2Connection, StreamLostError
from commucat_server.listener.h2_parts import Entries, HeadDecoder
from commucat_server.listener.h2_protocol import ServerProtocol, SmallSettings
from commucat_server.listener.h2_stream import H2Stream
from commucat_server.listener.h2_writer import H2Writer
from commucat_server.listener.settings import ListenerSettings
from server.collector_builders import no_collector
from server.listener_builders import echo, served


async def echo_until_lost(stream: ConnectStream) -> None:
    try:
        await echo(stream)
    except StreamLostError:
        return


async def one_connection(alive: Callable[[], int], *, politely: bool) -> None:
    async with served(echo_until_lost) as test:
        stream_id = await test.peer.request()
        await test.peer.send(stream_id, b"hello", end=politely)
        await test.peer.until(lambda: test.peer.body(stream_id) == b"hello")
        assert alive()
        await test.peer.transport.aclose()
        await test.done.wait()


@pytest.mark.parametrize("politely", [True, False])
async def test_connections_that_end_leave_nothing_to_the_collector(politely: bool) -> None:
    kinds = (H2Connection, H2Stream, H2Writer, ServerProtocol, SmallSettings)
    with no_collector(*kinds) as alive:
        for _ in range(3):
            await one_connection(alive, politely=politely)
            await trio.testing.wait_all_tasks_blocked()
            assert alive() == 0


def joined() -> tuple[h2.connection.H2Connection, ServerProtocol]:
    """A client and our side, after their settings."""
    client, server = h2.connection.H2Connection(), ServerProtocol()
    server.open(ListenerSettings())
    client.initiate_connection()
    for _ in range(2):
        server.receive_data(client.data_to_send())
        client.receive_data(server.data_to_send())
    return client, server


def test_connections_with_the_same_settings_share_them() -> None:
    kept = [
        [settings._values for settings in (server.local_settings, server.remote_settings)]
        for _, server in (joined(), joined())
    ]
    assert kept[0][0] is kept[1][0]
    assert kept[0][1] is kept[1][1]


def test_settings_that_change_are_not_those_of_others() -> None:
    _, other = joined()
    before = dict(other.local_settings)
    client, server = joined()
    server.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 7})
    client.receive_data(server.data_to_send())
    server.receive_data(client.data_to_send())
    assert server.local_settings.max_concurrent_streams == 7
    assert dict(other.local_settings) == before


def test_the_library_receives_by_the_table_that_is_not_kept() -> None:
    # If the library looks its methods up in another way some day, memory grows, and this tells.
    _, server = joined()
    assert "_frame_dispatch_table" not in vars(server)
    assert not any(type(each) is type(server.open) for each in gc.get_referents(server))
    assert ServerProtocol._receivers


def test_a_small_header_table_does_what_a_large_one_does() -> None:
    encoder, small, large = hpack.Encoder(), HeadDecoder(), hpack.Decoder()
    for number in range(300):
        fields = [("x-name", f"value-{number % 7}"), (f"x-{number}", "v" * (number % 90))]
        data = encoder.encode(fields)
        assert small.decode(data) == large.decode(data)
        assert list(small.header_table.dynamic_entries) == list(large.header_table.dynamic_entries)
    assert sys.getsizeof(Entries()) < sys.getsizeof(deque()) / 5
