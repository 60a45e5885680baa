"""The client over every way to connect, against the real server."""

from collections.abc import Iterator

import pytest
import trio

from commucat_cli.client import Answer
from commucat_cli.errors import RetryableError
from commucat_cli.profile import open_profile
from commucat_cli.transport import WAYS, Via
from commucat_proto import DELIVERY_ACK, FrameType
from end_to_end.client_people import Person, login
from end_to_end.raw_people import CHANNEL, device, reach, receiver, sender, take
from end_to_end.server_process import ServerProcess, server_process

MANY = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("server")) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def bob(server: ServerProcess) -> Person:
    return login(server, "bob")


@pytest.mark.parametrize("via", Via)
def test_login_send_and_listen(server: ServerProcess, bob: Person, via: Via) -> None:
    alice = login(server, f"alice-{via}", "--via", via)
    long = "x" * 1_000_000

    done = alice.send(bob, "--stdin", stdin=f"first\n{long}\n")

    assert done.returncode == 0, done.stderr
    got = bob.run("listen", "--via", via, "--count", "2", "--timeout", "30")
    assert got.returncode == 0, got.stderr
    first, second = got.stdout.splitlines()
    assert first.endswith("first")
    assert second.endswith(long)


def test_the_way_of_the_login_is_kept_until_a_later_login_changes_it(server: ServerProcess) -> None:
    def kept(person: Person) -> Via:
        with open_profile(person.profile) as profile:
            return profile.account().via

    assert kept(login(server, "carol")) is Via.BINARY
    assert kept(login(server, "carol", "--via", "websocket")) is Via.WEBSOCKET
    assert kept(login(server, "carol")) is Via.WEBSOCKET


def test_a_way_that_does_not_exist_is_wrong_usage(server: ServerProcess, bob: Person) -> None:
    done = bob.run("listen", "--via", "pigeon")
    assert done.returncode == 2
    assert "pigeon" in done.stderr


@pytest.mark.parametrize("via", WAYS)
async def test_talk_both_ways_at_once(server: ServerProcess, via: Via) -> None:
    where = await reach(server)
    alice, bert = f"alice-{via}-talks", f"bert-{via}-talks"
    async with receiver(where, alice, bert, via=via) as one, receiver(where, bert, alice, via=via) as other:
        for number in range(MANY):
            one.send_frame(FrameType.MSG, CHANNEL, b"to bert %d" % number)
            other.send_frame(FrameType.MSG, CHANNEL, b"to alice %d" % number)
        with trio.fail_after(30):
            assert [payload for _, payload in await take(other, MANY)] == [
                b"to bert %d" % number for number in range(MANY)
            ]
            assert len(await take(one, MANY)) == MANY


@pytest.mark.parametrize("via", WAYS)
async def test_leaving_waits_for_the_answers(server: ServerProcess, via: Via) -> None:
    where = await reach(server)
    receiver_name = f"bert-{via}-waits"
    async with receiver(where, receiver_name, via=via):
        pass
    answers: list[Answer] = []
    async with sender(where, f"alice-{via}-leaves", receiver_name, via=via) as alice:
        for _ in range(MANY):
            alice.send_frame(FrameType.MSG, CHANNEL, bytes(300), answers.append)
    assert sum(answer.error is None for answer in answers) == MANY


@pytest.mark.parametrize("via", WAYS)
async def test_what_is_not_confirmed_comes_again_and_what_is_does_not(
    server: ServerProcess, via: Via
) -> None:
    where = await reach(server)
    name, friend = f"bert-{via}-confirms", f"alice-{via}-sends"
    async with receiver(where, name, friend, via=via):
        pass
    async with sender(where, friend, name, via=via) as alice:
        for number in range(5):
            answer = await alice.request(FrameType.MSG, CHANNEL, b"%d" % number)
            assert answer.error is None
    async with device(where, name, DELIVERY_ACK, via=via) as bert:
        numbers = [number for number, _ in await take(bert, 5)]
        bert.confirm(numbers[2])
        # A frame that is answered is a proof that the one before it was taken.
        await bert.request(FrameType.LEAVE, CHANNEL, b"{}")
    async with device(where, name, DELIVERY_ACK, via=via) as bert:
        assert [number for number, _ in await take(bert, 2)] == numbers[3:]


@pytest.mark.parametrize("via", WAYS)
async def test_a_killed_server_costs_nothing_acknowledged(server: ServerProcess, via: Via) -> None:
    where = await reach(server)
    name, friend = f"bert-{via}-survives", f"alice-{via}-survives"
    async with receiver(where, name, friend, via=via):
        pass
    answers: list[Answer] = []
    half = trio.Event()

    def answered(answer: Answer) -> None:
        answers.append(answer)
        if len(answers) >= MANY // 2:
            half.set()

    async with sender(where, friend, name, via=via) as alice:
        for number in range(MANY):
            alice.send_frame(FrameType.MSG, CHANNEL, number.to_bytes(500, "big"), answered)
        await half.wait()
        server.kill()
        with pytest.raises(RetryableError):
            await alice.wait_ended()
    server.start()

    acknowledged = sum(answer.error is None for answer in answers)
    async with device(where, name, DELIVERY_ACK, via=via) as bert:
        got: list[bytes] = []
        while len(got) < acknowledged:
            got += [frame.payload for frame in await bert.deliveries()]
    assert got[:acknowledged] == [number.to_bytes(500, "big") for number in range(acknowledged)]
