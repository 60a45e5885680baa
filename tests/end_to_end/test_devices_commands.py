"""The commands about devices against the real server: pairing, approval, revocation, new keys."""

import json
import os
import pty
import re
import sqlite3
import stat
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_cli.client import Invitation, open_session
from commucat_cli.profile import open_profile
from commucat_cli.profile.keys import load_keys
from commucat_crypto import DeviceCertificate, DeviceKeyPair
from end_to_end.in_process import invoke
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, server_process

CONFIG = """
[server]
auto_approve_devices = true
[rotation.device]
min_interval = 0
[security.rate_limit]
pairing_burst = 1000
"""


@attrs.define
class Site:
    """A running server, and people with profiles."""

    server: ServerProcess
    home: Path
    people: int = 0

    def cli(self, *arguments: str, fails: int | None = None, **environment: str) -> str:
        """Standard output of a command that succeeds; standard error of one that fails as it should."""
        done = invoke(arguments, **environment)
        assert done.returncode == (fails or 0), done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr if fails is not None else done.stdout

    def json(self, *arguments: str, **environment: str) -> Any:
        return json.loads(self.cli(*arguments, "--json", **environment))

    def log_in(self) -> "Owner":
        self.people += 1
        name = f"person{self.people}"
        profile = self.home / name
        url, ca = self.server.url, str(self.server.ca_file)
        self.cli("login", "--server", url, "--handle", name, "--profile", str(profile), "--tls-ca", ca)
        return Owner(self, name, profile)

    def operator(self, *arguments: str, **more: Any) -> Any:
        return self.json(*arguments, "--data-dir", str(self.server.data_dir), **more)


@attrs.frozen
class Owner:
    """One device of somebody."""

    site: Site
    handle: str
    profile: Path

    @property
    def device_id(self) -> str:
        keys = load_keys(self.profile)
        assert keys is not None
        return keys.device_id

    def cli(self, *arguments: str, fails: int | None = None) -> str:
        return self.site.cli(*arguments, "--profile", str(self.profile), fails=fails)

    def json(self, *arguments: str) -> Any:
        return self.site.json(*arguments, "--profile", str(self.profile))

    def paired(self, name: str) -> "Owner":
        """A second device, by an invitation."""
        uri = self.json("pair")["uri"]
        other = Owner(self.site, self.handle, self.site.home / f"{self.handle}-{name}")
        ca = str(self.site.server.ca_file)
        other.cli("claim", uri, "--name", name, "--tls-ca", ca)
        return other

    def heard(self, count: int) -> list[dict[str, Any]]:
        lines = self.cli("listen", "--count", str(count), "--timeout", "30", "--json").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("devices")
    with server_process(home, CONFIG) as server:
        yield Site(server, home)


@contextmanager
def careful(home: Path) -> Iterator[Site]:
    with server_process(home, CONFIG + "[pairing]\nrequire_approval = true\n") as server:
        yield Site(server, home)


def test_a_paired_device_is_the_same_user_and_gets_its_messages(site: Site) -> None:
    laptop, friend = site.log_in(), site.log_in()

    phone = laptop.paired("phone")

    listed = {each["device_id"]: each for each in laptop.json("devices", "list")}
    assert {device: each["current"] for device, each in listed.items()} == {
        laptop.device_id: True,
        phone.device_id: False,
    }
    assert listed[phone.device_id]["device_name"] == "phone"
    friend.cli("send", "--to", phone.device_id, "hello phone")
    [message] = phone.heard(1)
    assert (message["text"], message["from"]) == ("hello phone", friend.device_id)
    phone.cli("send", "--to", friend.device_id, "hello friend")
    assert friend.heard(1)[0]["text"] == "hello friend"


def test_a_code_can_be_typed_and_works_once(site: Site) -> None:
    laptop = site.log_in()
    text = laptop.cli("pair", "--ttl", "90", "--qr")
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert "█" in text
    url, ca = site.server.url, str(site.server.ca_file)
    tablet = Owner(site, laptop.handle, site.home / "typed")

    code = values["code"].lower().replace("-", " ")
    tablet.cli("claim", code, "--server", url, "--tls-ca", ca)

    assert len(tablet.json("devices", "list")) == 2
    other = Owner(site, laptop.handle, site.home / "late")
    refused = other.cli("claim", code, "--server", url, "--tls-ca", ca, fails=1)
    assert refused.startswith("error: the code cannot be used")
    refused = tablet.cli("claim", code, "--server", url, "--tls-ca", ca, fails=1)
    assert "belongs to" in refused


def test_an_invitation_to_another_server_is_noticed(site: Site) -> None:
    laptop = site.log_in()
    invited = Invitation.parse(laptop.json("pair")["uri"])
    forged = attrs.evolve(invited, device_ca=DeviceKeyPair.generate().public)
    ca = str(site.server.ca_file)
    other = Owner(site, laptop.handle, site.home / "forged")

    refused = other.cli("claim", forged.uri(), "--tls-ca", ca, fails=1)

    assert "it has other keys" in refused
    # The code was not sent: it still works.
    other.cli("claim", invited.uri(), "--tls-ca", ca)


@pytest.mark.parametrize(
    "arguments",
    [
        ("claim", "ABCD-EFGH", "--profile", "x"),
        ("claim", "ABCD", "--server", "https://localhost", "--profile", "x"),
        ("claim", "commucat://localhost/pair?code=ABCD-EFGH", "--profile", "x"),
        ("claim", "https://localhost/pair", "--profile", "x"),
        ("devices", "list"),
        ("devices", "rotate"),
        ("devices", "list", "--profile", "x", "--data-dir", "y"),
        ("devices", "pending", "--profile", "x", "--config", "y"),
        ("devices", "approve", "z", "--profile", "x", "--data-dir", "y"),
        ("devices", "reject", "z", "--profile", "x", "--data-dir", "y"),
        ("devices", "revoke", "z", "--profile", "x", "--data-dir", "y"),
        ("devices", "list", "--profile", "x", "--handle", "y"),
        ("autopair",),
        ("autopair", "--handle", "a", "--user", "b"),
        ("autopair", "--server", "https://localhost"),
        ("autopair", "--server", "https://localhost", "--session", "t", "--handle", "a"),
        ("autopair", "--server", "https://localhost", "--session", "t", "--data-dir", "a"),
    ],
)
def test_wrong_usage_is_told_as_such(site: Site, arguments: tuple[str, ...]) -> None:
    site.cli(*arguments, fails=2)


def test_a_revoked_device_is_told_so_and_stays_out(site: Site) -> None:
    laptop = site.log_in()
    phone = laptop.paired("phone")

    assert laptop.json("devices", "revoke", phone.device_id) == {
        "device_id": phone.device_id,
        "status": "revoked",
    }

    assert "refuses this device" in phone.cli("devices", "list", fails=1)
    refused = laptop.cli("devices", "revoke", laptop.device_id, fails=1)
    assert "cannot revoke active session device" in refused
    assert "404" in laptop.cli("devices", "revoke", "nobody", fails=1)


def test_a_new_key_is_followed_by_friends_and_old_messages_still_open(site: Site) -> None:
    laptop, friend = site.log_in(), site.log_in()
    laptop.cli("send", "--to", friend.device_id, "before")
    friend.cli("send", "--to", laptop.device_id, "sealed to the old key")
    before = load_keys(laptop.profile)
    assert before is not None

    rotated = laptop.json("devices", "rotate")

    after = load_keys(laptop.profile)
    assert after is not None
    assert rotated["public_key"] == after.device.public.hex() != before.device.public.hex()
    assert after.previous == (before.device,)
    assert after.next is None
    assert [each["text"] for each in laptop.heard(1)] == ["sealed to the old key"]
    laptop.cli("send", "--to", friend.device_id, "after")
    done = invoke(["listen", "--profile", str(friend.profile), "--count", "2", "--timeout", "30", "--json"])
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["before", "after"]
    assert f"device {laptop.device_id} has a new key, announced by its old one" in done.stderr
    friend.cli("send", "--to", laptop.device_id, "sealed to the new key")
    assert laptop.heard(1)[0]["text"] == "sealed to the new key"
    assert laptop.json("devices", "rotate")["public_key"] != rotated["public_key"]


def test_an_interrupted_change_of_the_key_is_finished(site: Site) -> None:
    """The server has taken the new key, and the answer got lost."""
    laptop = site.log_in()
    path = laptop.profile / "keys.json"
    before = json.loads(path.read_text())
    laptop.cli("devices", "rotate")
    now = json.loads(path.read_text())
    lost = before | {"device_next": now["device_private"]}
    path.write_text(json.dumps(lost))

    laptop.cli("devices", "rotate")

    assert json.loads(path.read_text())["device_private"] == now["device_private"]
    laptop.cli("devices", "list")


def test_a_new_key_that_nobody_announced_is_accepted_by_its_fingerprint(site: Site) -> None:
    """Whoever is no friend is not told; without the owner's word it could be somebody else."""
    alice, bob, eve = site.log_in(), site.log_in(), site.log_in()
    alice.cli("send", "--to", bob.device_id, "one")
    assert [each["text"] for each in bob.heard(1)] == ["one"]
    alice.cli("devices", "rotate")
    alice.cli("send", "--to", bob.device_id, "two")

    unread = site.cli("listen", "--profile", str(bob.profile), "--count", "1", "--timeout", "5", fails=1)
    assert f"commucat-cli keys accept {alice.device_id} --fingerprint NUMBERS" in unread
    assert "did not announce that" in bob.cli("send", "--to", alice.device_id, "who are you?", fails=1)
    numbers = alice.json("fingerprint")["fingerprint"]
    another = eve.json("fingerprint")["fingerprint"]
    refused = bob.cli("keys", "accept", alice.device_id, "--fingerprint", another, fails=1)
    assert "somebody is between you" in refused
    assert "did not announce that" in bob.cli("send", "--to", alice.device_id, "still?", fails=1)

    accepted = bob.json("keys", "accept", alice.device_id, "--fingerprint", f" {numbers}\n")

    assert accepted["public_key"] == load_keys(alice.profile).device.public.hex()  # type: ignore[union-attr]
    assert accepted["previous_public_key"] not in (None, accepted["public_key"])
    alice.cli("send", "--to", bob.device_id, "three")
    assert [each["text"] for each in bob.heard(1)] == ["three"]
    bob.cli("send", "--to", alice.device_id, "it is you")
    assert [each["text"] for each in alice.heard(1)] == ["it is you"]
    # Again does no harm, and the server is not believed about a device that there is not.
    assert bob.json("keys", "accept", alice.device_id, "--fingerprint", numbers)["public_key"]
    assert "knows no device" in bob.cli("keys", "accept", "nobody", "--fingerprint", numbers, fails=1)


def test_keys_check_finds_the_history_right_and_a_rewritten_one_wrong(site: Site) -> None:
    laptop = site.log_in()
    first = laptop.json("keys", "check")
    assert first["ok"]
    laptop.cli("devices", "rotate")
    phone = laptop.paired("phone")

    second = laptop.json("keys", "check")

    assert second["ok"]
    assert [each["link"] for each in second["events"]][:1] == [first["link"]]
    assert second["events"][-1]["public_key"] == load_keys(laptop.profile).device.public.hex()  # type: ignore[union-attr]
    assert phone.json("keys", "check", "--device", laptop.device_id)["link"] == second["link"]
    # The server's owner changes when the device came.
    with sqlite3.connect(site.server.database) as database:
        database.execute(
            "UPDATE device_key_event SET recorded_at = recorded_at - 1 WHERE event_id = ?",
            (second["events"][0]["event_id"],),
        )
    database.close()
    assert "does not lead through the link" in laptop.cli("keys", "check", fails=1)
    assert "404" in laptop.cli("keys", "check", "--device", "nobody", fails=1)


def test_the_operator_lists_and_revokes_beside_the_running_server(site: Site) -> None:
    laptop = site.log_in()
    phone = laptop.paired("phone")

    listed = site.operator("devices", "list", "--handle", laptop.handle)
    # Of the same second, perhaps.
    assert sorted(each["device_id"] for each in listed) == sorted([laptop.device_id, phone.device_id])
    assert site.operator("devices", "revoke", phone.device_id)["status"] == "revoked"

    assert "refuses this device" in phone.cli("devices", "list", fails=1)
    data = ("--data-dir", str(site.server.data_dir))
    assert "there is no user" in site.cli("devices", "list", "--handle", "nobody", *data, fails=1)
    assert "there is no device" in site.cli("devices", "revoke", "nobody", *data, fails=1)
    assert "no device nobody waits" in site.cli("devices", "approve", "nobody", *data, fails=1)
    # A profile in the environment is no contradiction.
    site.cli("devices", "pending", *data, COMMUCAT_PROFILE=str(laptop.profile))
    nowhere = ("--data-dir", str(site.home / "nowhere"))
    assert "there is no database" in site.cli("devices", "pending", *nowhere, fails=1)
    # What the command did is in the ledger, written by the server.
    end = time.monotonic() + DEADLINE
    history = ""
    while '"source": "operator"' not in history and time.monotonic() < end:
        history = invoke(["key-history", "--device", phone.device_id, "--json", *data]).stdout
    assert json.loads(history)["events"][-1]["action"] == "revoke"
    assert json.loads(history)["ok"]


@pytest.mark.parametrize("by_operator", [False, True], ids=["by another device", "by the operator"])
def test_with_approval_a_device_waits_for_somebodys_word(tmp_path: Path, by_operator: bool) -> None:
    with careful(tmp_path) as site:
        laptop = site.log_in()
        phone, tablet = laptop.paired("phone"), laptop.paired("tablet")
        assert "waits for approval" in phone.cli("devices", "list", fails=1)

        decide = site.operator if by_operator else laptop.json
        waiting = decide("devices", "pending")
        assert {each["device_name"] for each in waiting} == {"phone", "tablet"}
        decide("devices", "approve", phone.device_id)
        decide("devices", "reject", tablet.device_id)

        assert decide("devices", "pending") == []
        assert len(phone.json("devices", "list")) == 2
        assert "error:" in tablet.cli("devices", "list", fails=1)


def test_autopair_makes_devices_over_the_network_and_in_the_store(site: Site) -> None:
    laptop = site.log_in()
    data = ("--data-dir", str(site.server.data_dir))
    bundles = [site.json("autopair", "--handle", laptop.handle, *data)]
    lines = site.cli("autopair", "--handle", laptop.handle, *data).splitlines()
    printed = dict(line.split("=", 1) for line in lines)
    assert printed.keys() == bundles[0].keys() - {"server"}
    for name in ("user", "device_certificate", "noise_keys"):
        printed[name] = json.loads(printed[name])
    bundles.append(printed)
    token = _token_of(laptop)
    out = site.home / "bundle.json"
    told = site.cli(
        "autopair",
        "--server",
        site.server.url,
        "--tls-ca",
        str(site.server.ca_file),
        "--out",
        str(out),
        "--name",
        "robot",
        COMMUCAT_SESSION=token,
    )
    assert dict(line.split("=", 1) for line in told.splitlines()).keys() == {"device_id", "user_id", "bundle"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    bundles.append(json.loads(out.read_text()))

    listed = {each["device_id"]: each for each in laptop.json("devices", "list")}
    for bundle in bundles:
        keys = DeviceKeyPair.from_private(bytes.fromhex(bundle["private_key"]))
        certificate = DeviceCertificate.from_wire(bundle["device_certificate"])
        certificate.verify(bytes.fromhex(bundle["device_ca_public"]))
        assert certificate.public_key == keys.public
        assert listed[bundle["device_id"]]["public_key"] == keys.public.hex()
        assert bundle["user"]["handle"] == laptop.handle
        assert bundle["noise_public"] in bundle["noise_keys"]
    assert listed[bundles[-1]["device_id"]]["device_name"] == "robot"
    refused = site.cli("autopair", "--handle", "nobody", *data, fails=1)
    assert "there is no user nobody" in refused


def test_a_bundle_that_cannot_be_written_costs_no_code(site: Site) -> None:
    laptop = site.log_in()
    server = ("--server", site.server.url, "--tls-ca", str(site.server.ca_file))
    for out, words in ((site.home / "absent" / "x", "cannot be written"), (site.home, "exists already")):
        refused = site.cli(
            "autopair", *server, "--out", str(out), fails=1, COMMUCAT_SESSION=_token_of(laptop)
        )
        assert words in refused
    assert len(laptop.json("devices", "list")) == 1
    refused = site.cli("autopair", *server, "--out", str(site.home / "y"), fails=1, COMMUCAT_SESSION="x" * 64)
    assert "no code was made" in refused
    assert not (site.home / "y").exists()


def test_what_the_client_prints_as_json(site: Site) -> None:
    laptop, friend = site.log_in(), site.log_in()
    login = ("login", "--server", site.server.url, "--handle", laptop.handle)
    again = laptop.json(*login, "--tls-ca", str(site.server.ca_file))
    assert (again["device_id"], again["handle"]) == (laptop.device_id, laptop.handle)

    own = laptop.json("fingerprint")
    assert own.keys() == {"device_id", "public_key", "fingerprint"}
    peer = laptop.json("fingerprint", "--peer", friend.device_id)
    assert peer["safety_number"] == friend.json("fingerprint", "--peer", laptop.device_id)["safety_number"]

    sent = laptop.json("send", "--to", friend.device_id, "one")
    assert sent == {"to": friend.device_id, "sent": 1, "refused": 0, "delivered": None}
    missed = invoke(
        [
            *("send", "--profile", str(laptop.profile), "--to", friend.device_id),
            *("--wait-delivered", "0.2", "--json", "two"),
        ]
    )
    assert missed.returncode == 1
    assert json.loads(missed.stdout) == {"to": friend.device_id, "sent": 1, "refused": 0, "delivered": []}

    friend.cli("friends", "request", laptop.handle)
    laptop.cli("friends", "accept", friend.handle)
    assert [each["user_id"] for each in laptop.json("friends", "list")["friends"]] != []
    assert laptop.json("friends", "remove", friend.handle) == {"removed": friend.handle}
    assert laptop.json("friends", "list")["friends"] == []


def test_a_device_whose_key_the_operator_has_changed_is_told_of_it(site: Site) -> None:
    laptop = site.log_in()
    data = ("--data-dir", str(site.server.data_dir))
    site.cli("rotate-keys", "--handle", laptop.handle, "--device", laptop.device_id, *data)

    assert "its key may have been changed" in laptop.cli("devices", "list", fails=1)


def test_friends_and_requests_are_lines_for_scripts(site: Site) -> None:
    laptop, friend = site.log_in(), site.log_in()
    friend.cli("friends", "request", laptop.handle, "--message", "two words")

    [waiting] = laptop.cli("friends", "requests").splitlines()
    [sent] = friend.cli("friends", "requests").splitlines()

    line = r"id=\S+ from=[0-9a-f]{64} to=[0-9a-f]{64} status=pending message=two words"
    assert re.fullmatch(f"in {line}", waiting)
    assert re.fullmatch(f"out {line}", sent)
    accepted = laptop.cli("friends", "accept", friend.handle)
    assert re.fullmatch(line.replace("pending", "accepted") + "\n", accepted)
    assert re.fullmatch(r"[0-9a-f]{64} devices=1\n", laptop.cli("friends", "list"))
    devices = laptop.cli("friends", "devices", friend.handle)
    assert re.fullmatch(rf"{friend.device_id} active key=[0-9a-f]{{64}}\n", devices)


def test_devices_are_a_table_on_a_terminal(site: Site) -> None:
    laptop = site.log_in()
    command = ("devices", "list", "--profile", str(laptop.profile))

    head, line = on_a_terminal(command, columns=250).splitlines()

    assert head.split()[:2] == ["device_id", "status"]
    assert "device_name" not in head
    assert laptop.device_id in line.split()
    assert on_a_terminal(command, columns=80).splitlines() == laptop.cli("devices", "list").splitlines()


def on_a_terminal(command: tuple[str, ...], *, columns: int) -> str:
    """What a command prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, columns))
    environment = clean_environment(TERM="vt100", COLUMNS="", LINES="")
    done = subprocess.run(
        [str(BIN / "commucat-cli"), *command], env=environment, stdout=theirs, timeout=DEADLINE, check=True
    )
    os.close(theirs)
    text = b""
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while data := os.read(ours, 65_536):
            text += data
    os.close(ours)
    assert done.returncode == 0
    return re.sub(r"\x1b\[[\d;]*m", "", text.decode())


def _token_of(owner: Owner) -> str:
    async def log_in() -> str:
        with open_profile(owner.profile) as profile:
            async with open_session(profile, receives=False) as connection:
                return connection.info.token

    return trio.run(log_in)
