"""The client's commands against the real server, as a person and a script would use them."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.client_people import CLI, Person, error_line, login, read_until
from end_to_end.server_process import BIN, DEADLINE, ServerProcess, clean_environment, run, server_process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


def test_a_conversation_offline_and_live(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob", "--pattern", "IK")
    assert alice.send(bob, "first, привет \U0001f408").returncode == 0
    assert alice.send(bob, "--stdin", stdin="second\n\nthird\n").returncode == 0
    first, second, third = bob.listen(3)
    assert [message["text"] for message in (first, second, third)] == [
        "first, привет \U0001f408",
        "second",
        "third",
    ]
    assert {message["from"] for message in (first, second, third)} == {alice.device_id}
    assert [message["sequence"] for message in (first, second, third)] == [1, 2, 3]
    assert len({message["id"] for message in (first, second, third)}) == 3
    assert first["channel"] == second["channel"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["sent_at"])

    with bob.running("listen", "--json", "--count", "2") as listening:
        assert alice.send(bob, "live").returncode == 0
        assert json.loads(listening.line())["text"] == "live"
        assert bob.send(alice, "answered beside a running listen").returncode == 0
        assert alice.send(bob, "last", "--channel", "99").returncode == 0
        assert json.loads(listening.line())["channel"] == 99
        assert listening.end()[0] == 0
    assert alice.listen(1)[0]["text"] == "answered beside a running listen"
    assert server.stop() == 0


def test_listen_takes_what_it_was_asked_for_and_no_more(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    assert alice.send(bob, "--stdin", stdin="".join(f"{n}\n" for n in range(100))).returncode == 0
    assert [message["text"] for message in bob.listen(40)] == [str(n) for n in range(40)]
    assert [message["text"] for message in bob.listen(60)] == [str(n) for n in range(40, 100)]
    done = bob.run("listen", "--count", "1", "--timeout", "0.5", "--json")
    assert "0 of 1 messages came within 0.5 s" in error_line(done)
    assert done.stdout == ""


def test_sending_leaves_the_senders_own_inbox_alone(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    waiting = [str(n) for n in range(50)]
    assert alice.send(bob, "--stdin", stdin="".join(f"{n}\n" for n in waiting)).returncode == 0

    assert bob.send(alice, "an answer").returncode == 0

    assert [message["text"] for message in bob.listen(50)] == waiting
    assert [message["text"] for message in alice.listen(1)] == ["an answer"]


def test_listening_for_3_of_10_leaves_7(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    assert alice.send(bob, "--stdin", stdin="".join(f"{n}\n" for n in range(10))).returncode == 0

    first, rest = bob.listen(3), bob.listen(7)

    assert [message["text"] for message in first + rest] == [str(n) for n in range(10)]
    assert [message["sequence"] for message in first + rest] == list(range(1, 11))
    assert bob.run("listen", "--count", "1", "--timeout", "0.5").returncode == 1


def test_what_was_not_read_from_our_output_is_delivered_again(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with bob.running("listen", "--json") as listening:
        assert listening.process.stdout is not None
        assert alice.send(bob, "read").returncode == 0
        assert json.loads(listening.line())["text"] == "read"
        listening.process.stdout.close()
        assert alice.send(bob, "unread").returncode == 0
        assert listening.process.wait(DEADLINE) == 1
        assert listening.process.stderr is not None
        assert b"error: standard output" in listening.process.stderr.read()
    assert [message["text"] for message in bob.listen(1)] == ["unread"]


def test_a_killed_listener_shows_nothing_twice_that_it_wrote_down(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with bob.running("listen", "--json") as listening:
        assert alice.send(bob, "one").returncode == 0
        listening.line()
        # The second line proves that the first was written down before.
        assert alice.send(bob, "two").returncode == 0
        listening.line()
        listening.process.kill()
    assert alice.send(bob, "three").returncode == 0
    texts = [message["text"] for message in bob.listen(1)]
    assert texts in (["three"], ["two"])


def test_a_killed_server_costs_neither_sender_nor_receiver_a_message(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with (
        bob.running("listen", "--json") as listening,
        alice.running("send", "--to", bob.device_id, "--stdin") as sending,
    ):
        sending.write("".join(f"{n}\n" for n in range(200)))
        assert json.loads(listening.line())["text"] == "0"
        server.kill()
        sending.write("".join(f"{n}\n" for n in range(200, 400)))
        server.start()
        status, _, errors = sending.end()
        assert status == 0, errors
        assert "trying again" in errors
        texts = [json.loads(listening.line())["text"] for _ in range(399)]
        assert sorted(map(int, texts)) == list(range(1, 400))
        status, rest, errors = listening.end(signal.SIGINT)
        assert (status, rest) == (130, "")
        assert errors.endswith("error: interrupted\n")


def test_a_stopped_server_is_waited_for(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with bob.running("listen", "--json", "--count", "1") as listening:
        assert alice.send(bob, "--stdin", stdin="").returncode == 0
        assert server.stop() == 0
        done = alice.send(bob, "--timeout", "1", "into the void")
        assert "1 of 1 messages were not acknowledged within 1 s: cannot connect" in error_line(done)
        server.start()
        assert alice.send(bob, "here again").returncode == 0
        assert json.loads(listening.line())["text"] == "here again"
        assert listening.end()[0] == 0


def test_chat_between_two_pipes(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with (
        alice.running("chat", "--to", bob.device_id) as one,
        bob.running("chat", "--to", alice.device_id) as two,
    ):
        one.write("hello\n")
        assert two.line().endswith(f"{alice.device_id}: hello")
        two.write("hi\nand bye\n")
        assert one.line().endswith(f"{bob.device_id}: hi")
        assert one.line().endswith(": and bye")
        one.write("not a whole line")
        assert one.end()[::2] == (0, "")
        assert two.line().endswith(": not a whole line")
        assert two.end()[::2] == (0, "")


def test_chat_on_a_terminal(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with alice.chat_on_a_terminal(bob) as ours:
        seen = read_until(ours, b"> ")
        os.write(ours, b"typed\n")
        assert bob.listen(1)[0]["text"] == "typed"
        assert bob.send(alice, "\x1b[31mred\x1b[0m").returncode == 0
        seen = read_until(ours, b"red", seen)
        assert b"\\u001b[31mred" in seen, "escape sequences of others must not reach the terminal"


def test_fingerprints_and_safety_numbers(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")

    def shown(person: Person, *arguments: str) -> dict[str, str]:
        done = person.run("fingerprint", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    one, two = shown(alice, "--peer", bob.device_id), shown(bob, "--peer", alice.device_id)
    assert one["safety_number"] == two["safety_number"]
    assert one["peer_public_key"] == shown(bob)["public_key"]
    assert shown(alice)["fingerprint"] != shown(bob)["fingerprint"]
    server.stop()
    assert shown(alice, "--peer", bob.device_id) == one, "a known peer needs no server"


def test_only_one_command_reads_an_inbox(server: ServerProcess) -> None:
    alice = login(server, "alice")
    bob = login(server, "bob")
    with alice.running("listen", "--json") as listening:
        bob.send(alice, "x")
        listening.line()
        assert "another commucat-cli" in error_line(alice.run("listen"))
        assert "another commucat-cli" in error_line(alice.run("chat", "--to", bob.device_id))


def test_a_copied_profile_takes_over_and_the_first_is_told(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    with bob.running("listen", "--json") as listening:
        alice.send(bob, "x")
        listening.line()
        copy = server.home / "copy"
        copy.mkdir(0o700)
        for name in ("keys.json", "profile.db", "tls-ca.pem"):
            (copy / name).write_bytes((bob.profile / name).read_bytes())
            (copy / name).chmod(0o600)
        with Person(copy, bob.device_id, server.home).running("listen", "--json"):
            assert listening.process.wait(DEADLINE) == 1
            assert listening.process.stderr is not None
            assert b"error: another session of this device took over" in listening.process.stderr.read()


def test_enrolment_codes_let_further_devices_in(server: ServerProcess) -> None:
    login(server, "alice")
    arguments = [
        *(CLI, "login", "--server", server.url, "--handle", "alice", "--tls-ca", str(server.ca_file)),
        *("--profile", str(server.home / "second")),
    ]
    assert "ask its operator for a one-time code" in error_line(run(arguments, server.home))
    assert "refuses the code" in error_line(run([*arguments, "--code", "wrong"], server.home))
    made = run([CLI, "register-user", "alice", "--new-code", "--data-dir", str(server.data_dir)], server.home)
    assert made.returncode == 0, made.stderr
    found = re.search(r"code=(\S+)", made.stdout)
    assert found is not None, made.stdout
    done = run([*arguments, "--code", found[1]], server.home)
    assert done.returncode == 0, done.stderr


def test_failures_are_one_line_each(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    assert "knows no device nobody" in error_line(alice.run("send", "--to", "nobody", "x"))
    assert "own device" in error_line(alice.send(alice, "x"))
    assert "1000000 bytes" in error_line(alice.send(bob, "--stdin", stdin="x" * 1_100_000))
    login_arguments = (CLI, "login", "--handle", "carol", "--profile", str(server.home / "carol"))
    assert "--tls-ca FILE" in error_line(run([*login_arguments, "--server", server.url], server.home))
    assert "no certificate" in error_line(
        run([*login_arguments, "--server", server.url, "--tls-ca", str(Path(__file__))], server.home)
    )
    insecure = run([*login_arguments, "--server", server.url, "--insecure"], server.home)
    assert insecure.returncode == 0
    assert insecure.stderr.startswith("warning: the server's TLS certificate is not checked")
    (server.home / "carol" / "keys.json").chmod(0o644)
    carol = Person(server.home / "carol", "", server.home)
    assert "open to other users" in error_line(carol.run("listen"))
    assert "there is no profile" in error_line(Person(server.home / "none", "", server.home).run("listen"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "--profile", "x", "--to", "y"],
        ["send", "--profile", "x", "--to", "y", "text", "--stdin"],
        ["send", "--profile", "x", "--to", "y", "--channel", "0", "text"],
        ["listen"],
        ["login", "--server", "http://x", "--handle", "a", "--profile", "x"],
        ["login", "--server", "https://x", "--handle", "a b", "--profile", "x"],
        ["login", "--server", "https://x", "--handle", "a", "--profile", "x", "--insecure", "--tls-ca", "y"],
        ["login", "--server", "https://x", "--handle", "a", "--profile", "x", "--pattern", "NN"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run([CLI, *arguments], tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_version_and_vectors(tmp_path: Path) -> None:
    assert re.fullmatch(r"commucat-cli \d+\.\d+\.\d+\S*\n", run([CLI, "--version"], tmp_path).stdout)
    vectors = Path(__file__).parents[1] / "vectors"
    done = run([CLI, "conformance", "vectors", str(vectors)], tmp_path)
    assert (done.returncode, " 0 failed" in done.stdout) == (0, True)
    assert run([CLI, "conformance", "vectors", str(tmp_path)], tmp_path).returncode == 1
    missing = run([CLI, "conformance", "vectors", str(tmp_path / "none")], tmp_path)
    assert "cannot read" in error_line(missing)


def test_the_longest_message_passes(server: ServerProcess) -> None:
    alice, bob = login(server, "alice"), login(server, "bob")
    text = "x" * 1_000_000
    done = alice.send(bob, "--stdin", stdin=text)
    assert done.returncode == 0, done.stderr
    assert bob.listen(1)[0]["text"] == text


def test_closed_standard_streams_lose_nothing(server: ServerProcess) -> None:
    """The database must not be opened under the number of standard output."""
    alice, bob = login(server, "alice"), login(server, "bob")
    assert alice.send(bob, "precious").returncode == 0
    cli = f"{BIN / CLI}"
    listen = f"{cli} listen --profile {bob.profile} --count 1 --timeout 20 --json"
    send = f"{cli} send --profile {alice.profile} --to {bob.device_id} --stdin"
    for command in (f"{listen} >&-", f"{listen} >&- 2>&- <&-", f"{send} <&-"):
        done = subprocess.run(
            ["sh", "-c", command], env=clean_environment(), capture_output=True, timeout=DEADLINE, check=False
        )
        assert done.returncode == 1, command
        assert done.stdout == b""
    assert bob.listen(1)[0]["text"] == "precious"
