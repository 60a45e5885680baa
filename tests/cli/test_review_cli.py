"""What lying servers, full disks, odd terminals and typing errors must not do to the client."""

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from trio.testing import MockClock

from cli.cli_builders import (
    ScriptedServer,
    attached,
    in_memory,
    make_profile,
    on_tcp,
    parameters,
    profile_of,
)
from commucat_cli.client import LoginRequest, ReceivedMessage, attach, log_in, open_session
from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.client.session import LONGEST_WAIT, Backoff
from commucat_cli.commands.display import text_line
from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError, TrustError
from commucat_cli.profile import Cursor, ProfileKeys, open_profile, open_profile_for_login
from commucat_cli.terminal import LineReader, Output
from commucat_cli.transport import H2Client, ServerAddress, Timeouts, running
from commucat_proto import FrameType
from end_to_end.server_process import BIN, DEADLINE, clean_environment
from server.listener_builders import write_certificate

# -- messages -----------------------------------------------------------------------------------------


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC-14")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_a_message_of_the_last_hour_of_the_calendar_can_be_shown_east_of_greenwich() -> None:
    """Otherwise one such message would end every ``listen`` and ``chat`` of its receiver."""
    message = ReceivedMessage(
        message_id=bytes(16), sender="alice", channel=1, number=1, sent_at=253_402_300_799_000, text="x"
    )
    assert text_line(message) == "[?] alice: x\n"


# -- profile ------------------------------------------------------------------------------------------


def test_a_key_is_pinned_while_another_thread_settles(tmp_path: Path) -> None:
    """In ``chat`` the sender pins a key while what came is written down in a worker thread."""
    inside, go = threading.Event(), threading.Event()

    def shown() -> Iterable[tuple[str, bytes]]:
        yield ("alice", bytes(16))
        inside.set()
        assert go.wait(10)

    outcome: list[object] = []

    def pin() -> None:
        try:
            outcome.append(profile.state.pin_peer("bob", bytes(32)))
        except CliError as exc:
            outcome.append(exc)

    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        settling = threading.Thread(target=profile.state.settle, args=(Cursor("e1", 5), shown()))
        pinning = threading.Thread(target=pin)
        settling.start()
        assert inside.wait(10)
        pinning.start()
        pinning.join(0.2)  # ends at once where it does not wait its turn
        go.set()
        settling.join()
        pinning.join()
        assert outcome == [True]
        assert profile.state.cursor() == Cursor("e1", 5)
        assert profile.state.was_shown("alice", bytes(16))


async def test_a_repeated_login_with_a_wrong_ca_file_leaves_the_profile_as_it_was(tmp_path: Path) -> None:
    server = ScriptedServer()
    (tmp_path / "other").mkdir()
    wrong, _ = write_certificate(tmp_path / "other")
    write_certificate.__globals__["certificate_pem"].cache_clear()  # the server gets another one
    async with on_tcp(server, tmp_path) as (url, _):
        make_profile(tmp_path / "me", server, url)
        request = LoginRequest(address=ServerAddress.parse(url), handle="me", ca_file=wrong)
        with (
            open_profile_for_login(tmp_path / "me") as profile,
            pytest.raises(TrustError, match=r"not trusted by .*other"),
        ):
            await log_in(profile, request)
        with open_profile(tmp_path / "me") as profile:
            async with open_session(profile, receives=False) as connection:
                assert connection.info.token == "token"


# -- servers that lie -----------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [[{}], [[1]], [None], "1", {"1": 1}])
async def test_versions_that_are_no_numbers_are_told(versions: Any) -> None:
    async with in_memory(ScriptedServer(info={"supported_versions": versions})) as client:
        with pytest.raises(NotCommuCatError, match="other protocol versions"):
            await fetch_server_info(client, Timeouts())


class Answering:
    """An HTTP/2 server by hand: gives every request the same head, then calls ``body`` for more."""

    def __init__(self, status: str, *, endless: bool = False) -> None:
        self._status = status
        self._endless = endless
        self.sent = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
        )
        connection.initiate_connection()
        asked = 0
        while data := await stream.receive_some():
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    asked = event.stream_id or 0
                    connection.send_headers(asked, [(":status", self._status)], end_stream=not self._endless)
            while asked and self._endless and connection.local_flow_control_window(asked) >= 16_384:
                connection.send_data(asked, bytes(16_384))
                self.sent += 16_384
                await stream.send_all(connection.data_to_send())
            await stream.send_all(connection.data_to_send())


@pytest.mark.parametrize("status", ["000", "9" * 5000, "-1", "20", "2000", "two"])
async def test_a_status_that_is_none_is_a_bad_answer(status: str) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Answering(status).serve, theirs)
            async with running(H2Client(ours, "x:1"), Timeouts()) as client:
                assert (await client.get("/")).status == 502
            nursery.cancel_scope.cancel()


async def test_a_refusal_of_connect_that_never_ends_is_cut_off() -> None:

    ours, theirs = trio.testing.memory_stream_pair()
    server = Answering("500", endless=True)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, theirs)
            async with running(H2Client(ours, "x:1"), Timeouts()) as client:
                with pytest.raises(NotCommuCatError, match="longer than"):
                    async with attach(client, parameters(ProfileKeys.generate(), ScriptedServer())):
                        pass
            nursery.cancel_scope.cancel()
    assert server.sent < 8 * 2**20


async def test_large_frames_wait_on_the_server_when_nobody_takes_them() -> None:
    server = ScriptedServer()
    for _ in range(64):
        server.deliver(FrameType.MSG, 1, bytes(2**19))
    async with attached(server) as connection:
        await trio.testing.wait_all_tasks_blocked()
        waiting = sum(len(frame.payload) for frame in await connection.deliveries())
    assert waiting < 8 * 2**20


async def test_a_server_that_drops_every_session_at_once_is_asked_less_and_less(
    autojump_clock: MockClock,
) -> None:
    backoff = Backoff(lambda _: None)
    for _ in range(10):
        backoff.succeeded()
        await backoff.after(ConnectionLostError("x"))
    before = trio.current_time()
    backoff.succeeded()
    await backoff.after(ConnectionLostError("x"))
    assert trio.current_time() - before >= LONGEST_WAIT / 2


async def test_after_a_session_that_lasted_the_first_attempt_comes_soon(autojump_clock: MockClock) -> None:
    backoff = Backoff(lambda _: None)
    for _ in range(10):
        await backoff.after(ConnectionLostError("x"))
    backoff.succeeded()
    await trio.sleep(LONGEST_WAIT + 1)  # a sum of floats can fall short
    before = trio.current_time()
    await backoff.after(ConnectionLostError("x"))
    assert trio.current_time() - before < 1


# -- terminals and arguments ------------------------------------------------------------------------------


def cli(
    folder: Path, *arguments: str | bytes, stdout: Any = subprocess.PIPE, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [str(BIN / "commucat-cli"), *arguments],
        cwd=folder,
        env=clean_environment() | {"PYTHONUNBUFFERED": ""} | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )


VECTORS = str(Path(__file__).parents[1] / "vectors")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("register-user", "alice", "--data-dir", "data"),
        ("migrate", "--data-dir", "data"),
        ("diagnose", "--data-dir", "data"),
        ("diagnose", "--data-dir", "data", "--json"),
        ("conformance", "vectors", VECTORS),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], full: bool
) -> None:
    """The device ``/dev/full`` is a full disk; a pipe that nobody reads is ``| head``."""
    if full:
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    done = cli(tmp_path, *arguments, stdout=target)
    os.close(target)
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("warning: ")]
    assert done.returncode == 1
    if full or arguments != ("--help",):  # there the library leaves without a word, as is usual
        assert len(lines) == 1
        assert lines[0].startswith("error: standard output ")


async def test_a_non_blocking_pipe_is_waited_for() -> None:
    """Programs that share a terminal or pipe with us may leave it so."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    text = "x" * 999_999 + "\n"
    lines = LineReader(reader)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Output(writer).write, text)
            assert await lines.next_line() == text[:-1]
            nursery.start_soon(Output(writer).write, "last")
            nursery.start_soon(_close_later, writer)
            assert await lines.next_line() == "last"
    os.close(reader)


async def _close_later(fd: int) -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)
    os.close(fd)


def test_a_closed_standard_output_is_an_error_and_not_silence(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {BIN / 'commucat-cli'} register-user alice --data-dir data >&-"],
        cwd=tmp_path,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert b"error: standard output " in done.stderr


def test_a_name_that_the_terminal_cannot_show_does_not_swallow_the_code(tmp_path: Path) -> None:
    arguments = ("register-user", "zoe", "Zo\xeb", "--data-dir", "data")
    done = cli(tmp_path, *arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert b"display_name=Zo\\xeb\n" in done.stdout
    assert b"\ncode=" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("send", "--profile", "me", "--to", b"\xff", "x"),
        ("send", "--profile", "me", "--to", "", "x"),
        ("send", "--profile", "me", "--to", "a" * 100_000, "x"),
        ("chat", "--profile", "me", "--to", b"\xff"),
        ("fingerprint", "--profile", "me", "--peer", b"\xff"),
        ("login", "--profile", "me", "--server", "localhost", "--handle", "me", "--code", b"\xff"),
    ],
)
def test_an_argument_that_names_nothing_is_wrong_usage(
    tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    done = cli(tmp_path, *arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"defect" not in done.stderr
