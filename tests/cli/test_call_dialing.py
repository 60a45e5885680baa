"""Offers and answers against a scripted server: channels that are taken, keys that prove nothing, devices
that do not encrypt."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from cli.cli_builders import ScriptedServer, device, in_memory, parameters, profile_of
from commucat_cli.calls.answering import take_offer
from commucat_cli.calls.dialing import MAX_ATTEMPTS, Dialer, Offered
from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.signalling import CallState, Cause
from commucat_cli.calls.talk import LinePlan
from commucat_cli.client import Connection, PeerDirectory, attach, derive_channel
from commucat_cli.commands.call_options import media_profile
from commucat_cli.errors import CliError, PeerKeyError
from commucat_cli.profile import Profile, ProfileKeys
from commucat_proto import CALL_MEDIA, Frame, FrameType
from commucat_proto.calls import CallOffer
from commucat_proto.media_keys import open_media_key

BOB, CAROL = device(2), device(3)
MEDIA = media_profile(24_000)


@attrs.define
class Line:
    server: ScriptedServer
    profile: Profile
    connection: Connection
    directory: PeerDirectory

    @property
    def own(self) -> str:
        return self.profile.keys.device_id

    def sent(self, kind: FrameType) -> list[Frame]:
        return [frame for frame in self.server.received if frame.type is kind]


@asynccontextmanager
async def line(
    folder: Path, answer: Callable[[Frame], dict[str, Any] | None] = lambda _: {}, *, encrypts: bool = True
) -> AsyncIterator[Line]:
    server = ScriptedServer(answer=answer)
    if encrypts:
        server.ack = {"capabilities": [CALL_MEDIA]}
    server.add_device("bob", BOB)
    server.add_device("carol", CAROL)
    with profile_of(folder / "me", server) as profile:
        async with (
            in_memory(server) as client,
            attach(client, parameters(profile.keys, server)) as connection,
        ):
            directory = PeerDirectory(profile.state, server.authority.public, connection)
            yield Line(server, profile, connection, directory)


def plan(*to: str, **changes: Any) -> LinePlan:
    return attrs.evolve(LinePlan(to=to, media=MEDIA), **changes)


async def dial(it: Line, wanted: LinePlan) -> Offered:
    return await Dialer(it.profile, wanted).dial(it.connection, it.directory)


async def test_an_offer_brings_everybody_the_key(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        offered = await dial(it, plan("bob", "carol"))
        assert offered.call.state is CallState.RINGING
        [join], [frame] = it.sent(FrameType.JOIN), it.sent(FrameType.CALL_OFFER)
        assert join.control == {"members": ["bob", "carol"]}
        assert frame.channel == join.channel == offered.channel
        offer = CallOffer.from_wire(frame.control)
        assert (offer.sender, offer.to) == (it.own, ("bob", "carol"))
        for name, keys in (("bob", BOB), ("carol", CAROL)):
            found = open_media_key(
                offer.metadata, call_id=offer.call_id, channel=frame.channel, device_id=name, keys=keys
            )
            assert found.key == offered.keys.own_key
            assert found.opened.content.sender == it.own


async def test_a_channel_that_is_taken_is_left_for_the_next_one(tmp_path: Path) -> None:
    taken: set[int] = set()

    def answer(frame: Frame) -> dict[str, Any]:
        if frame.type is FrameType.CALL_OFFER and frame.channel in taken:
            refused = [{"device": "bob", "reason": "channel_conflict"}]
            return {"error": "channel_conflict", "refused": refused}
        return {}

    async with line(tmp_path, answer) as it:
        taken |= {derive_channel(it.own, "bob", attempt) for attempt in (0, 1)}
        offered = await dial(it, plan("bob"))
        assert offered.channel == derive_channel(it.own, "bob", 2)
        assert it.profile.state.channel_attempt("bob") == 2
        assert (
            len({CallOffer.from_wire(frame.control).call_id for frame in it.sent(FrameType.CALL_OFFER)}) == 3
        )

        taken |= {derive_channel(it.own, "bob", attempt) for attempt in range(MAX_ATTEMPTS)}
        with pytest.raises(CliError, match="16 channels in a row"):
            await dial(it, plan("bob"))


async def test_a_channel_that_one_of_several_uses_otherwise_is_given_up_for_all(tmp_path: Path) -> None:
    channels: list[int] = []

    def answer(frame: Frame) -> dict[str, Any]:
        if frame.type is FrameType.CALL_OFFER:
            channels.append(frame.channel)
            if len(channels) == 1:
                return {"refused": [{"device": "carol", "reason": "channel_conflict"}]}
        return {}

    async with line(tmp_path, answer) as it:
        offered = await dial(it, plan("bob", "carol"))
        [end] = it.sent(FrameType.CALL_END)
        assert [end.channel, offered.channel] == channels
        assert isinstance(end.control, dict)
        assert end.control["reason"] == "cancel"


async def test_an_offer_whose_answer_was_lost_is_withdrawn_before_the_next(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        dialer = Dialer(it.profile, plan("bob"))
        it.server.reset_after = 2
        with pytest.raises(CliError):
            await dialer.dial(it.connection, it.directory)
        [lost] = it.sent(FrameType.CALL_OFFER)
        it.server.received.clear()
        # The next session ends before the end of the call is known to have come.
        it.server.reset_after = 1
        async with (
            in_memory(it.server) as client,
            attach(client, parameters(it.profile.keys, it.server)) as connection,
        ):
            with pytest.raises(CliError):
                await dialer.dial(connection, it.directory)
        it.server.received.clear()
        async with (
            in_memory(it.server) as client,
            attach(client, parameters(it.profile.keys, it.server)) as connection,
        ):
            offered = await dialer.dial(connection, it.directory)
        kinds = [frame.type for frame in it.server.received]
        assert kinds[0] is FrameType.CALL_END
        assert kinds.count(FrameType.CALL_END) == kinds.count(FrameType.CALL_OFFER) == 1
        end = it.server.received[0]
        assert isinstance(end.control, dict)
        assert (end.channel, end.control["reason"]) == (lost.channel, "cancel")
        assert end.control["call_id"] == CallOffer.from_wire(lost.control).call_id
        assert end.control["call_id"] != offered.call.call_id


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"error": "unknown_device", "detail": "x"}, "the server does not pass the call to bob"),
        ({"error": "too_many_calls", "detail": "a device may have begun 4 calls at once"}, "4 calls at once"),
    ],
)
async def test_an_offer_that_the_server_refuses(tmp_path: Path, answer: dict[str, Any], told: str) -> None:
    def refuse(frame: Frame) -> dict[str, Any]:
        return answer if frame.type is FrameType.CALL_OFFER else {}

    async with line(tmp_path, refuse) as it:
        with pytest.raises(CliError, match=told):
            await dial(it, plan("bob"))


async def test_a_busy_device_and_one_that_nobody_knows(tmp_path: Path) -> None:
    def busy(frame: Frame) -> dict[str, Any]:
        refused = [{"device": "bob", "reason": "busy"}]
        return {"error": "busy", "refused": refused} if frame.type is FrameType.CALL_OFFER else {}

    async with line(tmp_path, busy) as it:
        offered = await dial(it, plan("bob"))
        assert offered.call.cause is Cause.BUSY
        with pytest.raises(PeerKeyError, match="knows no device nobody"):
            await dial(it, plan("nobody"))


# -- being called -------------------------------------------------------------------------------------


async def offer_of(it: Line, keys: ProfileKeys | None, *, sender: str = "bob") -> CallOffer:
    """An offer on channel 7, sealed with ``keys`` (None: not at all)."""
    metadata: Any = None
    if keys is not None:
        party = PartyKeys("c1", 7, keys)
        own = {it.own: it.profile.keys.device.public}

        class Directory:
            async def key_for_sending(self, device_id: str) -> bytes:
                return own[device_id]

        metadata = {"keys": await party.sealed_for(Directory(), [it.own])}  # type: ignore[arg-type]
    return CallOffer(call_id="c1", sender=sender, to=(it.own,), metadata=metadata)


def keys_of(name: str, number: int) -> ProfileKeys:
    return attrs.evolve(ProfileKeys.generate(), device_id=name, device=device(number))


async def take(it: Line, offer: CallOffer, notices: list[str], **changes: Any) -> Any:
    return await take_offer(
        it.profile, plan(**changes), it.connection, it.directory, 7, offer, notices.append
    )


async def test_a_call_is_taken_with_a_key_for_the_caller(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        answered = await take(it, await offer_of(it, keys_of("bob", 2)), [])
        assert answered.encrypted
        [join], [frame] = it.sent(FrameType.JOIN), it.sent(FrameType.CALL_ANSWER)
        assert (join.channel, join.control) == (7, {"members": ["bob"]})
        assert isinstance(frame.control, dict)
        assert frame.control["accept"] is True
        found = open_media_key(frame.control["metadata"], call_id="c1", channel=7, device_id="bob", keys=BOB)
        assert found.key == answered.keys.own_key


async def test_an_offer_in_the_name_of_another_is_left_out(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        notices: list[str] = []
        # Carol's key, Bob's name: first only in the frame, then in the envelope as well.
        assert await take(it, await offer_of(it, keys_of("carol", 3), sender="bob"), notices) is None
        assert await take(it, await offer_of(it, keys_of("bob", 3)), notices) is None
        assert len(notices) == 2
        assert all("claims to come from device bob" in notice for notice in notices)
        assert it.sent(FrameType.CALL_ANSWER) == []


async def test_an_offer_in_clear_is_refused_unless_permitted(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        notices: list[str] = []
        assert await take(it, await offer_of(it, None), notices) is None
        assert "without end-to-end encryption" in notices[0]
        [frame] = it.sent(FrameType.CALL_ANSWER)
        assert isinstance(frame.control, dict)
        assert (frame.control["accept"], frame.control["reason"]) == (False, "unsupported")
        answered = await take(it, await offer_of(it, None), [], allow_clear=True)
        assert not answered.encrypted


async def test_the_clock_of_the_caller_says_nothing_about_whether_it_rings(tmp_path: Path) -> None:
    async with line(tmp_path) as it:
        offer = attrs.evolve(await offer_of(it, keys_of("bob", 2)), expires_at=1)
        assert (await take(it, offer, [])).encrypted


async def test_a_call_that_was_over_already_is_not_taken(tmp_path: Path) -> None:
    def gone(frame: Frame) -> dict[str, Any]:
        return {"error": "call_unknown"} if frame.type is FrameType.CALL_ANSWER else {}

    async with line(tmp_path, gone) as it:
        notices: list[str] = []
        for wishes in ({}, {"accept": False}, {"caller": "carol"}):
            assert await take(it, await offer_of(it, keys_of("bob", 2)), notices, **wishes) is None
        assert await take(it, await offer_of(it, None), notices) is None
        assert notices == []


async def test_an_offer_that_names_devices_which_do_not_exist_does_not_end_the_waiting(
    tmp_path: Path,
) -> None:
    async with line(tmp_path) as it:
        notices: list[str] = []
        offer = await offer_of(it, keys_of("bob", 2))
        assert await take(it, attrs.evolve(offer, to=(it.own, "nobody")), notices) is None
        [notice] = notices
        assert "knows no device nobody" in notice
        assert it.sent(FrameType.CALL_ANSWER) == []
