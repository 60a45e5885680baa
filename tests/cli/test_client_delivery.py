"""Following messages to their end: reports read, passed over, confirmed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from cli.cli_builders import (
    ScriptedServer,
    attached,
    device,
    in_memory,
    parameters,
    profile_of,
    sealed_message,
)
from commucat_cli.client import (
    Deliveries,
    InboxReader,
    Outbox,
    OutgoingMessage,
    PeerDirectory,
    SentMessage,
    attach,
    require_reports,
    watch_reports,
)
from commucat_cli.client.answers import read_acknowledgement
from commucat_cli.client.delivery import START_LEN, status_text
from commucat_cli.client.tasks import race
from commucat_cli.errors import CliError, ConnectionLostError
from commucat_cli.profile import Cursor, Profile
from commucat_proto import (
    DeliveryReport,
    DeliveryStatus,
    ExpiryReason,
    Frame,
    FrameType,
    json_text,
)

ALICE, BOB = device(1), device(2)
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


def outgoing(number: int, text: str = "text") -> OutgoingMessage:
    return OutgoingMessage(message_id=bytes([number]) * 16, sent_at=0, text=text)


def report(
    *messages: str, status: DeliveryStatus = DeliveryStatus.DELIVERED, device: str = "bob", **changes: Any
) -> DeliveryReport:
    return DeliveryReport(status=status, device=device, channel=7, messages=messages, **changes)


def expired(*messages: str, reason: ExpiryReason = ExpiryReason.TTL) -> DeliveryReport:
    return report(*messages, status=DeliveryStatus.EXPIRED, reason=reason)


async def told(deliveries: Deliveries, report: DeliveryReport) -> list[SentMessage]:
    """The messages of which the report tells."""
    found: list[SentMessage] = []

    async def tell(messages: list[SentMessage]) -> None:
        found.extend(messages)

    await deliveries.take(report, tell)
    return found


# -- following --------------------------------------------------------------------------------------------


async def test_a_report_names_messages_that_were_sent() -> None:
    deliveries = Deliveries("bob")
    deliveries.stored(outgoing(1, "x" * 100), ONE)
    deliveries.stored(outgoing(2), TWO)

    [message] = await told(deliveries, report(ONE, THREE))

    assert (message.message_id, message.start) == (bytes([1]) * 16, "x" * START_LEN)
    assert await told(deliveries, report(ONE)) == [], "told once"
    assert await told(deliveries, report(TWO, device="carol")) == [], "another device says nothing of bob"
    assert [each.message_id for each in await told(deliveries, report(TWO))] == [bytes([2]) * 16]
    await deliveries.wait_known()


async def test_expiry_is_counted_by_its_reason() -> None:
    deliveries = Deliveries("bob")
    for number, name in ((1, ONE), (2, TWO), (3, THREE)):
        deliveries.stored(outgoing(number), name)

    await told(deliveries, expired(ONE, TWO))
    assert len(await told(deliveries, expired(THREE, reason=ExpiryReason.REVOKED))) == 1

    assert deliveries.expired == {ExpiryReason.TTL: 2, ExpiryReason.REVOKED: 1}


async def test_waiting_ends_when_everything_is_known() -> None:
    deliveries = Deliveries("bob")
    deliveries.stored(outgoing(1), ONE)
    deliveries.stored(outgoing(2), TWO)
    known = trio.Event()

    async def wait() -> None:
        await deliveries.wait_known()
        known.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await told(deliveries, report(ONE))
        await trio.testing.wait_all_tasks_blocked()
        assert not known.is_set()

        async def tell(messages: list[SentMessage]) -> None:
            await trio.testing.wait_all_tasks_blocked()
            assert not known.is_set(), "not before a person was told"

        await deliveries.take(expired(TWO), tell)


def test_the_words_for_people() -> None:
    assert status_text(report(ONE)) == "delivered"
    assert status_text(expired(ONE)) == "not delivered: it expired on the server"
    assert status_text(expired(ONE, reason=ExpiryReason.REVOKED)) == "not delivered: the device was revoked"


@pytest.mark.parametrize("name", [ONE, "x", 5, None])
def test_an_ack_may_name_the_message(name: Any) -> None:
    answer = read_acknowledgement({"ack": 4, "message": name, "stored": ["bob"]})

    assert answer is not None
    assert answer.message == (ONE if name == ONE else None)


# -- on the wire ------------------------------------------------------------------------------------------


@attrs.define
class Sending:
    """A profile that waits for deliveries to bob."""

    server: ScriptedServer
    profile: Profile
    reports: list[DeliveryReport] = attrs.Factory(list)
    notices: list[str] = attrs.Factory(list)

    def deliver_report(self, *messages: str) -> int:
        return self.deliver_raw(report(*messages).to_wire())

    def deliver_raw(self, value: dict[str, Any], channel: int = 0) -> int:
        return self.server.deliver(FrameType.GROUP_EVENT, channel, json_text.dumps(value))

    def deliver_message(self, text: str) -> int:
        return self.server.deliver(FrameType.MSG, 7, sealed_message("alice", ALICE, self.profile, text))

    async def take(self, report: DeliveryReport) -> None:
        self.reports.append(report)

    async def watch(self, count: int) -> None:
        """One session, until so many reports were taken and what is to be confirmed is."""
        async with (
            in_memory(self.server) as client,
            attach(client, parameters(self.profile.keys, self.server)) as connection,
        ):

            async def enough() -> None:
                while len(self.reports) < count:
                    await trio.testing.wait_all_tasks_blocked()
                await trio.testing.wait_all_tasks_blocked(0.05)

            await race(partial(watch_reports, connection, self.profile, self.take), enough)


@contextmanager
def sending(folder: Path) -> Iterator[Sending]:
    server = ScriptedServer()
    server.add_device("alice", ALICE)
    server.add_device("bob", BOB)
    with profile_of(folder / "me", server) as profile:
        yield Sending(server, profile)


async def test_reports_at_the_head_of_the_inbox_are_confirmed(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        it.deliver_report(ONE)
        it.deliver_raw({"event": "delivery-status", "status": "from the future"})
        it.deliver_report(TWO, THREE)

        await it.watch(2)

        assert it.reports == [report(ONE), report(TWO, THREE)]
        assert it.server.confirmed == 3
        assert it.profile.state.cursor() == Cursor("e1", 3)


async def test_messages_stay_where_they_are_and_reports_behind_them_too(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        it.deliver_report(ONE)
        it.deliver_message("for listen")
        it.deliver_report(TWO)

        await it.watch(2)

        assert it.reports == [report(ONE), report(TWO)]
        assert it.server.confirmed == 1


async def test_what_only_looks_like_a_report_is_none(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        it.deliver_report(ONE)
        it.deliver_raw(report(TWO).to_wire(), channel=7)
        it.deliver_report(THREE)

        await it.watch(2)

        assert it.reports == [report(ONE), report(THREE)]
        assert it.server.confirmed == 1


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
async def test_the_inbox_reader_passes_reports_over_in_silence(tmp_path: Path, asked: bool) -> None:
    with sending(tmp_path) as it:
        it.deliver_report(ONE)
        it.deliver_message("hello")
        it.deliver_raw({"event": "delivery-status"})
        shown: list[str] = []

        async def show(messages: Any) -> None:
            shown.extend(message.text for message in messages)

        reader = InboxReader(
            it.profile, show=show, notice=it.notices.append, on_report=it.take if asked else None
        )
        it.server.ends_when_confirmed = True

        async def read() -> None:
            async with (
                in_memory(it.server) as client,
                attach(client, parameters(it.profile.keys, it.server)) as connection,
            ):
                directory = PeerDirectory(it.profile.state, it.server.authority.public, connection)
                await reader.run(connection, directory)

        with trio.fail_after(20), pytest.raises(ConnectionLostError):
            await read()

        assert (shown, it.notices) == (["hello"], [])
        assert it.reports == ([report(ONE)] if asked else [])
        assert it.server.confirmed == 3


async def test_the_outbox_tells_what_the_server_calls_a_message(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        stored: list[tuple[str, str]] = []
        outbox = Outbox(
            it.profile,
            "bob",
            channel=7,
            on_refused=lambda message, reason: pytest.fail(reason),
            on_stored=lambda message, name: stored.append((message.text, name)),
        )
        names = iter((ONE, None, TWO))

        def answer(frame: Frame) -> dict[str, Any]:
            if frame.type is not FrameType.MSG:
                return {}
            name = next(names)
            return {} if name is None else {"message": name, "stored": ["bob"]}

        it.server.answer = answer
        for text in ("one", "two", "three"):
            await outbox.add(text)
        async with (
            in_memory(it.server) as client,
            attach(client, parameters(it.profile.keys, it.server)) as connection,
        ):
            directory = PeerDirectory(it.profile.state, it.server.authority.public, connection)
            await race(partial(outbox.run, connection, directory), outbox.wait_settled)

        assert stored == [("one", ONE), ("three", TWO)]


@pytest.mark.parametrize("told", [None, "delivery-status", ["delivery-ack"]])
async def test_a_server_without_reports_is_named(told: Any) -> None:
    server = ScriptedServer(ack={} if told is None else {"capabilities": told})
    async with attached(server) as connection:
        with pytest.raises(CliError, match="does not report deliveries"):
            require_reports(connection)


async def test_a_server_with_reports_passes() -> None:
    async with attached(ScriptedServer(ack={"capabilities": ["x", "delivery-status"]})) as connection:
        require_reports(connection)
