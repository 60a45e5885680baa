"""The client follows the server's Noise keys as far as the pinned authority has signed them."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.cli_builders import ScriptedServer
from cli.test_client_login import make_profile, site, use
from commucat_cli.client.noise_keys import ServerKey, follow, newest_believed
from commucat_cli.errors import HandshakeRefused, TrustError
from commucat_cli.profile import Account, open_profile
from commucat_cli.transport import Via
from commucat_crypto import DeviceKeyPair, NoiseKeyStatement, NoisePattern, StaticKeyPair

AUTHORITY = DeviceKeyPair.from_seed(bytes(32))
NOW = int(time.time())
OLD, NEW = StaticKeyPair.from_private(bytes([1]) * 32), StaticKeyPair.from_private(bytes([2]) * 32)
ACCOUNT = Account(
    server="https://localhost:1",
    trust="system",
    domain="cats.example",
    server_static=OLD.public,
    device_ca=AUTHORITY.public,
    pattern=NoisePattern.XK,
    handle="alice",
    server_key_version=2,
)


def entry(
    number: int,
    keys: StaticKeyPair = NEW,
    /,
    *,
    authority: DeviceKeyPair = AUTHORITY,
    domain: str = "cats.example",
    until: int = NOW + 86_400,
    **changes: Any,
) -> dict[str, Any]:
    """What a server says about a key, signed; ``changes`` are made afterwards."""
    statement = NoiseKeyStatement(
        domain=domain,
        version=number,
        public=keys.public,
        valid_after=NOW - 1000,
        rotates_at=NOW,
        expires_at=until,
    )
    times = {"valid_after": NOW - 1000, "rotates_at": NOW, "expires_at": until}
    return {
        "version": number,
        "public": keys.public.hex(),
        "signature": statement.sign(authority).hex(),
        **{name: datetime.fromtimestamp(value, UTC).isoformat() for name, value in times.items()},
        **changes,
    }


def test_the_newest_signed_key_is_followed() -> None:
    renewed = follow([entry(3), entry(2, OLD)], ACCOUNT, NOW)
    assert renewed is not None
    assert (renewed.server_static, renewed.server_key_version) == (NEW.public, 3)
    assert follow([entry(3), entry(2, OLD)], renewed, NOW) is None
    assert follow([entry(2, OLD)], ACCOUNT, NOW) is None


def test_the_version_of_the_pinned_key_is_learned() -> None:
    renewed = follow([entry(2, OLD)], attrs.evolve(ACCOUNT, server_key_version=0), NOW)
    assert renewed is not None
    assert (renewed.server_static, renewed.server_key_version) == (OLD.public, 2)


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1)],
        [entry(3, authority=DeviceKeyPair.generate())],
        [entry(3, domain="dogs.example")],
        [entry(3, until=NOW)],
        [entry(3, version=4)],
        [entry(3, public=OLD.public.hex())],
        [entry(3, expires_at="2100-01-01T00:00:00+00:00")],
        [entry(3, signature="")],
        [entry(3, signature=None)],
        [entry(3, signature="zz" * 64)],
        [entry(3, version=True)],
        [entry(3, version=-3)],
        [entry(3, version="3")],
        [entry(3, valid_after="soon")],
        [entry(3, valid_after="9999-99-99")],
        [entry(3, public="00")],
        [None, 1, "x", [], {}],
        None,
        "entries",
        {},
    ],
)
def test_nothing_else_is_believed(entries: object) -> None:
    assert follow(entries, ACCOUNT, NOW) is None


MEMBERS = st.sampled_from(["version", "public", "signature", "valid_after", "rotates_at", "expires_at"])


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.dictionaries(MEMBERS, inner)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _containers))
def test_garbage_is_no_key(entries: object) -> None:
    assert newest_believed(entries, ACCOUNT, NOW) is None


def test_a_broken_entry_does_not_hide_a_good_one() -> None:
    assert newest_believed([{}, entry(9, signature="00" * 64), entry(3)], ACCOUNT, NOW) == ServerKey(
        3, NEW.public
    )


def _entry_of(server: ScriptedServer, version: int, keys: StaticKeyPair) -> dict[str, Any]:
    return entry(version, keys, authority=server.authority, domain=server.domain)


async def test_a_session_teaches_the_profile_the_newer_key(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        it.server.ack = {"noise_keys": [_entry_of(it.server, 2, NEW)]}
        await use(tmp_path / "me")
        with open_profile(tmp_path / "me") as profile:
            account = profile.account()
            assert (account.server_static, account.server_key_version) == (NEW.public, 2)

        it.server.key = NEW
        it.server.ack = {"noise_keys": [_entry_of(it.server, 1, OLD)]}
        await use(tmp_path / "me")
        with open_profile(tmp_path / "me") as profile:
            assert profile.account() == account  # no way back


@pytest.mark.parametrize("via", [Via.BINARY, Via.HTTP1])
async def test_a_device_that_was_away_while_its_key_expired_gets_in(tmp_path: Path, via: Via) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        with open_profile(tmp_path / "me") as profile:
            profile.state.save_account(attrs.evolve(profile.account(), via=via))
        it.server.key = NEW
        it.server.info = {"noise_keys": [_entry_of(it.server, 5, NEW)]}
        await use(tmp_path / "me")
        with open_profile(tmp_path / "me") as profile:
            assert profile.account().server_key_version == 5


async def test_a_key_that_only_claims_to_be_newer_opens_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        it.server.key = NEW
        forged = entry(5, authority=DeviceKeyPair.generate(), domain=it.server.domain)
        it.server.info = {"noise_keys": [forged]}
        with pytest.raises(TrustError, match="other Noise key"):
            await use(tmp_path / "me")


async def test_a_signed_key_that_the_server_does_not_have_is_tried_once(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        make_profile(tmp_path / "me", it.server, it.url)
        it.server.key = StaticKeyPair.generate()
        it.server.info = {"noise_keys": [_entry_of(it.server, 5, NEW)]}
        with pytest.raises(HandshakeRefused):
            await use(tmp_path / "me")
        assert it.server.requests.count("/api/server-info") == 2
