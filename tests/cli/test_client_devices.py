"""What the client does about its own keys and about invitations, without a server."""

import json
from pathlib import Path

import pytest

from cli.cli_builders import ScriptedServer, make_profile, profile_of
from commucat_cli.client import Invitation
from commucat_cli.errors import AddressError, ProfileError
from commucat_cli.profile import open_profile
from commucat_cli.profile.keys import REMEMBERED, load_keys, save_keys
from commucat_cli.transport import ServerAddress

INVITED = Invitation(
    address=ServerAddress("chat.example.org", 8443),
    code="ABCD-EFGH",
    domain="chat.example.org",
    device_ca=bytes(range(32)),
    noise_public=bytes(32),
)


@pytest.mark.parametrize("host", ["chat.example.org", "::1", "192.0.2.1"])
def test_an_invitation_is_read_as_it_was_written(host: str) -> None:
    invited = Invitation(
        address=ServerAddress(host, 8443),
        code="ABCD-EFGH",
        domain="a&b=c d",
        device_ca=bytes(range(32)),
        noise_public=bytes(32),
    )

    assert Invitation.parse(invited.uri()) == invited
    assert Invitation.parse(f" {invited.uri()}\n") == invited


@pytest.mark.parametrize(
    "text",
    [
        "",
        "commucat://",
        INVITED.uri().replace("commucat:", "https:"),
        INVITED.uri().replace("/pair", "/other"),
        INVITED.uri().replace("code=", "kode="),
        INVITED.uri().replace("ca=00", "ca=zz"),
        INVITED.uri().replace("ca=00", "ca="),
        INVITED.uri() + "&code=ZZZZ-ZZZZ",
        INVITED.uri().replace(":8443", ":99999"),
        INVITED.uri() + "x" * 3000,
        INVITED.uri().replace("ABCD-EFGH", "AB%0ACD"),
    ],
)
def test_what_is_no_invitation_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Invitation.parse(text)


def test_keys_before_a_change_are_kept_and_a_key_to_come_survives_an_interruption(tmp_path: Path) -> None:
    keys = make_profile(tmp_path / "me", ScriptedServer())

    changing = keys.changing()
    save_keys(tmp_path / "me", changing)

    assert load_keys(tmp_path / "me") == changing
    assert changing.changing() == changing
    assert changing.next is not None
    changed = changing.changed()
    assert (changed.device, changed.previous, changed.next) == (changing.next, (keys.device,), None)
    for _ in range(2 * REMEMBERED):
        changed = changed.changing().changed()
    assert len(changed.previous) == REMEMBERED
    save_keys(tmp_path / "me", changed)
    loaded = load_keys(tmp_path / "me")
    assert loaded is not None
    assert [pair.public for pair in loaded.previous] == [pair.public for pair in changed.previous]


@pytest.mark.parametrize(
    "damage", [{"device_next": "00"}, {"device_next": 5}, {"device_previous": 5}, {"device_previous": ["x"]}]
)
def test_damaged_keys_are_told_as_such(tmp_path: Path, damage: dict[str, object]) -> None:
    make_profile(tmp_path / "me", ScriptedServer())
    path = tmp_path / "me" / "keys.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))

    with pytest.raises(ProfileError, match="damaged"):
        load_keys(tmp_path / "me")


def test_one_command_at_a_time_changes_the_key_and_sees_what_another_has_done(tmp_path: Path) -> None:
    with profile_of(tmp_path / "me", ScriptedServer()) as profile, open_profile(tmp_path / "me") as other:
        with profile.changing_keys():
            with pytest.raises(ProfileError, match="devices rotate"), other.changing_keys():
                pass
            profile.save_keys(profile.keys.changing().changed())
        assert other.keys != profile.keys
        with other.changing_keys():
            assert other.keys.device.public == profile.keys.device.public


def test_the_last_checked_history_of_keys_is_remembered(tmp_path: Path) -> None:
    with profile_of(tmp_path / "me", ScriptedServer()) as profile:
        state = profile.state
        assert state.key_history("me") is None
        state.keep_key_history("me", bytes(32), {"events": 1})
        state.keep_key_history("me", b"\1" * 32, {"events": 2})
        assert state.key_history("me") == b"\1" * 32
