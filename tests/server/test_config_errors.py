"""Everything that can be wrong with a configuration is told in one line that names it."""

from pathlib import Path

import pytest

from commucat_crypto import StaticKeyPair
from commucat_server.config import ConfigError
from commucat_server.config.keys import VARIABLES
from server.config_builders import hex_key, load_text, noise_variables


def error_of(folder: Path, toml: str | bytes | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, toml, environ=environ)
    text = str(caught.value)
    assert text.isprintable()
    if toml is not None:
        assert text.startswith(str(folder / "commucat.toml"))
    return text


@pytest.mark.parametrize(
    ("toml", "key", "reason"),
    [
        ("[server]\nkeepalive = true", "server.keepalive", "whole number, not true"),
        ("[server]\nkeepalive = 30.0", "server.keepalive", "whole number, not 30.0"),
        ('[server]\nkeepalive = "30s"', "server.keepalive", 'whole number, not "30s"'),
        ('[server]\nkeepalive = "٣"', "server.keepalive", "whole number"),
        ("[server]\nkeepalive = 0", "server.keepalive", "must be from 1 to"),
        ("[server]\nkeepalive = 0x" + "f" * 9000, "server.keepalive", "a very large number"),
        ("[server]\nkeepalive = 1979-05-27", "server.keepalive", "a date or time"),
        ("[server]\nkeepalive = []", "server.keepalive", "a list"),
        ("[server]\nkeepalive = {a = 1}", "server.keepalive", "a table"),
        ("[server]\nauto_approve_devices = 1", "server.auto_approve_devices", "true or false, not 1"),
        ('[server]\nauto_approve_devices = "yes"', "server.auto_approve_devices", "true or false"),
        ('[server]\nauto_approve_devices = "True"', "server.auto_approve_devices", "true or false"),
        ("[server]\nmax_auto_devices_per_user = -1", "server.max_auto_devices_per_user", "from 0"),
        ("[server]\nmax_connections = 0", "server.max_connections", "from 1"),
        ("[server]\ndomain = 3", "server.domain", "text in quotes, not 3"),
        ('[server]\ndomain = ""', "server.domain", "empty"),
        ('[server]\ndomain = "https://a.b"', "server.domain", "no scheme"),
        ('[server]\ndomain = "a.b:8443"', "server.domain", "no port"),
        ('[server]\ndomain = "münchen.de"', "server.domain", "xn--"),
        ('[server]\ndomain = "a\\nb"', "server.domain", "control character"),
        ('[server]\nbind = "127.0.0.1"', "server.bind", "host:port"),
        ('[server]\nbind = "127.0.0.1:65536"', "server.bind", "host:port"),
        ('[server]\nbind = "127.0.0.1:-1"', "server.bind", "host:port"),
        ('[server]\nbind = "::1:8443"', "server.bind", "brackets"),
        ('[server]\nbind = "[::g]:8443"', "server.bind", "not an IPv6 address"),
        ('[server]\nbind = ":8443"', "server.bind", "0.0.0.0:8443"),
        ('[server]\nbind = "300.1.1.1:8443"', "server.bind", "not a host name"),
        ('[server]\nbind = "a b:8443"', "server.bind", "not a host name"),
        ('[server]\ntls_cert = "a.pem"', "server.tls_cert", "set without tls_key"),
        ('[server]\ntls_key = "a.pem"', "server.tls_key", "set without tls_cert"),
        ('[server]\ntls_cert = "a\\u0000b"', "server.tls_cert", "control character"),
        ('[crypto]\nnoise_private = "00"', "crypto.noise_private", "64 hexadecimal digits"),
        (f'[crypto]\nnoise_private = "{"0" * 64}"', "crypto.noise_private", "without noise_public"),
        (f'[crypto]\nnoise_public = "{"0" * 64}"', "crypto.noise_public", "without noise_private"),
        ('[crypto]\nfederation_seed = "abcd"', "crypto.federation_seed", "at least 64"),
        ('[crypto]\nfederation_seed = "zz"', "crypto.federation_seed", "hexadecimal"),
        ('[crypto]\nfederation_seed = "abc"', "crypto.federation_seed", "even number"),
        ("[crypto]\nfederation_seed = 12", "crypto.federation_seed", "in quotes"),
        ('[crypto]\nprologue = ""', "crypto.prologue", "empty"),
        ("[crypto]\nsupported_patterns = []", "crypto.supported_patterns", "XK"),
        ('[crypto]\nsupported_patterns = ["X"]', "crypto.supported_patterns", "XK"),
        ('[crypto]\nsupported_patterns = ["XK", "XK"]', "crypto.supported_patterns", "each once"),
        ('[crypto]\nsupported_patterns = ["NN"]', "crypto.supported_patterns", '"NN"'),
        ("[crypto]\nsupported_patterns = 3", "crypto.supported_patterns", "a list"),
        ('[ledger]\nmode = "syslog"', "ledger.mode", "null, debug, file"),
        ("[ledger]\nmode = 3", "ledger.mode", "null, debug, file"),
        ('[logging]\nlevel = "loud"', "logging.level", "debug, info"),
        ("[limits]\npresence_ttl = 0", "limits.presence_ttl", "from 1"),
        ("[limits]\nrelay_ttl = -5", "limits.relay_ttl", "from 1"),
        ("[limits]\nmax_frame = 16777217", "limits.max_frame", "16777216"),
        ("[limits]\ninbox_bytes = 4096", "limits.inbox_bytes", "limits.max_frame"),
        ("[limits]\nchannel_members = 0", "limits.channel_members", "from 1"),
        ("[timeouts]\nhandshake = 0", "timeouts.handshake", "more than 0"),
        ("[timeouts]\nhandshake = -1.5", "timeouts.handshake", "more than 0"),
        ("[timeouts]\ndrain = inf", "timeouts.drain", "at most 3600"),
        ("[timeouts]\ndrain = nan", "timeouts.drain", "at most 3600"),
        ('[timeouts]\ndrain = "1e3"', "timeouts.drain", "a number"),
        ("[timeouts]\ndrain = true", "timeouts.drain", "a number, not true"),
        ('[uploads]\nbase_url = "uploads"', "uploads.base_url", "https://"),
        ("[attachments]\nmax_bytes = 0", "attachments.max_bytes", "from 1"),
        ("[attachments]\nuser_bytes = 5", "attachments.user_bytes", "attachments.max_bytes"),
        ("[attachments]\nttl = 0", "attachments.ttl", "from 1"),
        ('[security]\nsecret_key = "00ff"', "security.secret_key", "64 hexadecimal digits"),
    ],
)
def test_wrong_values_name_file_key_and_reason(tmp_path: Path, toml: str, key: str, reason: str) -> None:
    text = error_of(tmp_path, toml)
    assert f": {key}: " in text
    assert reason in text


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("[serverr]\nbind = 1", ("serverr", "did you mean server?")),
        ("[zzz]", ("zzz", "unknown section", "known sections: ")),
        ("[server]\nkeepalve = 1", ("server.keepalve", "did you mean keepalive?")),
        ("[server]\nzzz = 1", ("server.zzz", "unknown key", "known keys: auto_approve_devices")),
        ("[server]\nrelay_ttl = 1", ("server.relay_ttl", "belongs to section [limits]")),
        ("bind = 1", ("bind", "outside a section")),
        ("[rotation]\nmin_interval = 1", ("rotation", "unknown section", "rotation.device")),
        ("[rotation.device]\ninterval = 1", ("rotation.device.interval", "did you mean min_interval?")),
        ("[rotation]\ndevice = 1", ("rotation.device", "must be a section")),
        ("rotation = 1", ("rotation", "outside a section")),
        ("data_dir = 'x'", ("data_dir", "--data-dir")),
        ("server = 1", ("server", "must be a section")),
        ("[[server]]\nbind = 'x'", ("server", "must be a section")),
        ('["a\\nb"]', ("a\\nb", "unknown section")),
    ],
)
def test_unknown_sections_and_keys_are_named(tmp_path: Path, toml: str, parts: tuple[str, ...]) -> None:
    text = error_of(tmp_path, toml)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[crypto]\npq_kem_public = 'x'", "crypto.pq_kem_public"),
        ("[crypto]\npq_kem_secret = 'x'", "crypto.pq_kem_secret"),
        ("[transport]\nreality_cert = 'x'", "transport.reality_cert"),
        ("[transport]\nreality_fingerprint = 'x'", "transport.reality_fingerprint"),
    ],
)
def test_keys_of_missing_capabilities_are_refused_by_name(tmp_path: Path, toml: str, key: str) -> None:
    text = error_of(tmp_path, toml)
    assert f": {key}: not supported by this version" in text


@pytest.mark.parametrize(
    "variable",
    [
        "COMMUCAT_PQ_KEM_PUBLIC",
        "COMMUCAT_PQ_KEM_SECRET",
        "COMMUCAT_REALITY_CERT",
    ],
)
@pytest.mark.parametrize("value", ["x", ""])
def test_variables_of_missing_capabilities_are_refused(tmp_path: Path, variable: str, value: str) -> None:
    text = error_of(tmp_path, environ={variable: value})
    assert text.startswith(f"environment variable {variable}: not supported by this version")

    (tmp_path / ".env").write_text(f"{variable}={value}\n")
    text = error_of(tmp_path)
    assert text.startswith(f"{tmp_path / '.env'}: {variable}: not supported by this version")


def test_misspelt_variables_are_refused(tmp_path: Path) -> None:
    # Silently without effect, this one would leave the keys in the store unencrypted.
    text = error_of(tmp_path, environ={"COMMUCAT_SECRETKEY": hex_key()})
    assert "did you mean COMMUCAT_SECRET_KEY?" in text


@pytest.mark.parametrize("variable", sorted([*VARIABLES, "COMMUCAT_CONFIG", "COMMUCAT_DATA_DIR"]))
def test_empty_variables_are_not_taken_for_unset(tmp_path: Path, variable: str) -> None:
    assert variable in error_of(tmp_path, environ={variable: ""})


def test_wrong_values_name_the_variable_or_flag(tmp_path: Path) -> None:
    assert "environment variable COMMUCAT_KEEPALIVE:" in error_of(
        tmp_path, environ={"COMMUCAT_KEEPALIVE": "x"}
    )
    assert "environment variable COMMUCAT_DOMAIN:" in error_of(
        tmp_path, environ={"COMMUCAT_DOMAIN": "a\udc80"}
    )
    with pytest.raises(ConfigError, match=r"^--bind: must be host:port"):
        load_text(tmp_path, bind="nonsense")
    with pytest.raises(ConfigError, match=r"^--data-dir: "):
        load_text(tmp_path, data_dir=Path("a\0b"))


@pytest.mark.parametrize(
    ("toml", "position"),
    [
        ("[server]\nbind = 0.0.0.0:8443", "line 2, column"),
        ('[server]\nbind = "127.0', "end of document"),
        ("[server", "end of document"),
        ("[server]\nbind = 1\nbind = 2\n", "line 3, column"),
        ("\x00", "line 1, column 1"),
    ],
)
def test_broken_and_half_written_toml_names_the_position(tmp_path: Path, toml: str, position: str) -> None:
    text = error_of(tmp_path, toml)
    assert "not valid TOML" in text
    assert position in text


@pytest.mark.parametrize("toml", ["a = " + "[" * 20_000, "a = " + "9" * 20_000], ids=["deep", "long"])
def test_toml_that_the_parser_gives_up_on(tmp_path: Path, toml: str) -> None:
    assert "too long or too deep" in error_of(tmp_path, toml)


def test_files_that_are_not_configuration_files(tmp_path: Path) -> None:
    assert "byte 1 is not UTF-8" in error_of(tmp_path, b"#\xff")
    assert "longer than" in error_of(tmp_path, b"#" * (1024 * 1024 + 1))


def test_named_files_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: configuration file does not exist"):
        load_text(tmp_path, config_path=Path("x.toml"))
    assert "y.toml: configuration file does not exist" in error_of(
        tmp_path, environ={"COMMUCAT_CONFIG": "y.toml"}
    )
    with pytest.raises(ConfigError, match="is a directory"):
        load_text(tmp_path, config_path=tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_text(tmp_path, config_path=Path("a\0b"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_text(tmp_path, config_path=Path("file/x.toml"))


def test_a_found_directory_or_dangling_link_is_not_taken_for_no_file(tmp_path: Path) -> None:
    (tmp_path / "commucat.toml").mkdir()
    assert "is a directory" in error_of(tmp_path)
    (tmp_path / "commucat.toml").rmdir()
    (tmp_path / "commucat.toml").symlink_to(tmp_path / "nowhere")
    assert "does not exist" in error_of(tmp_path)


def test_broken_dotenv_names_the_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('A=1\nCOMMUCAT_SECRET_KEY="hidden-value\n')
    text = error_of(tmp_path)
    assert f"{tmp_path / '.env'}: line 2" in text
    assert "hidden-value" not in text
    (tmp_path / ".env").write_bytes(b"\xff=1")
    assert "not UTF-8" in error_of(tmp_path)


def test_a_noise_pair_must_match(tmp_path: Path) -> None:
    environ = noise_variables() | {"COMMUCAT_NOISE_PUBLIC": StaticKeyPair.generate().public.hex()}
    assert "does not belong to noise_private" in error_of(tmp_path, environ=environ)


@pytest.mark.parametrize(
    "variable", ["COMMUCAT_NOISE_PRIVATE", "COMMUCAT_FEDERATION_SEED", "COMMUCAT_SECRET_KEY"]
)
def test_errors_never_show_secrets(tmp_path: Path, variable: str) -> None:
    secret = "5eC4e7" * 20 + "!"
    text = error_of(tmp_path, environ={variable: secret})
    assert "5eC4e7" not in text
    text = error_of(tmp_path, environ={variable: "5eC4e7"})
    assert "5eC4e7" not in text
