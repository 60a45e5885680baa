"""Reading the inbox: what is shown, what is confirmed, what is kept aside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from cli.cli_builders import NOW, ScriptedServer, device, in_memory, parameters, profile_of, sealed_message
from commucat_cli.client import InboxReader, PeerDirectory, ReceivedMessage, attach
from commucat_cli.errors import ConnectionLostError, ServerBusyError
from commucat_cli.profile import Cursor, Profile
from commucat_cli.terminal import OutputClosedError
from commucat_crypto import DeviceKeyPair, rotation_statement
from commucat_proto import FrameType, Resume, json_text

ALICE = device(1)


@attrs.define
class Reading:
    """A profile, its server, and what a reader showed."""

    server: ScriptedServer
    profile: Profile
    shown: list[ReceivedMessage] = attrs.Factory(list)
    notices: list[str] = attrs.Factory(list)
    fails_after: int | None = None

    async def show(self, messages: list[ReceivedMessage]) -> None:
        if self.fails_after is not None and len(self.shown) + len(messages) > self.fails_after:
            raise OutputClosedError("closed")
        self.shown += messages

    def message(self, text: str, *, sender: DeviceKeyPair = ALICE, **changes: Any) -> int:
        payload = sealed_message("alice", sender, self.profile, text, **changes)
        return self.server.deliver(FrameType.MSG, 7, payload)

    async def read(self, limit: int) -> None:
        """One session, until so many messages were shown."""
        reader = InboxReader(self.profile, show=self.show, notice=self.notices.append, limit=limit)
        cursor = self.profile.state.cursor()
        resume = Resume(cursor.epoch, cursor.ack) if cursor is not None else None
        changed = parameters(self.profile.keys, self.server, resume=resume)
        async with in_memory(self.server) as client, attach(client, changed) as connection:
            directory = PeerDirectory(self.profile.state, self.server.authority.public, connection)
            await reader.run(connection, directory)

    async def read_to_end(self) -> None:
        """One session that the server ends after everything."""
        self.server.ends_when_confirmed = True
        with trio.fail_after(20), pytest.raises(ConnectionLostError):
            await self.read(10**9)

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.shown]


async def _end(session: Any) -> None:
    await session.stream.end()


@contextmanager
def reading(folder: Path) -> Iterator[Reading]:
    server = ScriptedServer()
    server.add_device("alice", ALICE)
    with profile_of(folder / "me", server) as profile:
        yield Reading(server, profile)


async def test_messages_are_shown_in_order_then_confirmed(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        for text in ("one", "two", "three"):
            it.message(text)
        await it.read(3)
        assert it.texts == ["one", "two", "three"]
        assert [message.number for message in it.shown] == [1, 2, 3]
        assert {message.sender for message in it.shown} == {"alice"}
        assert it.server.confirmed == 3
        assert it.profile.state.cursor() == Cursor("e1", 3)
        assert it.profile.state.peer_key("alice") == ALICE.public


async def test_never_more_is_confirmed_than_was_asked_for(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        for text in ("one", "two", "three"):
            it.message(text)
        await it.read(2)
        assert (it.texts, it.server.confirmed) == (["one", "two"], 2)
        await it.read(1)
        assert (it.texts, it.server.confirmed) == (["one", "two", "three"], 3)


async def test_what_cannot_be_printed_is_not_confirmed(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        for number in range(40):
            it.message(str(number))
        it.fails_after = 32
        with pytest.raises(OutputClosedError):
            await it.read(40)
        assert it.server.confirmed == 32
        it.fails_after = None
        await it.read(8)
        assert it.texts == [str(number) for number in range(40)]


async def test_a_resent_message_is_confirmed_but_shown_once(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        same = bytes(16)
        it.message("once", message_id=same)
        it.message("once", message_id=same)
        await it.read_to_end()
        it.message("once", message_id=same)
        await it.read_to_end()
        assert it.texts == ["once"]
        assert it.server.confirmed == 3


async def test_another_sender_cannot_hide_a_message_by_using_its_id(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        it.server.add_device("bob", device(2))
        payload = sealed_message("bob", device(2), it.profile, "bob's", message_id=bytes(16))
        it.server.deliver(FrameType.MSG, 7, payload)
        it.message("alice's", message_id=bytes(16))
        await it.read(2)
        assert it.texts == ["bob's", "alice's"]


async def test_a_redelivery_below_the_cursor_is_confirmed_again(tmp_path: Path) -> None:
    """The confirmation was lost, and the server knows nothing of the resume."""
    with reading(tmp_path) as it:
        it.message("one")
        await it.read(1)
        it.server.confirmed = 0
        it.message("two")
        await it.read(1)
        assert it.texts == ["one", "two"]
        assert it.server.confirmed == 2


async def test_a_new_epoch_starts_over(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        it.message("one")
        await it.read(1)
        it.server.epoch, it.server.confirmed = "e2", 0
        it.server.inbox.clear()
        it.message("two")
        await it.read(1)
        assert it.texts == ["one", "two"]
        assert it.profile.state.cursor() == Cursor("e2", 1)


def kept(it: Reading) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (it.profile.directory / "undecryptable").glob("*")}


@pytest.mark.parametrize(
    "case", ["garbage", "channel", "impostor", "unknown", "key", "authority", "id", "expired", "other"]
)
async def test_what_does_not_check_is_kept_aside_and_never_shown(tmp_path: Path, case: str) -> None:
    with reading(tmp_path) as it:
        mallory = device(66)
        match case:
            case "garbage":
                payload = b"garbage"
            case "channel":
                payload = sealed_message("alice", ALICE, it.profile, "x", channel=8)
            case "impostor":
                payload = sealed_message("alice", mallory, it.profile, "x")
            case "unknown":
                payload = sealed_message("nobody", mallory, it.profile, "x")
            case "id":
                payload = sealed_message("a" * 200, mallory, it.profile, "x")
            case "key":
                it.profile.state.pin_peer("alice", mallory.public)
                payload = sealed_message("alice", ALICE, it.profile, "x")
            case "authority":
                it.server.authority, honest = mallory, it.server.authority
                it.server.add_device("eve", mallory)
                it.server.authority = honest
                payload = sealed_message("eve", mallory, it.profile, "x")
            case "expired":
                it.server.add_device("old", mallory, expires_at=NOW - 1_000_000_000)
                payload = sealed_message("old", mallory, it.profile, "x")
            case _:
                it.server.certificates["carol"] = it.server.certificates["alice"]
                payload = sealed_message("carol", ALICE, it.profile, "x")
        number = it.server.deliver(FrameType.MSG, 7, payload)
        if case != "key":
            it.message("good")
        await it.read_to_end()
        assert it.texts == ([] if case == "key" else ["good"])
        assert kept(it) == {f"e1-{number}.bin": payload}
        assert it.server.confirmed == len(it.server.inbox)
        [notice] = it.notices
        assert notice.startswith(f"message {number} was not shown: ")


async def test_the_server_cannot_choose_where_we_write(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        it.server.epoch = "../../evil"
        it.server.deliver(FrameType.MSG, 7, b"garbage")
        await it.read_to_end()
        [name] = kept(it)
        assert "/" not in name
        assert not (tmp_path.parent / "evil-1.bin").exists()


async def test_a_server_in_trouble_is_no_reason_to_give_a_message_up(tmp_path: Path) -> None:
    """The sender's certificate cannot be had right now: nothing is kept aside or confirmed."""
    with reading(tmp_path) as it:
        it.profile.state.pin_peer("alice", ALICE.public)
        it.message("known sender")
        payload = sealed_message("bob", device(2), it.profile, "unknown sender")
        it.server.deliver(FrameType.MSG, 7, payload)
        it.server.unavailable = True
        with pytest.raises(ServerBusyError):
            await it.read(2)
        assert (it.texts, it.server.confirmed) == (["known sender"], 1)
        it.server.add_device("bob", device(2))
        it.server.unavailable = False
        await it.read(1)
        assert it.texts == ["known sender", "unknown sender"]


def key_update(signer: DeviceKeyPair, new: DeviceKeyPair, old: DeviceKeyPair, **changes: Any) -> bytes:
    signed = rotation_statement("alice", new.public, expires_at=NOW, nonce=b"nonce")
    update = {
        "type": "device-key-rotated",
        "device_id": "alice",
        "public_key": new.public.hex(),
        "old_public_key": old.public.hex(),
        "expires_at": NOW,
        "nonce": b"nonce".hex(),
        "signature": signer.sign(signed).hex(),
    }
    return json_text.dumps(update | changes)


async def test_a_key_announced_by_the_old_one_is_followed(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        new = device(9)
        it.message("before")
        it.server.deliver(FrameType.KEY_UPDATE, 0, key_update(ALICE, new, ALICE))
        it.message("after", sender=new)
        await it.read(2)
        assert it.texts == ["before", "after"]
        assert it.profile.state.peer_key("alice") == new.public
        [notice] = it.notices
        assert "announced by its old one" in notice


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "00" * 64},
        {"signature": "zz"},
        {"expires_at": NOW + 1},
        {"expires_at": True},
        {"nonce": "00"},
        {"old_public_key": device(5).public.hex()},
        {"public_key": bytes(32).hex()},
        {"public_key": 7},
    ],
)
async def test_an_unproved_key_change_is_ignored(tmp_path: Path, changes: dict[str, Any]) -> None:
    with reading(tmp_path) as it:
        it.profile.state.pin_peer("alice", ALICE.public)
        it.server.deliver(FrameType.KEY_UPDATE, 0, key_update(ALICE, device(9), ALICE, **changes))
        await it.read_to_end()
        assert it.profile.state.peer_key("alice") == ALICE.public
        [notice] = it.notices
        assert "was ignored" in notice
        assert it.server.confirmed == 1


async def test_key_changes_of_strangers_and_odd_values_are_confirmed_silently(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        for value in (b"[]", b"{}", b'{"device_id":7}', key_update(ALICE, device(9), ALICE)):
            it.server.deliver(FrameType.KEY_UPDATE, 0, value)
        await it.read_to_end()
        assert (it.notices, it.server.confirmed) == ([], 4)


async def test_calls_are_confirmed_and_told(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        it.server.deliver(FrameType.CALL_OFFER, 3, b"{}")
        await it.read_to_end()
        assert it.server.confirmed == 1
        [notice] = it.notices
        assert notice == "somebody called; answer takes calls while no listen runs"


async def test_live_frames_are_not_confirmed(tmp_path: Path) -> None:
    with reading(tmp_path) as it:
        it.server.deliver(FrameType.TYPING, 3, b"{}")
        it.server.on_attached = _end
        with pytest.raises(ConnectionLostError):
            await it.read(1)
        assert it.server.confirmed == 0
