"""Whose request it is, by what trusted proxies say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_server.config import Networks, ProxyHeader
from commucat_server.listener.request import RequestHead
from commucat_server.security.clients import ClientAddresses, address_of

TRUSTED = Networks.parse(["10.0.0.0/8", "127.0.0.1", "2001:db8:ffff::/48"])
XFF = ClientAddresses(trusted=TRUSTED, header=ProxyHeader.X_FORWARDED_FOR)
FORWARDED = ClientAddresses(trusted=TRUSTED, header=ProxyHeader.FORWARDED)


@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        ("10.1.1.1", "192.0.2.7", "192.0.2.7"),
        ("10.1.1.1", "192.0.2.7, 10.2.2.2", "192.0.2.7"),
        ("10.1.1.1", "192.0.2.7,192.0.2.8", "192.0.2.8"),
        ("10.1.1.1", "192.0.2.7:1234", "192.0.2.7"),
        ("10.1.1.1", "[2001:db8::7]:1234", "2001:db8::7"),
        ("10.1.1.1", "2001:db8::7", "2001:db8::7"),
        ("2001:db8:ffff::1", "::ffff:192.0.2.7", "192.0.2.7"),
        # Whoever is no proxy may say what he likes.
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),
        # What the nearest proxy says counts, not what the client wrote before.
        ("10.1.1.1", "127.0.0.1, 198.51.100.9, 192.0.2.7, 10.2.2.2", "192.0.2.7"),
        ("10.1.1.1", "unknown", "10.1.1.1"),
        ("10.1.1.1", "192.0.2.7, garbage, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", ",,,", "10.1.1.1"),
        ("10.1.1.1", "10.2.2.2, 10.3.3.3", "10.2.2.2"),
    ],
)
def test_the_list_is_read_from_its_end(peer: str, value: str, client: str) -> None:
    assert XFF.resolve(peer, value) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.7", "192.0.2.7"),
        ('For="192.0.2.7:4711";proto=https;by=10.1.1.1', "192.0.2.7"),
        ('proto=https; for="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=198.51.100.9, for=192.0.2.7, for=10.2.2.2", "192.0.2.7"),
        ("for=_hidden", "10.1.1.1"),
        ("for=unknown", "10.1.1.1"),
        ("by=192.0.2.7", "10.1.1.1"),
        ("for=192.0.2.7;for=192.0.2.8", "10.1.1.1"),
        ('for="192.0.2.7', "10.1.1.1"),
        ("notfor=192.0.2.7", "10.1.1.1"),
    ],
)
def test_the_standard_header_is_read_likewise(value: str, client: str) -> None:
    assert FORWARDED.resolve("10.1.1.1", value) == client


def test_without_configuration_no_header_is_believed() -> None:
    assert ClientAddresses().resolve("127.0.0.1", "192.0.2.7") == "127.0.0.1"
    assert ClientAddresses(trusted=TRUSTED).header_name is None


def test_many_entries_cost_no_more_than_a_few() -> None:
    assert XFF.resolve("10.1.1.1", ",".join(["10.2.2.2"] * 100_000)) == "10.2.2.2"


@given(st.text(max_size=60))
def test_garbage_is_no_address(text: str) -> None:
    found = address_of(text)
    assert found is None or address_of(found) == found


@pytest.mark.parametrize(
    "text", ["192.0.2.7:", "192.0.2.7:x", "[2001:db8::7", "[::1]x", "fe80::1%eth0", "1:2", "[]"]
)
def test_nearly_addresses_are_none(text: str) -> None:
    assert address_of(text) is None


def test_all_headers_of_proxies_count_and_of_others_the_first() -> None:
    fields = [
        (b":method", b"POST"),
        (b":path", b"/connect"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"user-agent", b"one"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"user-agent", b"two"),
    ]
    headers = RequestHead.from_fields(fields).first_headers()

    assert headers["x-forwarded-for"] == "127.0.0.1,192.0.2.7"
    assert headers["user-agent"] == "one"
    assert XFF.resolve("10.1.1.1", headers["x-forwarded-for"]) == "192.0.2.7"
