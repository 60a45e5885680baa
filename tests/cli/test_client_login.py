"""Logging in, and being at the same server afterwards, over TLS on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from cli.cli_builders import LATER, Attached, ScriptedServer, device, make_profile, on_tcp
from commucat_cli.client import Connection, LoginRequest, PeerDirectory, keep_connected, log_in, open_session
from commucat_cli.errors import (
    CliError,
    HandshakeRefused,
    NotCommuCatError,
    ProfileError,
    SessionReplaced,
    TrustError,
)
from commucat_cli.profile import Account, Cursor, open_profile, open_profile_for_login
from commucat_cli.transport import ServerAddress
from commucat_crypto import NoisePattern, StaticKeyPair
from commucat_proto import DELIVERY_ACK, DELIVERY_STATUS, SEND_ONLY, HandshakeDetail


@attrs.define
class Site:
    """A server on this machine, and a folder for profiles."""

    server: ScriptedServer
    url: str
    cert: Path
    folder: Path

    async def login(self, name: str = "me", **changes: Any) -> Account:
        values: dict[str, Any] = {
            "address": ServerAddress.parse(self.url),
            "handle": name,
            "ca_file": self.cert,
        }
        with open_profile_for_login(self.folder / name) as profile:
            return await log_in(profile, LoginRequest(**(values | changes)))


@asynccontextmanager
async def site(folder: Path, **changes: Any) -> AsyncIterator[Site]:
    server = ScriptedServer(**changes)
    async with on_tcp(server, folder) as (url, cert):
        yield Site(server, url, cert, folder)


@pytest.mark.parametrize("pattern", [None, NoisePattern.XK, NoisePattern.IK])
async def test_a_first_login_pins_the_server_and_keeps_the_certificate(
    tmp_path: Path, pattern: NoisePattern | None
) -> None:
    async with site(tmp_path) as it:
        account = await it.login(code="secret", pattern=pattern)
        with open_profile(tmp_path / "me") as profile:
            assert profile.account() == account
            device_id = profile.keys.device_id
            assert account.certificate == it.server.certificates[device_id]
            assert account.certificate is not None
            assert account.certificate.public_key == profile.keys.device.public
    assert (account.domain, account.server_static) == (it.server.domain, it.server.key.public)
    assert (account.device_ca, account.trust) == (it.server.authority.public, "file")
    assert account.pattern is (pattern or NoisePattern.XK)
    assert it.server.codes == ["secret"]
    [hello] = it.server.hellos
    assert hello.user.handle == "me"
    assert hello.capabilities >= {DELIVERY_ACK, SEND_ONLY}
    assert it.server.requests == ["/api/server-info"]


async def test_an_interrupted_login_is_repeated_with_the_same_device(tmp_path: Path) -> None:
    async with site(tmp_path, refuse=(HandshakeDetail.STORAGE, {"retry": True})) as it:
        with pytest.raises(CliError):
            await it.login()
        with pytest.raises(ProfileError, match="never completed"), open_profile(tmp_path / "me"):
            pass
        it.server.refuse = None
        await it.login()
        first, second = it.server.hellos
        assert (first.device_id, first.device_public) == (second.device_id, second.device_public)


async def test_after_a_refusal_another_handle_may_be_tried(tmp_path: Path) -> None:
    async with site(tmp_path, refuse=(HandshakeDetail.PAIRING, {"reason": "the handle exists"})) as it:
        with pytest.raises(HandshakeRefused, match="--code"):
            await it.login()
        it.server.refuse = None
        assert (await it.login(handle="another")).handle == "another"


async def test_a_finished_login_may_be_repeated_but_not_for_somebody_else(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        account = await it.login()
        assert await it.login() == account
        assert await it.login(ca_file=None) == account
        with pytest.raises(ProfileError, match="belongs to handle 'me'"):
            await it.login(handle="you")
        insecure = await it.login(insecure=True, ca_file=None)
        assert insecure.trust == "insecure"


@pytest.mark.parametrize("what", ["domain", "authority"])
async def test_a_finished_login_is_not_moved_to_another_server(tmp_path: Path, what: str) -> None:
    async with site(tmp_path) as it:
        await it.login()
        if what == "domain":
            it.server.domain = "elsewhere.example"
        else:
            it.server.authority = device(99)
        with pytest.raises(TrustError, match="not the server this profile was made for"):
            await it.login()
        assert len(it.server.hellos) == 1


@pytest.mark.parametrize(
    ("info", "error", "words"),
    [
        ({"domain": None}, NotCommuCatError, "names no domain"),
        ({"noise_public": "00"}, NotCommuCatError, "noise_public"),
        ({"device_ca_public": "zz" * 32}, NotCommuCatError, "device_ca_public"),
        ({"supported_versions": [2, 3]}, NotCommuCatError, "other protocol versions"),
        ({"supported_patterns": ["IK"]}, CliError, "does not offer the pattern XK, only IK"),
    ],
)
async def test_what_is_no_usable_server_is_told(
    tmp_path: Path, info: dict[str, Any], error: type[CliError], words: str
) -> None:
    async with site(tmp_path, info=info) as it:
        with pytest.raises(error, match=words):
            await it.login()
        assert it.server.hellos == []


@pytest.mark.parametrize("case", ["authority", "signature", "device", "key", "none"])
async def test_a_wrong_certificate_for_this_device_is_refused(tmp_path: Path, case: str) -> None:
    other = ScriptedServer(authority=device(66))
    match case:
        case "authority":
            ack: dict[str, Any] = {"device_ca_public": device(66).public.hex()}
        case "signature":
            wire = other.add_device("x", device(1)).to_wire()
            ack = {"device_certificate": wire}
        case "device":
            ack = {"device_certificate": ScriptedServer().add_device("x", device(1)).to_wire()}
        case "key":
            ack = {}
        case _:
            ack = {"device_certificate": None}
    async with site(tmp_path, ack=ack) as it:
        if case == "key":
            with open_profile_for_login(tmp_path / "me") as profile:
                device_id = profile.keys.device_id
            wrong = it.server.add_device(device_id, device(7))
            it.server.ack = {"device_certificate": wrong.to_wire()}
        with pytest.raises(TrustError):
            await it.login()
        with pytest.raises(ProfileError), open_profile(tmp_path / "me"):
            pass


async def test_a_ca_file_is_copied_and_checked(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        with pytest.raises(TrustError, match="no certificate in PEM form"):
            await it.login(ca_file=Path(__file__))
        with pytest.raises(TrustError, match="cannot read"):
            await it.login(ca_file=tmp_path / "missing.pem")
        await it.login()
        it.cert.unlink()
        assert (await it.login(ca_file=None)).trust == "file"


# -- later sessions ---------------------------------------------------------------------------------


async def use(folder: Path, *, receives: bool = True, reported: bool = False) -> None:
    with open_profile(folder) as profile:
        async with open_session(profile, receives=receives, reported=reported) as connection:
            assert connection.info.token == "token"


async def test_a_session_says_where_it_is_and_whether_it_receives(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        await use(tmp_path / "me")
        with open_profile(tmp_path / "me") as profile:
            profile.state.settle(Cursor("e1", 0), [])
        await use(tmp_path / "me")
        await use(tmp_path / "me", receives=False)
        first, second, third = it.server.hellos
        assert first.resume is None
        assert second.resume is not None
        assert (second.resume.epoch, second.resume.ack) == ("e1", 0)
        assert third.resume is None
        assert SEND_ONLY not in second.capabilities
        assert SEND_ONLY in third.capabilities
        assert first.user.to_wire() == {}


async def test_a_session_asks_for_reports_only_when_it_is_to(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        await use(tmp_path / "me")
        await use(tmp_path / "me", receives=False, reported=True)
        first, second = (hello.capabilities for hello in it.server.hellos)
        assert DELIVERY_STATUS not in first
        assert second >= {DELIVERY_ACK, SEND_ONLY, DELIVERY_STATUS}


async def test_a_renewed_certificate_is_kept(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        keys = make_profile(tmp_path / "me", it.server, it.url)
        renewed = it.server.add_device(keys.device_id, keys.device, expires_at=LATER + 5)
        await use(tmp_path / "me")
        with open_profile(tmp_path / "me") as profile:
            assert profile.account().certificate == renewed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": StaticKeyPair.from_private(bytes([5]) * 32)}, "Noise key"),
        ({"domain": "elsewhere.example"}, "domain"),
    ],
)
async def test_another_server_at_the_same_address_is_recognised(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        for name, value in change.items():
            setattr(it.server, name, value)
        with pytest.raises(TrustError, match=f"not the server this profile was made for: other {words}"):
            await use(tmp_path / "me")


@pytest.mark.parametrize("ack", [{"user_id": "somebody"}, {"device_ca_public": "00" * 32}])
async def test_another_user_or_authority_is_refused(tmp_path: Path, ack: dict[str, Any]) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        it.server.ack = ack
        with pytest.raises(TrustError):
            await use(tmp_path / "me")


async def test_a_plain_refusal_stays_a_refusal(tmp_path: Path) -> None:
    async with site(tmp_path, refuse=(HandshakeDetail.INVALID, {})) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        with pytest.raises(HandshakeRefused, match="invalid request"):
            await use(tmp_path / "me")


async def test_lost_sessions_are_opened_again_until_the_work_is_done(tmp_path: Path) -> None:
    """A reset, an orderly shutdown, a refusal for now; then it works."""
    ends = iter(["reset", "shutdown", None])

    async def misbehave(session: Attached) -> None:
        match next(ends):
            case "reset":
                session.stream.reset()
            case "shutdown":
                await session.tell_end("shutdown")

    notices: list[str] = []
    async with site(tmp_path, on_attached=misbehave) as it:
        make_profile(tmp_path / "me", it.server, it.url)

        async def work(connection: Connection, _: PeerDirectory) -> None:
            assert (await connection.join(1, [])).error is None

        with open_profile(tmp_path / "me") as profile, trio.fail_after(20):
            await keep_connected(profile, work, receives=False, notice=notices.append)
        assert len(it.server.hellos) == 3
    assert notices[-1] == "connected again"
    assert any("shutting down; trying again" in notice for notice in notices)


async def test_a_session_that_was_replaced_is_not_opened_again(tmp_path: Path) -> None:
    async def replace(session: Attached) -> None:
        await session.tell_end("replaced")

    async with site(tmp_path, on_attached=replace) as it:
        make_profile(tmp_path / "me", it.server, it.url)

        async def work(connection: Connection, _: PeerDirectory) -> None:
            await connection.wait_ended()

        with open_profile(tmp_path / "me") as profile, pytest.raises(SessionReplaced):
            await keep_connected(profile, work, receives=True, notice=pytest.fail)
        assert len(it.server.hellos) == 1
