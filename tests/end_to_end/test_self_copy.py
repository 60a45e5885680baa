"""Copies for a user's other devices, through the real server and its death."""

from pathlib import Path

import trio

from commucat_cli.client import Answer, Connection
from commucat_proto import DELIVERY_ACK, DELIVERY_STATUS, SELF_COPY, SEND_ONLY, FrameType
from end_to_end.raw_people import CHANNEL, device, device_id, reach, receiver, take
from end_to_end.server_process import DEADLINE, ServerProcess, server_process

CONFIG = """
[server]
auto_approve_devices = true
join_by_handle = true
max_auto_devices_per_user = 2
"""


async def message(connection: Connection, payload: bytes) -> Answer:
    answer = await connection.request(FrameType.MSG, CHANNEL, payload)
    assert (answer.error, answer.refused) == (None, ())
    return answer


async def talk(server: ServerProcess) -> None:
    where = await reach(server)
    async with device(where, "alice"), receiver(where, "bob"):
        pass
    async with device(where, "tablet", DELIVERY_ACK, handle="alice") as tablet:
        async with device(where, "alice", SELF_COPY, SEND_ONLY) as alice:
            assert (await alice.join(CHANNEL, [device_id("bob")])).error is None
            await message(alice, b"live")
        assert await take(tablet, 1) == [(1, b"live")]
        tablet.confirm(1)
    async with device(where, "alice", SELF_COPY, DELIVERY_STATUS, SEND_ONLY) as alice:
        assert (await message(alice, b"later")).message is not None
    server.kill()
    server.start()
    async with device(where, "tablet", DELIVERY_ACK, handle="alice") as tablet:
        assert await take(tablet, 1) == [(2, b"later")]
    async with receiver(where, "bob") as bob:
        assert await take(bob, 2) == [(1, b"live"), (2, b"later")]


def test_other_devices_get_copies_live_and_after_a_crash(tmp_path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(DEADLINE):
            await talk(server)

    with server_process(tmp_path, config=CONFIG) as server:
        trio.run(main)
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()
