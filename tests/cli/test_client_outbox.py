"""Sending: acknowledged in order, resent after trouble, refused with a reason."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from cli.cli_builders import ScriptedServer, device, in_memory, parameters, profile_of
from commucat_cli.client import Outbox, OutgoingMessage, PeerDirectory, attach, derive_channel
from commucat_cli.client.outbox import MAX_ATTEMPTS, MAX_TEXT_LEN
from commucat_cli.client.tasks import race
from commucat_cli.errors import CliError, ConnectionLostError, PeerKeyError
from commucat_cli.profile import Profile
from commucat_proto import Frame, FrameType
from commucat_proto.sealing import Opened, open_envelope

BOB = device(2)


@attrs.define
class Sending:
    server: ScriptedServer
    profile: Profile
    refused: list[tuple[str, str]] = attrs.Factory(list)

    def outbox(self, channel: int | None = None, to: str = "bob") -> Outbox:
        return Outbox(self.profile, to, channel=channel, on_refused=self._refused)

    def _refused(self, message: OutgoingMessage, reason: str) -> None:
        self.refused.append((message.text, reason))

    async def run(self, outbox: Outbox) -> None:
        """One session, until nothing is pending."""
        async with (
            in_memory(self.server) as client,
            attach(client, parameters(self.profile.keys, self.server)) as connection,
        ):
            directory = PeerDirectory(self.profile.state, self.server.authority.public, connection)
            await race(partial(outbox.run, connection, directory), connection.wait_ended, outbox.wait_settled)

    def opened(self) -> list[Opened]:
        return [open_envelope(frame.payload, "bob", BOB) for frame in self.server.messages()]

    def derived(self, attempt: int) -> int:
        return derive_channel(self.profile.keys.device_id, "bob", attempt)


@contextmanager
def sending(
    folder: Path, answer: Callable[[Frame], dict[str, Any] | None] = lambda _: {}
) -> Iterator[Sending]:
    server = ScriptedServer(answer=answer)
    server.add_device("bob", BOB)
    with profile_of(folder / "me", server) as profile:
        yield Sending(server, profile)


async def test_messages_arrive_sealed_on_the_derived_channel_in_order(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox()
        for number in range(100):
            await outbox.add(str(number))
        await it.run(outbox)
        assert (outbox.pending, outbox.settled) == (0, 100)
        contents = [opened.content for opened in it.opened()]
        assert [content.text for content in contents] == [str(number) for number in range(100)]
        assert {content.channel for content in contents} == {it.derived(0)}
        assert {content.sender for content in contents} == {it.profile.keys.device_id}
        assert len({content.message_id for content in contents}) == 100
        join = it.server.received[0]
        assert (join.type, join.control) == (FrameType.JOIN, {"members": ["bob"]})


async def test_a_given_channel_is_used(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox(channel=42)
        await outbox.add("x")
        await it.run(outbox)
        assert {frame.channel for frame in it.server.received} == {42}
        assert it.opened()[0].content.channel == 42


async def test_what_was_not_acknowledged_is_resent_with_the_same_id(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox()
        for text in ("one", "two"):
            await outbox.add(text)
        it.server.answer = lambda frame: {} if frame.type is FrameType.JOIN else None
        it.server.reset_after = 3
        with pytest.raises(ConnectionLostError):
            await it.run(outbox)
        assert outbox.pending == 2
        it.server.answer = lambda _: {}
        await it.run(outbox)
        contents = [opened.content for opened in it.opened()]
        assert [content.text for content in contents] == ["one", "two"] * 2
        assert [content.message_id for content in contents[:2]] == [
            content.message_id for content in contents[2:]
        ]


async def test_a_channel_conflict_takes_the_next_channel_and_remembers_it(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        taken = {it.derived(0), it.derived(1)}

        def answer(frame: Frame) -> dict[str, Any]:
            if frame.type is FrameType.MSG and frame.channel in taken:
                return {
                    "error": "channel_conflict",
                    "refused": [{"device": "bob", "reason": "channel_conflict"}],
                }
            return {}

        it.server.answer = answer
        outbox = it.outbox()
        for text in ("one", "two", "three"):
            await outbox.add(text)
        await it.run(outbox)
        good = [opened.content for opened in it.opened() if opened.content.channel == it.derived(2)]
        assert [content.text for content in good] == ["one", "two", "three"]
        assert it.profile.state.channel_attempt("bob") == 2
        it.server.received.clear()
        outbox = it.outbox()
        await outbox.add("four")
        await it.run(outbox)
        assert [frame.channel for frame in it.server.messages()] == [it.derived(2)]


async def test_endless_channel_conflicts_are_given_up(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        it.server.answer = lambda f: {"error": "channel_conflict"} if f.type is FrameType.MSG else {}
        outbox = it.outbox()
        await outbox.add("x")
        with pytest.raises(CliError, match="--channel"):
            await it.run(outbox)
        assert len(it.server.messages()) == MAX_ATTEMPTS


async def test_a_conflict_on_a_given_channel_is_a_refusal(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        it.server.answer = lambda f: {"error": "channel_conflict"} if f.type is FrameType.MSG else {}
        outbox = it.outbox(channel=9)
        await outbox.add("x")
        await it.run(outbox)
        assert it.refused == [("x", "the channel is used for another conversation")]


async def test_a_server_that_cannot_store_is_asked_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    with sending(tmp_path) as it:
        failures = iter([True, True])

        def answer(frame: Frame) -> dict[str, Any]:
            if frame.type is FrameType.MSG and next(failures, False):
                return {"error": "storage", "detail": "the message could not be stored", "retry": True}
            return {}

        it.server.answer = answer
        outbox = it.outbox()
        await outbox.add("one")
        await it.run(outbox)
        assert len(it.server.messages()) == 3
        assert len({opened.content.message_id for opened in it.opened()}) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "quota", "detail": "inbox is full"}, "its inbox is full (inbox is full)"),
        ({"error": "revoked"}, "the device was revoked"),
        ({"refused": [{"device": "bob", "reason": "unknown_device"}]}, "the server knows no such device"),
        ({"error": "something new", "detail": "who knows"}, "who knows"),
    ],
)
async def test_other_refusals_are_told_and_the_rest_goes_on(
    tmp_path: Path, answer: dict[str, Any], words: str
) -> None:
    with sending(tmp_path) as it:
        answers = iter([answer])
        it.server.answer = lambda f: next(answers, {}) if f.type is FrameType.MSG else {}
        outbox = it.outbox()
        await outbox.add("one")
        await outbox.add("two")
        await it.run(outbox)
        assert it.refused == [("one", words)]
        assert (outbox.pending, outbox.settled) == (0, 2)


async def test_a_refused_join_is_an_error(tmp_path: Path) -> None:
    with sending(
        tmp_path, lambda _: {"error": "too_many_routes", "detail": "too many channels joined"}
    ) as it:
        outbox = it.outbox()
        await outbox.add("x")
        with pytest.raises(CliError, match="too many channels"):
            await it.run(outbox)


async def test_add_waits_while_too_much_is_unacknowledged(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox()
        added = 0

        async def add_many() -> None:
            nonlocal added
            for _ in range(600):
                await outbox.add("x")
                added += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add_many)
            await trio.testing.wait_all_tasks_blocked()
            assert added == 256
            while added < 600 or outbox.pending:
                await it.run(outbox)
        assert len(it.server.messages()) == 600


async def test_the_peers_key_is_pinned_and_a_change_refused(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox()
        await outbox.add("x")
        await it.run(outbox)
        assert it.profile.state.peer_key("bob") == BOB.public
        it.server.add_device("bob", device(3))
        outbox = it.outbox()
        await outbox.add("y")
        with pytest.raises(PeerKeyError, match="another key than before"):
            await it.run(outbox)
        assert len(it.server.messages()) == 1


@pytest.mark.parametrize("changes", [{"expires_at": 1}, {"issued_at": 3_900_000_000}])
async def test_a_certificate_out_of_its_time_is_not_used(tmp_path: Path, changes: dict[str, int]) -> None:
    with sending(tmp_path) as it:
        it.server.add_device("bob", BOB, **changes)
        outbox = it.outbox()
        await outbox.add("x")
        with pytest.raises(PeerKeyError, match="clock"):
            await it.run(outbox)


async def test_unknown_devices_are_named(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox(to="nobody/../x")
        await outbox.add("x")
        with pytest.raises(PeerKeyError, match="no device nobody"):
            await it.run(outbox)


async def test_texts_that_cannot_be_sent_are_refused_at_once(tmp_path: Path) -> None:
    with sending(tmp_path) as it:
        outbox = it.outbox()
        with pytest.raises(CliError, match="1000000 bytes"):
            await outbox.add("x" * (MAX_TEXT_LEN + 1))
        with pytest.raises(CliError, match="Unicode"):
            await outbox.add("\udcff")
        with pytest.raises(CliError, match="own device"):
            it.outbox(to=it.profile.keys.device_id)
