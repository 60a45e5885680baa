"""One person with accounts on two servers: real processes, real clients, and what each server is told of the
other one's devices."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from end_to_end.client_people import CLI, Person, error_line, login
from end_to_end.federated_servers import federated, operator
from end_to_end.server_process import ServerProcess, run

PATIENCE = 60.0
A2, B2 = "alice@a.test", "alice2@b.test"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with federated(tmp_path_factory.mktemp("servers"), "a.test", "b.test") as servers:
        yield servers


@pytest.fixture(scope="module")
def alice(servers: list[ServerProcess]) -> Person:
    """Her account on a.test."""
    return login(servers[0], "alice")


@pytest.fixture(scope="module")
def alice2(servers: list[ServerProcess]) -> Person:
    """Her account on b.test."""
    return login(servers[1], "alice2")


@pytest.fixture(scope="module")
def carol(servers: list[ServerProcess]) -> Person:
    """Somebody on a.test who writes to her."""
    return login(servers[0], "carol")


def command(person: Person, *words: str) -> str:
    """What a command that must succeed prints."""
    done = run([CLI, *words, "--profile", str(person.profile)], person.home)
    assert done.returncode == 0, done.stderr
    return done.stdout


def links(person: Person) -> dict[str, str]:
    listed = json.loads(command(person, "links", "list", "--json"))["links"]
    return {link["account"]: link["status"] for link in listed}


def linked(person: Person) -> dict[str, tuple[int, int]]:
    """Confirmed and waiting, of each device of linked accounts."""
    told = json.loads(command(person, "devices", "offsets", "--json"))["linked"]
    return {
        each["device"]: (each["confirmed"], each["waiting"])
        for account in told
        for each in account["devices"]
    }


def until(look: Any, wanted: Any) -> None:
    """Ask until it is so: each look is a command, which takes its time."""
    end = time.monotonic() + PATIENCE
    while (found := look()) != wanted:
        assert time.monotonic() < end, f"{found} and not {wanted}"


def test_linked_accounts_see_how_far_each_others_devices_have_read(
    servers: list[ServerProcess], alice: Person, alice2: Person, carol: Person
) -> None:
    a, b = servers
    phone = f"{alice.device_id}@a.test"

    # One side alone links nothing.
    assert "status=declared" in command(alice, "links", "add", B2)
    until(lambda: links(alice2), {A2: "offered"})
    assert linked(alice2) == {}
    assert f"account={A2} status=linked" in command(alice2, "links", "add", A2)
    until(lambda: links(alice), {B2: "linked"})

    until(lambda: linked(alice2), {phone: (0, 0)})
    until(lambda: linked(alice), {f"{alice2.device_id}@b.test": (0, 0)})
    assert carol.send(alice, "one").returncode == 0
    assert carol.send(alice, "two").returncode == 0
    until(lambda: linked(alice2), {phone: (0, 2)})
    assert [each["text"] for each in alice.listen(2)] == ["one", "two"]
    until(lambda: linked(alice2), {phone: (2, 0)})

    # While one server is away the other one's devices go on; it is told the last of it.
    b.kill()
    assert carol.send(alice, "three").returncode == 0
    assert [each["text"] for each in alice.listen(1)] == ["three"]
    assert carol.send(alice, "four").returncode == 0
    b.start()
    operator(a, "peers", "retry", "b.test")
    until(lambda: linked(alice2), {phone: (3, 1)})

    lines = command(alice2, "devices", "offsets").splitlines()
    own = next(line for line in lines if line.startswith(f"device={alice2.device_id} "))
    other = next(line for line in lines if line.startswith(f"device={phone} "))
    assert own == f"device={alice2.device_id} confirmed=0 next=1 waiting=0"
    assert other.startswith(f"device={phone} confirmed=3 next=5 waiting=1 account={A2} told_at=20")

    # Either side ends it for both, and what was told goes with it.
    assert json.loads(command(alice2, "links", "remove", A2, "--json")) == {"removed": A2}
    until(lambda: links(alice), {})
    assert links(alice2) == linked(alice) == linked(alice2) == {}
    assert operator(a, "peers", "show", "b.test")["waiting"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "me@nowhere.test"), "unknown domain: nowhere.test"),
        (("add", "me@a.test"), "the account is on this server"),
        (("add", "me@b.test@c"), "an account on another server is named handle@domain"),
        (("remove", "nobody@b.test"), "there is no link to this account"),
        (("remove", "b%40@b.test"), "there is no link to this account"),
    ],
)
def test_what_cannot_be_linked_is_said(alice: Person, words: tuple[str, ...], said: str) -> None:
    done = run([CLI, "links", *words, "--profile", str(alice.profile)], alice.home)
    assert said in error_line(done)
    assert links(alice) == {}


def test_something_that_is_no_account_is_a_wrong_usage(alice: Person) -> None:
    done = run([CLI, "links", "add", "bob", "--profile", str(alice.profile)], alice.home)
    assert done.returncode == 2
    assert "handle@domain" in done.stderr


def test_there_is_an_end_to_links(alice: Person) -> None:
    for number in range(8):
        command(alice, "links", "add", f"me{number}@b.test")
    done = run([CLI, "links", "add", "me8@b.test", "--profile", str(alice.profile)], alice.home)
    assert "at most 8 links: end one of them" in error_line(done)
    for number in range(8):
        command(alice, "links", "remove", f"me{number}@b.test")
