"""What a hostile or unlucky client, a dead store or a stalled ledger must not do to the server's core."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from commucat_ledger import Ledger, LedgerRecord
from commucat_proto import MAX_FRAME_LEN, SEND_ONLY, Frame, FrameType, HandshakeFailed, encode_frame
from commucat_server.api.application import build_application
from commucat_server.connect.dispatch import MAX_BATCH
from commucat_server.connect.frames.messages import MAX_MESSAGE_LEN
from commucat_server.connect.handler import ConnectHandler
from commucat_server.routing.reception import WINDOW_BYTES
from commucat_storage import Admission, Admitted, CommitFailedError, SqliteSettings
from server.asgi_scopes import http_scope
from server.connect_builders import (
    Client,
    MemoryConnectStream,
    Person,
    Server,
    running_server,
)
from server.rest_builders import api_context

CHANNEL = 7
ALICE = Person(handle="alice")
BOB = Person(handle="bob")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


# -- frames that hurt others or the server --------------------------------------------------------------


@pytest.mark.parametrize("with_bob", [True, False], ids=["some accept", "nobody accepts"])
async def test_more_refusals_than_fit_a_frame_are_counted_and_the_rest_is_named(
    server: Server, with_bob: bool
) -> None:
    """Naming all of them made an answer that is no frame: the sender waited for ever."""
    bob = await server.connect(BOB)
    alice = await server.connect(ALICE)
    strangers = ["\U0001f600" * 127 + chr(0x4E00 + number) for number in range(500)]
    members = [*strangers, BOB.device_id] if with_bob else strangers
    assert "ack" in await alice.join(CHANNEL, *members)

    answer = await alice.message(CHANNEL, b"x")

    assert ("ack" in answer) is with_bob
    assert len(answer["refused"]) + answer["refused_more"] == 500
    assert len(answer["refused"]) > 400
    assert (await alice.join(CHANNEL, BOB.device_id)).get("ack")
    if with_bob:
        assert (await bob.next_of(FrameType.MSG)).payload == b"x"


async def test_message_that_would_be_no_frame_for_its_receiver_is_refused(tmp_path: Path) -> None:
    """Its receiver's number is longer than its sender's sequence. Stored, it would have ended every
    session of its receiver at the first read."""
    async with running_server(tmp_path, max_frame_len=MAX_FRAME_LEN) as server:
        bob = await server.connect(BOB)
        alice = await server.connect(ALICE)
        await alice.join(CHANNEL, BOB.device_id)
        for _ in range(130):
            alice.send(FrameType.MSG, CHANNEL, b"")
        alice.session._sequence = 1  # the shortest header

        poison = await alice.message(CHANNEL, bytes(MAX_FRAME_LEN - 7))
        largest = await alice.message(CHANNEL, bytes(MAX_MESSAGE_LEN))

        assert poison["error"] == "too_large"
        assert "ack" in largest
        numbers = [(await bob.next_of(FrameType.MSG)).sequence for _ in range(131)]
        assert numbers == list(range(1, 132))


async def test_one_read_of_many_messages_is_committed_in_bounded_batches(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await server.connect(BOB)
    alice = await server.connect(ALICE)
    await alice.join(CHANNEL, BOB.device_id)
    sizes: list[int] = []
    enqueue, enqueue_now = server.storage.enqueue, server.storage.enqueue_now

    async def counted(batch: Sequence[Any], done: Any) -> None:
        sizes.append(len(batch))
        await enqueue(batch, done)

    def counted_now(batch: Sequence[Any], done: Any) -> bool:
        sizes.append(len(batch))
        return enqueue_now(batch, done)

    monkeypatch.setattr(server.storage, "enqueue", counted)
    monkeypatch.setattr(server.storage, "enqueue_now", counted_now)
    frames = [alice.session.frame(FrameType.MSG, CHANNEL, b"%d" % number) for number in range(1000)]
    alice.stream.write(alice.session.seal([encoded for _, encoded in frames]))

    payloads = [(await bob.next_of(FrameType.MSG)).payload for _ in range(1000)]

    assert payloads == [b"%d" % number for number in range(1000)]
    assert max(sizes) <= MAX_BATCH
    assert [(await alice.next_of(FrameType.ACK)).control for _ in range(1000)] == [
        {"ack": sequence} for sequence, _ in frames
    ]


async def test_names_with_nul_do_not_count_for_another_device(tmp_path: Path) -> None:
    """SQLite's JSON functions end a text at NUL: "bob\\0x" loaded the routes of bob once more."""
    async with running_server(tmp_path, sqlite=SqliteSettings(max_route_members=10)) as server:
        alice = await server.connect(ALICE)
        bob = await server.connect(BOB)
        await bob.join(1, "a", "b", "c", "d")
        await alice.join(CHANNEL, BOB.device_id, *(f"{BOB.device_id}\0{n}" for n in range(5)))
        bob = await server.connect(BOB)  # what the journal remembers of bob is loaded anew

        assert len((await alice.message(CHANNEL, b"x"))["refused"]) == 5

        assert (await bob.join(2, "e", "f", "g", "h")).get("ack")


# -- the promise under trouble ----------------------------------------------------------------------------


async def test_store_that_takes_nothing_more_is_told_with_retry_and_ends_no_session(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.connect(ALICE)
    await server.connect(BOB)
    await alice.join(CHANNEL, BOB.device_id)

    def dead_now(*_: Any) -> bool:
        raise CommitFailedError("the journal's thread has died")

    async def dead(*_: Any) -> None:
        dead_now()

    with monkeypatch.context() as patched:
        patched.setattr(server.storage, "enqueue", dead)
        patched.setattr(server.storage, "enqueue_now", dead_now)
        answers = [await alice.message(CHANNEL, b"x") for _ in range(2)]

    assert [(answer["error"], answer["retry"]) for answer in answers] == [("storage", True)] * 2
    assert "ack" in await alice.message(CHANNEL, b"x")


class SlowStream(MemoryConnectStream):
    """A client that takes little at a time."""

    async def read_some(self, count: int) -> bytes:
        while not (self._down or self.ended or self.lost):
            await self._changed.park()
        data = bytes(self._down[:count])
        del self._down[:count]
        self._changed.unpark_all()
        return data


async def test_client_that_reads_slowly_but_steadily_is_not_dropped(
    server: Server, mock_clock: trio.testing.MockClock
) -> None:
    """The deadline is for a client that takes nothing; this one needs many times as long for one page."""
    alice = await server.connect(ALICE)
    await server.connect(BOB)
    await alice.join(CHANNEL, BOB.device_id)
    payload = bytes(60_000)
    count = 3 * WINDOW_BYTES // len(payload)
    for _ in range(count):
        await alice.message(CHANNEL, payload)
    stream = SlowStream(room=1)
    await server.connect(BOB, stream=stream)

    taken = 0
    while taken < count * len(payload):
        await trio.testing.wait_all_tasks_blocked(0.001)
        mock_clock.jump(20.0)  # write_stall is 30
        await trio.testing.wait_all_tasks_blocked()
        data = await stream.read_some(100_000)
        assert data, "dropped"
        taken += len(data)


async def test_send_only_session_that_renews_the_inbox_does_not_cut_off_the_receiving_one(
    tmp_path: Path,
) -> None:
    """The new numbers are below what the receiving session has handed over: it would stay silent."""
    async with running_server(tmp_path) as server:
        bob = await server.connect(BOB)
        alice = await server.connect(ALICE)
        await alice.join(CHANNEL, BOB.device_id)
        with sqlite3.connect(tmp_path / "store.db") as database:
            database.execute("UPDATE inbox_offset SET next_number = 2147483700")
        database.close()
        await alice.message(CHANNEL, b"one")
        assert (await bob.next_of(FrameType.MSG)).sequence == 2147483700

        await server.connect(BOB, capabilities=(SEND_ONLY,))
        await alice.message(CHANNEL, b"two")

        assert (await bob.next_of(FrameType.ERROR)).control["error"] == "renewed"  # type: ignore[index, call-overload]
        bob = await server.connect(BOB)
        got = [await bob.next_of(FrameType.MSG) for _ in range(2)]
        assert [(frame.sequence, frame.payload) for frame in got] == [(1, b"one"), (2, b"two")]


# -- handshakes -------------------------------------------------------------------------------------------


class RecordingLedger(Ledger):
    """Keeps records in memory; waits in ``append`` while ``stalled``."""

    def __init__(self, *, stalled: bool = False) -> None:
        self.records: list[LedgerRecord] = []
        self._stalled = stalled

    @property
    def written(self) -> int:
        return len(self.records)

    @property
    def failures(self) -> int:
        return 0

    async def append(self, record: LedgerRecord) -> None:
        await trio.lowlevel.checkpoint()
        if self._stalled:
            await trio.sleep_forever()
        self.offer(record)

    def offer(self, record: LedgerRecord) -> None:
        self.records.append(record)


def with_ledger(server: Server, ledger: Ledger) -> Server:
    context = attrs.evolve(server.context, ledger=ledger)
    return attrs.evolve(server, context=context, handler=ConnectHandler(context))


async def test_deadline_between_commit_and_ack_leaves_no_unrecorded_admission(
    server: Server, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = RecordingLedger()
    server = with_ledger(server, ledger)
    admit, look_up = server.storage.admit, server.storage.load_device

    async def slow_look(device_id: str) -> Any:
        mock_clock.jump(6.0)
        return await look_up(device_id)

    async def slow_admit(admission: Admission) -> Admitted:
        admitted = await admit(admission)
        mock_clock.jump(6.0)  # handshake_timeout is 10
        await trio.lowlevel.checkpoint()
        return admitted

    monkeypatch.setattr(server.storage, "load_device", slow_look)
    monkeypatch.setattr(server.storage, "admit", slow_admit)

    alice = await server.connect(ALICE)

    assert alice.refused is None
    actions = [record.metadata.get("action") for record in ledger.records]
    assert actions == ["register", None]
    assert await alice.join(CHANNEL, "x") == {"ack": 3}


async def test_stalled_ledger_does_not_keep_a_refused_client_waiting(server: Server) -> None:
    server = with_ledger(server, RecordingLedger(stalled=True))

    stranger = await server.connect(ALICE, domain="elsewhere")

    assert stranger.refused == {"error": "handshake", "detail": "invalid request"}


async def test_opaque_frame_of_the_server_in_the_handshake_is_a_violation_not_a_crash() -> None:
    session = ALICE.session()
    session.start()

    [event] = session.receive_data(encode_frame(FrameType.MSG, 0, 1, b"x"))

    assert isinstance(event, HandshakeFailed)


# -- presence ---------------------------------------------------------------------------------------------


async def test_send_only_session_leaves_no_presence_behind(server: Server) -> None:
    alice = await server.connect(ALICE, capabilities=(SEND_ONLY,))
    alice.send(FrameType.PRESENCE, 0, {"state": "busy"})
    await alice.join(CHANNEL, "x")
    alice.stream.lose()
    await trio.testing.wait_all_tasks_blocked()

    await server.context.presence.refresh()

    assert await server.context.presence.state_of(ALICE.device_id) is None


# -- HTTP -------------------------------------------------------------------------------------------------


async def ask(server: Server, method: str, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """One request to the REST interface; (status, body)."""
    application = build_application(api_context(server))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = http_scope(method, path, [(b"host", b"localhost"), *headers])
    await application(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


CERTIFICATE = f"/api/devices/{ALICE.device_id}/certificate"


async def authorized(server: Server, form: str) -> tuple[bytes, bytes]:
    alice: Client = await server.connect(ALICE)
    return b"authorization", form.format(alice.token).encode()


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}", "{}"])
async def test_scheme_of_the_authorization_is_not_case_sensitive(server: Server, form: str) -> None:
    status, _ = await ask(server, "GET", CERTIFICATE, await authorized(server, form))

    assert status == 200


@pytest.mark.parametrize("form", ["", "Bearer", "Bearer ", "Basic {}", "Bearer {}x", "\xff"])
async def test_other_credentials_are_401(server: Server, form: str) -> None:
    status, body = await ask(server, "GET", CERTIFICATE, await authorized(server, form))

    assert status == 401
    assert b'"type":"about:blank"' in body


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/server-info"])
async def test_head_is_answered_like_get(server: Server, path: str) -> None:
    assert (await ask(server, "HEAD", path))[0] == 200


@pytest.mark.parametrize("name", ["a\0b", "\ufffd", "x" * 5000])
async def test_strange_device_ids_in_a_path_are_just_unknown(server: Server, name: str) -> None:
    path = f"/api/devices/{name}/certificate"

    assert (await ask(server, "GET", path, await authorized(server, "Bearer {}")))[0] == 404


async def test_mistake_of_ours_is_logged_and_told_as_a_problem(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = await authorized(server, "Bearer {}")

    async def broken(_: str) -> None:
        raise RuntimeError("a detail for us alone")

    monkeypatch.setattr(server.storage, "load_device", broken)

    status, body = await ask(server, "GET", CERTIFICATE, header)

    assert status == 500
    assert b'"title":"InternalError"' in body
    assert b"detail for us" not in body
    told = capsys.readouterr()
    assert "detail for us" in told.out + told.err


async def test_answer_to_head_on_connect_has_no_body(server: Server) -> None:
    stream = MemoryConnectStream(method="HEAD")

    await server.handler(stream)

    assert (stream.status, stream.ended, stream.outbox_bytes) == (404, True, 0)


def test_frame_that_names_nobody_fits() -> None:
    """The bound of a message leaves room for the longest header."""
    frame = Frame(FrameType.MSG, 2**32 - 1, 2**32 - 1, bytes(MAX_MESSAGE_LEN))

    assert len(frame.encode()) == MAX_FRAME_LEN + 4
