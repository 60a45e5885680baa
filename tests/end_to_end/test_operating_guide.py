"""The commands of docs/operating.md, run as they stand there beside a server that is run as a service."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from commucat_proto import DELIVERY_ACK, FrameType, json_text
from end_to_end.console_pages import Shell, Step, shell_in
from end_to_end.raw_people import CHANNEL, device, device_id, reach, sender
from end_to_end.server_process import ServerProcess

GROUP = 9
CONFIG = """
[server]
bind = "127.0.0.1:{port}"
max_connections = 100
auto_approve_devices = true
[ledger]
deliveries = true
"""
# Starts and stops the server as the unit does, as far as the page needs it.
SYSTEMCTL = """#!/bin/sh -eu
stop() {
    kill "$(cat server.pid)"
    while kill -0 "$(cat server.pid)" 2> /dev/null; do sleep 0.1; done
}
start() {
    set -a; . etc/commucat.env; set +a
    : > listening
    setsid commucat-server --config etc/commucat.toml --data-dir lib > listening 2>> server.log &
    echo $! > server.pid
    until [ -s listening ]; do kill -0 "$(cat server.pid)"; sleep 0.1; done
}
case $1 in
    restart) stop; start ;;
    *) $1 ;;
esac
"""


async def live(server: ServerProcess) -> None:
    """A group of two, one of whom is away with messages that wait, the other has read one."""
    where = await reach(server)
    members = [device_id("bob")]
    async with device(where, "bob", DELIVERY_ACK):
        pass
    async with device(where, "alice", DELIVERY_ACK) as alice:
        created = json_text.dumps({"group_id": "cats", "members": members, "roles": {}})
        answer = await alice.request(FrameType.GROUP_CREATE, GROUP, created)
        assert answer.error is None, answer
        async with sender(where, "carol", "alice") as carol:
            assert (await carol.request(FrameType.MSG, CHANNEL, b"hello")).error is None
        alice.confirm((await alice.deliveries())[-1].sequence)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for name in ("bin", "etc", "lib"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "bin" / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin" / "systemctl").chmod(0o700)
    (tmp_path / "etc" / "commucat.toml").write_text(CONFIG.format(port=port))
    (tmp_path / "etc" / "commucat.env").touch(mode=0o600)
    here = {
        "/etc/commucat": str(tmp_path / "etc"),
        "/var/lib/commucat": str(tmp_path / "lib"),
        "8443": str(port),
    }
    with shell_in(tmp_path, here) as shell:
        shell.answer(Step(f"PATH={tmp_path}/bin:$PATH", ()))
        try:
            assert shell.answer(Step("systemctl start commucat", ())) == []
            server = ServerProcess(tmp_path, port=port)
            (tmp_path / "data").symlink_to("lib")
            trio.run(live, server)
            yield shell
        finally:
            shell.answer(Step("systemctl stop commucat", ()))


def test_every_command_goes_as_told(shell: Shell, tmp_path: Path) -> None:
    shell.follow("operating.md")
    assert "Traceback" not in (tmp_path / "server.log").read_text()
