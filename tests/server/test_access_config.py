"""Sections about access: the administrator's token, proxies, rate limits."""

from pathlib import Path

import pytest

from commucat_server.config import ConfigError, Networks, ProxyHeader
from commucat_server.ops.reload import needs_restart
from commucat_server.security.admin import ConfiguredToken, bearer_token, is_loopback
from server.config_builders import hex_key, load_text

TOKEN = "s3cret-of-the-administrator"


def test_by_default_nobody_is_trusted_and_frames_have_no_limit(tmp_path: Path) -> None:
    config = load_text(tmp_path)

    assert config.admin.token is None
    assert not config.admin.allow_anonymous_metrics
    assert not config.proxy.trusted
    assert config.proxy.header is ProxyHeader.NONE
    rates = config.security_rate_limit
    assert (rates.http_burst, rates.http_window_ms, rates.http_penalty_ms) == (60, 1000, 10_000)
    assert (rates.pairing_burst, rates.pairing_window_ms, rates.pairing_penalty_ms) == (5, 60_000, 120_000)
    assert (rates.message_burst, rates.user_message_burst, rates.connect_burst) == (None, None, None)


def test_sections_below_sections_are_read_beside_their_own_keys(tmp_path: Path) -> None:
    secret = hex_key()
    text = f'[security]\nsecret_key = "{secret}"\n[security.rate_limit]\nhttp_burst = "7"\n'
    config = load_text(tmp_path, text)

    assert config.security.secret_key == bytes.fromhex(secret)
    assert config.security_rate_limit.http_burst == 7
    dotted = load_text(tmp_path, "[security]\nrate_limit.http_burst = 8\n")
    assert dotted.security_rate_limit.http_burst == 8


def test_variables_of_the_reference_server_count(tmp_path: Path) -> None:
    environ = {
        "COMMUCAT_ADMIN_TOKEN": TOKEN,
        "COMMUCAT_RATE_PAIRING_PENALTY_MS": "5",
        "COMMUCAT_RATE_CONNECT_BURST": "9",
        "COMMUCAT_PROXY_TRUSTED": "10.0.0.0/8, 2001:db8::/32,192.0.2.1",
        "COMMUCAT_PROXY_HEADER": "forwarded",
    }
    config = load_text(tmp_path, environ=environ)

    assert config.admin.token == TOKEN
    assert config.security_rate_limit.pairing_penalty_ms == 5
    assert config.security_rate_limit.connect_burst == 9
    assert all(each in config.proxy.trusted for each in ("10.9.9.9", "2001:db8::7", "::ffff:192.0.2.1"))
    assert not any(each in config.proxy.trusted for each in ("11.0.0.1", "2001:db9::7", "192.0.2.2", "x", ""))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[admin]\ntoken = 'short'", "admin.token: must be 16 to 512"),
        ("[admin]\ntoken = 'with spaces in the middle'", "admin.token: must be 16 to 512"),
        (f"[admin]\ntoken = '{'x' * 513}'", "admin.token: must be 16 to 512"),
        ("[admin]\ntoken = 'ümläuts-are-no-token'", "admin.token: must be 16 to 512"),
        ("[admin]\nallow_anonymous_metrics = 1", "admin.allow_anonymous_metrics: must be true or false"),
        ("[proxy]\nprotocol = true", "proxy.protocol: is set without trusted"),
        ("[proxy]\nheader = 'forwarded'", "proxy.header: is set without trusted"),
        ("[proxy]\ntrusted = []\nheader = 'forwarded'", "proxy.header: is set without trusted"),
        ("[proxy]\ntrusted = ['10.0.0.1/8']", "proxy.trusted"),
        ("[proxy]\ntrusted = ['everybody']", "proxy.trusted"),
        ("[proxy]\ntrusted = [10]", "proxy.trusted"),
        ("[proxy]\ntrusted = 10", "proxy.trusted: must be a list"),
        ("[proxy]\ntrusted = ['10.0.0.0/8']\nheader = 'x-real-ip'", "proxy.header: must be one of"),
        ("[security.rate_limit]\nhttp_burst = 0", "security.rate_limit.http_burst: must be from 1"),
        ("[security.rate_limit]\nhttp_window_ms = 0", "security.rate_limit.http_window_ms: must be from 1"),
        (
            "[security.rate_limit]\nhttp_penalty_ms = -1",
            "security.rate_limit.http_penalty_ms: must be from 0",
        ),
        ("[security.rate_limit]\nmessage_burst = 0", "security.rate_limit.message_burst: must be from 1"),
        (
            "[security.rate_limit]\nhttp_burts = 1",
            "security.rate_limit.http_burts: unknown key; did you mean",
        ),
        ("[security]\nrate_limit = 1", "security.rate_limit: must be a section"),
        ("[security]\nhttp_burst = 1", "it belongs to section [security.rate_limit]"),
        ("[security.rate_limit.more]\nx = 1", "security.rate_limit.more: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "short" not in str(caught.value)
    assert "middle" not in str(caught.value)


def test_the_token_is_shown_nowhere(tmp_path: Path) -> None:
    config = load_text(tmp_path, environ={"COMMUCAT_ADMIN_TOKEN": TOKEN})

    assert TOKEN not in repr(config)
    assert TOKEN not in "".join(config.summary())
    assert TOKEN not in repr(vars(ConfiguredToken(TOKEN)))


def test_a_restart_is_asked_for_by_the_names_of_keys(tmp_path: Path) -> None:
    old = load_text(tmp_path, "[logging]\nlevel = 'info'\n", data_dir=tmp_path)
    text = f"""
[logging]
level = "debug"
[server]
domain = "other.example"
[security]
secret_key = "{hex_key()}"
[security.rate_limit]
http_burst = 1
[admin]
token = "{TOKEN}"
"""
    new = load_text(tmp_path, text, data_dir=tmp_path)

    assert needs_restart(old, new) == ["server.domain", "security.secret_key"]
    assert needs_restart(old, old) == []


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer  a ", "a"),
        ("bearer a", "a"),
        ("a", "a"),
        ("Basic a", "Basic a"),
    ],
)
def test_a_bare_token_counts_like_one_with_its_scheme(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_its_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_networks_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most 256"):
        Networks.parse(["10.0.0.0/8"] * 257)
