"""SIGKILL at random moments: every acknowledged message arrives, in order, none shown twice."""

import json
import random
import subprocess
from pathlib import Path

import pytest
import trio

from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, run, server_process

MESSAGES = 10_000
KILLS = 20


def login(server: ServerProcess, home: Path, handle: str) -> str:
    command = ["commucat-cli", "login", "--server", server.url, "--handle", handle, "--profile", handle]
    result = run([*command, "--tls-ca", str(server.ca_file)], home)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())["device_id"]


@pytest.fixture
def randomness() -> random.Random:
    # A new seed every time: the moments shall differ. It is printed with a failure.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


async def test_no_acknowledged_message_is_lost_by_killing_the_server(
    tmp_path: Path, randomness: random.Random
) -> None:
    with server_process(tmp_path) as server:
        bob = login(server, tmp_path, "bob")
        alice = login(server, tmp_path, "alice")
        # They know each other: strangers may fill only a small part of an inbox.
        greeting = ["commucat-cli", "send", "--profile", "bob", "--to", alice, "hello"]
        assert run(greeting, tmp_path).returncode == 0
        texts = [f"message {number}" for number in range(MESSAGES)]
        send = [
            str(BIN / "commucat-cli"),
            "send",
            "--profile",
            "alice",
            "--to",
            bob,
            "--stdin",
            "--timeout",
            "300",
        ]
        listen = [str(BIN / "commucat-cli"), "listen", "--profile", "bob", "--json", "--timeout", "300"]
        listen += ["--count", str(MESSAGES)]
        listener = await open_process(listen, tmp_path)
        sender = await open_process(send, tmp_path)
        shown: list[dict[str, object]] = []
        kills = 0
        # When the next kill is due, in messages shown; the moments before the first and after
        # the last message count too.
        due = sorted(randomness.randrange(MESSAGES) for _ in range(KILLS))
        with trio.fail_after(10 * DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, sender, texts)
                async for line in lines(listener):
                    shown.append(json.loads(line))
                    while due and len(shown) > due[0]:
                        due.pop(0)
                        await trio.to_thread.run_sync(server.kill)
                        await trio.to_thread.run_sync(server.start)
                        kills += 1
            codes = [await sender.wait(), await listener.wait()]
        assert server.stop() == 0

    print(f"{kills} kills, {len(shown)} messages shown")
    assert codes == [0, 0], "send: all acknowledged; listen: all shown"
    assert [one["text"] for one in shown] == texts, "in order, none lost, none twice"
    numbers = [one["sequence"] for one in shown]
    assert numbers == sorted(numbers)  # type: ignore[type-var]
    assert kills >= KILLS


async def open_process(command: list[str], home: Path) -> trio.Process:
    return await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=home, env=clean_environment()
    )


async def feed(process: trio.Process, texts: list[str]) -> None:
    assert process.stdin is not None
    async with process.stdin as stdin:
        await stdin.send_all("".join(text + "\n" for text in texts).encode())


async def lines(process: trio.Process):  # type: ignore[no-untyped-def]
    assert process.stdout is not None
    buffer = b""
    async with process.stdout as stdout:
        async for data in stdout:
            *complete, buffer = (buffer + data).split(b"\n")
            for line in complete:
                yield line
    assert buffer == b""
