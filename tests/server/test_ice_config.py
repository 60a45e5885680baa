"""The sections ``[ice]`` and ``[p2p]``."""

import json
from pathlib import Path

import pytest

from commucat_server.config import ConfigError, ServerConfig, load_config

SECRET = "north"


def load(tmp_path: Path, toml: str = "", environ: dict[str, str] | None = None) -> ServerConfig:
    (tmp_path / "commucat.toml").write_text(toml)
    return load_config(config_path=None, data_dir=None, bind=None, environ=environ or {}, cwd=tmp_path)


def test_servers_are_ordered_by_name_and_read_both_forms_of_urls(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        f"""
        [ice.turn.second]
        urls = ["turns:[2001:db8::1]:5349?transport=tcp", "stun:stun.example.org"]
        username = "u"
        password = "{SECRET}"
        realm = "example.org"
        [ice.turn.first]
        urls = "turn:turn.example.org, turn:turn.example.org:3478?transport=udp"
        secret = "{SECRET}"
        [ice]
        turn_ttl = 120
        """,
    )
    first, second = config.ice.turn.servers
    assert (first.name, first.urls) == (
        "first",
        ("turn:turn.example.org", "turn:turn.example.org:3478?transport=udp"),
    )
    assert (second.username, second.password, second.realm) == ("u", SECRET, "example.org")
    assert config.ice.turn_ttl == 120
    assert SECRET not in repr(config)


def test_the_variable_holds_the_same_in_json(tmp_path: Path) -> None:
    value = json.dumps({"main": {"urls": "turn:t.example", "secret": SECRET}})
    [server] = load(tmp_path, environ={"COMMUCAT_ICE_TURN": value}).ice.turn.servers
    assert (server.urls, server.secret) == (("turn:t.example",), SECRET)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("secret = 'north'", "ice.turn: a.urls: is missing"),
        ("urls = ''\nsecret = 'north'", "ice.turn: a.urls: must be 1 to 16 addresses"),
        ("urls = 'http://x'\nsecret = 'north'", "is no address such as turn:"),
        ("urls = 'turn:x'", "ice.turn: a: needs secret, or username and password"),
        ("urls = 'turn:x'\nusername = 'north'", "ice.turn: a: needs secret, or username and password"),
        (
            "urls = 'turn:x'\nsecret = 'north'\npassword = 'north'",
            "ice.turn: a: has secret and username or password",
        ),
        ("urls = 'turn:x'\nsecret = ''", "ice.turn: a.secret: must be printable text"),
        ("urls = 'turn:x'\nsecret = 5", "ice.turn: a.secret: must be printable text"),
        ("urls = 'turn:x'\nsecret = 'north'\nport = 'x'", "ice.turn: a.port: unknown key"),
    ],
)
def test_a_wrong_server_is_named_and_no_secret_is_shown(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"[ice.turn.a]\n{table}")
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[ice]\nturn = 5", "ice.turn: must be sections [ice.turn.NAME]"),
        ("[ice]\nturn = {a = 5}", "ice.turn: a: must be a section"),
        ("[ice.turn.'a b']\nurls = 'x'", "is no name"),
        ("[ice]\nturn_ttl = 0", "ice.turn_ttl: must be from 1"),
        ("[ice]\nlite_bind = 'localhost:3478'", "ice.lite_bind: must be an IP address and a port"),
        (
            "[ice]\nlite_public_address = '0.0.0.0:3478'",
            "lite_public_address: must be an address that clients",
        ),
        (
            "[ice]\nlite_public_address = '203.0.113.7:0'",
            "lite_public_address: must be an address that clients",
        ),
        ("[ice]\nlite_enabled = 'yes'", "ice.lite_enabled: must be true or false"),
        ("[p2p]\nrelay_auth = 'none'", "p2p.relay_auth: must be one of required, open"),
        ("[p2p]\nrelay_bytes = 0", "p2p.relay_bytes: must be from 1"),
    ],
)
def test_a_wrong_value_names_its_key(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, toml)
    assert said in str(caught.value)
