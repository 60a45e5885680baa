"""Peers in the configuration: what is read, and what is refused in one line."""

from pathlib import Path

import pytest

from commucat_server.config import ConfigError, ServerConfig
from commucat_server.federation.addresses import (
    EVENTS_PATH,
    FRIENDS_PATH,
    event_url,
    local_name,
    split_address,
    well_known_url,
)
from server.config_builders import load_text

KEY = "9719e690a626f3acdf4894922f245008e0345d1e152abe205a5e49f1f77fcbe2"
PEER = f"b.example,https://b.example,{KEY}"


def load(tmp_path: Path, lines: str, **environ: str) -> ServerConfig:
    return load_text(tmp_path, f"[server]\ndomain = 'a.example'\n[federation]\n{lines}", environ=environ)


@pytest.mark.parametrize(
    "value",
    [
        f'["{PEER}", "c.example, https://c.example:8443/fed/ , {KEY}"]',
        f'"{PEER};c.example,https://c.example:8443/fed,{KEY};"',
    ],
)
def test_peers_are_read_from_a_list_or_a_text(tmp_path: Path, value: str) -> None:
    b, c = load(tmp_path, f"peers = {value}").federation.peers.peers
    assert (b.domain, b.endpoint, b.public_key.hex()) == ("b.example", "https://b.example", KEY)
    assert c.endpoint == "https://c.example:8443/fed"


def test_peers_are_read_from_the_environment(tmp_path: Path) -> None:
    config = load(tmp_path, "", COMMUCAT_FEDERATION_PEERS=PEER.replace("b.example,", "B.Example,", 1))
    assert [peer.domain for peer in config.federation.peers.peers] == ["b.example"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('peers = ["b.example,https://b.example"]', "write its domain, its address and its key"),
        ("peers = [1]", "is no peer"),
        ("peers = 1", "must be a list"),
        (f'peers = "b example,https://b.example,{KEY}"', "must be a domain name"),
        (f'peers = "b.example,http://b.example,{KEY}"', "must be an address such as https://"),
        (f'peers = "b.example,https://user@b.example,{KEY}"', "must be an address such as https://"),
        (f'peers = "b.example,https://b.example/?x=1,{KEY}"', "must be an address such as https://"),
        (f'peers = "b.example,https://b.example:99999,{KEY}"', "must be an address such as https://"),
        (f'peers = "b.example,https://b.example,{"0" * 64}"', "is no key"),
        ('peers = "b.example,https://b.example,abcd"', "is no key"),
        (f'peers = "{PEER};{PEER}"', "names b.example twice"),
        (f'peers = "A.Example,https://a.example,{KEY}"', "own domain"),
        ("endpoint = 'b.example'", "federation.endpoint"),
        ("backoff_min = 10\nbackoff_max = 5", "must not be less than backoff_min"),
        ("timeout = 0", "must be from 1 to 300"),
        ("peer = 1", "did you mean peers?"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match="federation") as caught:
        load(tmp_path, lines)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "events", "friends"),
    [
        ("https://h", "https://h/federation/events", "https://h/federation/friend-request"),
        ("https://h/", "https://h/federation/events", "https://h/federation/friend-request"),
        ("https://h/fed", "https://h/fed/federation/events", "https://h/fed/federation/friend-request"),
        ("https://h/federation", "https://h/federation/events", "https://h/federation/friend-request"),
        ("https://h/federation/events", "https://h/federation/events", "https://h/federation/friend-request"),
        (
            "https://h:1/x/federation/friend-request/",
            "https://h:1/x/federation/events",
            "https://h:1/x/federation/friend-request",
        ),
    ],
)
def test_endpoints_are_written_in_many_ways(endpoint: str, events: str, friends: str) -> None:
    assert event_url(endpoint, EVENTS_PATH) == events
    assert event_url(endpoint, FRIENDS_PATH) == friends


def test_a_peer_describes_itself_at_the_root_of_its_host() -> None:
    assert well_known_url("https://h:1/x/y") == "https://h:1/.well-known/commucat-federation"


def test_our_own_domain_behind_a_device_means_nothing() -> None:
    names = ["d", "d@A.Example", "d@b.example", "@a.example"]
    assert [local_name(name, "a.example") for name in names] == ["d", "d", "d@b.example", ""]


@pytest.mark.parametrize(
    "text", ["", "d", "@x", "d@", "d@x@y", "a\nb@x", "d@x y\0", "d" * 129 + "@x", "d@" + "x" * 254]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert split_address(text) is None


def test_an_address_is_split_at_its_first_at() -> None:
    assert split_address("dev-ж@B.Example") == ("dev-ж", "b.example")
