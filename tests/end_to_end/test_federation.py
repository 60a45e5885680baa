"""Two servers, one conversation: real processes, real clients, and what happens when one is away."""

import json
from collections.abc import Iterator

import pytest

from end_to_end.client_people import CLI, Person, error_line, login, read_until
from end_to_end.federated_servers import domain_of, federated, operator
from end_to_end.server_process import ServerProcess, run

KEY = "9719e690a626f3acdf4894922f245008e0345d1e152abe205a5e49f1f77fcbe2"
"""A proper one; of no server here."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with federated(tmp_path_factory.mktemp("servers"), "a.test", "b.test") as servers:
        yield servers


@pytest.fixture(scope="module")
def alice(servers: list[ServerProcess]) -> Person:
    return login(servers[0], "alice")


@pytest.fixture(scope="module")
def bob(servers: list[ServerProcess]) -> Person:
    return login(servers[1], "bob")


@pytest.fixture(autouse=True)
def all_running(servers: list[ServerProcess]) -> Iterator[None]:
    """One test that fails must not fail the others."""
    yield
    for server in servers:
        if not server.running:
            server.start()


def address(person: Person, server: ServerProcess) -> str:
    return f"{person.device_id}@{domain_of(server)}"


def texts(person: Person, count: int) -> list[str]:
    return [message["text"] for message in person.listen(count)]


def test_messages_go_both_ways(servers: list[ServerProcess], alice: Person, bob: Person) -> None:
    sent = alice.run("send", "--to", address(bob, servers[1]), "hello over there")
    [got] = bob.listen(1)
    answered = bob.run("send", "--to", got["from"], "hello back")
    [back] = alice.listen(1)

    assert (sent.returncode, answered.returncode) == (0, 0), sent.stderr + answered.stderr
    assert (got["text"], got["from"]) == ("hello over there", address(alice, servers[0]))
    assert (back["text"], back["from"]) == ("hello back", address(bob, servers[1]))


def test_what_is_sent_to_a_server_that_was_killed_waits_and_comes_once(
    servers: list[ServerProcess], alice: Person, bob: Person
) -> None:
    a, b = servers
    lines = [f"message {number}" for number in range(60)]
    # Its key is pinned then: who has never been spoken to cannot be sealed to while it is away.
    assert alice.run("send", "--to", address(bob, b), "first").returncode == 0
    with alice.running("send", "--to", address(bob, b), "--stdin", "--timeout", "60") as sending:
        sending.write("\n".join(lines[:30]) + "\n")
        b.kill()
        sending.write("\n".join(lines[30:]) + "\n")
        code, _, errors = sending.end()
    [peer] = operator(a, "peers", "list")["peers"]

    b.start()
    operator(a, "peers", "retry", "b.test")
    assert alice.run("send", "--to", address(bob, b), "last").returncode == 0

    assert code == 0, errors
    assert peer["waiting"] > 0
    assert texts(bob, 62) == ["first", *lines, "last"]
    assert operator(a, "peers", "show", "b.test")["waiting"] == 0


def test_the_sender_learns_what_became_of_it(
    servers: list[ServerProcess], alice: Person, bob: Person
) -> None:
    with bob.running("listen", "--json") as listening:
        done = alice.run("send", "--to", address(bob, servers[1]), "--wait-delivered", "40", "tell me")
        assert json.loads(listening.line())["text"] == "tell me"
    assert done.returncode == 0, done.stderr
    assert f"delivered device={address(bob, servers[1])}" in done.stdout


def test_users_of_two_servers_become_friends(
    servers: list[ServerProcess], alice: Person, bob: Person
) -> None:
    asked = run(
        [CLI, "friends", "request", "bob@b.test", "--message", "hi", "--profile", str(alice.profile)],
        alice.home,
    )
    assert asked.returncode == 0, asked.stderr
    told = until_told(bob, "asks to become a friend")
    shown = run([CLI, "friends", "requests", "--profile", str(bob.profile)], bob.home)
    accepted = run([CLI, "friends", "accept", "alice@a.test", "--profile", str(bob.profile)], bob.home)
    assert accepted.returncode == 0, accepted.stderr
    answered = until_told(alice, "has become a friend")
    listed = run(
        [CLI, "friends", "devices", "bob@b.test", "--json", "--profile", str(alice.profile)], alice.home
    )

    assert "alice@a.test asks to become a friend (hi)" in told
    assert shown.stdout.startswith("in id=")
    assert "from=alice@a.test to=bob@b.test status=pending message=hi" in shown.stdout
    assert "bob@b.test has become a friend" in answered
    assert [device["device_id"] for device in json.loads(listed.stdout)["devices"]] == [
        address(bob, servers[1])
    ]


def until_told(person: Person, words: str) -> str:
    """What a listening client says of the server's notices."""
    with person.running("listen", "--timeout", "40") as listening:
        assert listening.process.stderr is not None
        said = read_until(listening.process.stderr.fileno(), b"\n").decode()
    assert words in said
    return said


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("nobody@b.test", "the server knows no device nobody@b.test"),
        ("bob@nowhere.test", "the server knows no device bob@nowhere.test"),
    ],
)
def test_a_device_that_is_not_there_is_told_in_one_line(alice: Person, to: str, said: str) -> None:
    done = alice.run("send", "--to", to, "hello")
    assert done.returncode == 1
    assert said in error_line(done)


def test_a_blocked_server_is_written_nothing_until_it_is_activated(
    servers: list[ServerProcess], alice: Person, bob: Person
) -> None:
    a, b = servers
    assert operator(a, "peers", "block", "b.test")["status"] == "blocked"
    # The server follows within a second; what is sent before is delivered, as ever.
    tried = [alice.run("send", "--to", address(bob, b), "early")]
    while tried[-1].returncode == 0 and len(tried) < 20:
        tried.append(alice.run("send", "--to", address(bob, b), "early"))
    refused, before = tried[-1], len(tried) - 1
    assert operator(a, "peers", "activate", "b.test")["status"] == "active"
    again = [alice.run("send", "--to", address(bob, b), "again")]
    while again[-1].returncode != 0 and len(again) < 20:
        again.append(alice.run("send", "--to", address(bob, b), "again"))

    assert refused.returncode == 1
    assert "b.test" in error_line(refused)
    assert texts(bob, before + 1) == ["early"] * before + ["again"]


def test_wrong_commands_are_refused_in_one_line(servers: list[ServerProcess]) -> None:
    a = servers[0]
    there = ["--data-dir", str(a.data_dir), "--config", str(a.home / "commucat.toml")]
    key = "0" * 64
    wrong = {
        ("add", "a.test", "--endpoint", "https://a.test", "--key", KEY): (1, "own domain"),
        ("add", "b.test", "--endpoint", "https://b.test", "--key", KEY): (1, "known already"),
        ("add", "c.test", "--endpoint", "http://c.test"): (2, "https://"),
        ("add", "c.test", "--key", key): (2, "is no key"),
        ("add", "c d"): (2, "domain name"),
        ("add", "c.test", "--endpoint", "https://127.0.0.1:1"): (1, "cannot be reached"),
        ("add", "c.test", "--endpoint", servers[1].url): (1, "calls itself b.test"),
        ("show", "c.test"): (1, "there is no peer c.test"),
        ("set", "c.test", "--endpoint", "https://c.test"): (1, "there is no peer c.test"),
        ("set", "b.test", "--finish"): (1, "no next key"),
        ("set", "b.test"): (2, "--endpoint"),
        ("remove", "b.test"): (2, "--yes"),
        ("remove", "c.test", "--yes"): (1, "no stored peer"),
        ("resend", "nothing"): (1, "no dead letter"),
        ("drop", "nothing"): (1, "no dead letter"),
    }
    for command, (code, said) in wrong.items():
        done = run([CLI, "peers", *command, *there], a.home)
        assert (done.returncode, said in done.stderr) == (code, True), (command, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_message_refused_for_good_can_be_seen_and_dropped(
    servers: list[ServerProcess], bob: Person
) -> None:
    a, b = servers
    carol, dave = login(a, "carol"), login(b, "dave")
    # Pinned while it is there: later the client needs nobody to seal to it.
    assert carol.run("send", "--to", address(dave, b), "first").returncode == 0
    assert texts(dave, 1) == ["first"]
    b.kill()
    operator(b, "devices", "revoke", dave.device_id)
    with carol.running("send", "--to", address(dave, b), "--wait-delivered", "60", "too late") as sending:
        # Not before: a server that is there tells the client, and nothing is sent at all.
        for _ in range(20):
            if operator(a, "peers", "show", "b.test")["waiting"]:
                break
        b.start()
        code, _, errors = sending.end()
    [letter] = operator(a, "peers", "dead-letters")["dead_letters"]
    again = operator(a, "peers", "resend", letter["letter"])
    # It is refused once more, under another name.
    for _ in range(20):
        if letters := operator(a, "peers", "dead-letters")["dead_letters"]:
            break
    dropped = operator(a, "peers", "drop", letters[0]["letter"])

    assert code == 1
    assert "the device's server does not take it" in errors
    assert letter["target"] == address(dave, b)
    assert "UnknownDevice" in letter["reason"]
    assert again["target"] == address(dave, b)
    assert dropped["domain"] == "b.test"
    assert operator(a, "peers", "dead-letters")["dead_letters"] == []
