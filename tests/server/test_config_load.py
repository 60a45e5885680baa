"""What a configuration means when nothing is wrong with it."""

from pathlib import Path

import attrs
import pytest

from commucat_crypto import NoisePattern
from commucat_server.config import BindAddress, ClearFrames, LedgerMode, LogLevel
from commucat_server.config.keys import KEYS, SECTIONS, VARIABLES
from server.config_builders import hex_key, load_text, noise_variables

# The keys that this version shares with the reference server, all written in quotes as its files have them.
REFERENCE_FILE = """
[server]
bind = "0.0.0.0:8443"
domain = "chat.example.org"
tls_cert = "/etc/ssl/chat.pem"
tls_key = "/etc/ssl/chat.key"
auto_approve_devices = "false"
max_auto_devices_per_user = "2"
keepalive = "3600"

[crypto]
federation_seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
prologue = "commucat"

[ledger]
mode = "file"
target = "/var/log/commucat/ledger.log"

[limits]
presence_ttl = "30"
relay_ttl = "86400"
"""


def test_nothing_is_required(tmp_path: Path) -> None:
    config = load_text(tmp_path)

    assert not config.has_file
    assert config.server.bind == BindAddress(host="127.0.0.1", port=8443)
    assert config.server.domain == "localhost"
    assert config.server.auto_approve_devices
    assert config.server.max_auto_devices_per_user == 1
    assert not config.server.join_by_handle
    assert config.server.keepalive == 3600
    assert config.data_dir == tmp_path / "commucat-data"
    assert config.storage.path == tmp_path / "commucat-data" / "commucat.db"
    assert config.ledger.mode is LedgerMode.FILE
    assert config.ledger.target == tmp_path / "commucat-data" / "ledger.jsonl"
    assert config.crypto.noise_keys is None
    assert config.crypto.prologue == "commucat"
    assert config.crypto.supported_patterns == (NoisePattern.XK, NoisePattern.IK)
    assert config.security.secret_key is None
    assert config.logging.level is LogLevel.INFO
    limits = config.limits
    assert (limits.presence_ttl, limits.relay_ttl) == (30, 2_592_000)
    assert (limits.inbox_rows, limits.inbox_bytes) == (1_000_000, 1024**3)
    assert (limits.routes_per_device, limits.max_frame, limits.channel_members) == (1000, 1024**2, 512)
    assert (limits.connects_per_second, limits.new_devices_per_hour, limits.handshakes) == (200, 100, 1000)
    assert (config.timeouts.handshake, config.timeouts.drain, config.timeouts.write_stall) == (10, 10, 30)


def test_open_registration_without_a_file_is_told_in_one_warning(tmp_path: Path) -> None:
    [warning] = load_text(tmp_path).warnings
    assert "auto_approve_devices is on" in warning

    assert load_text(tmp_path, environ={"COMMUCAT_AUTO_APPROVE_DEVICES": "true"}).warnings == ()


def test_with_a_file_registration_is_closed_unless_set(tmp_path: Path) -> None:
    config = load_text(tmp_path, "")
    assert config.has_file
    assert not config.server.auto_approve_devices
    assert config.warnings == ()

    assert load_text(tmp_path, "[server]\nauto_approve_devices = true").server.auto_approve_devices


def test_quoted_scalars_of_reference_files_are_accepted(tmp_path: Path) -> None:
    config = load_text(tmp_path, REFERENCE_FILE)

    assert config.server.keepalive == 3600
    assert config.server.max_auto_devices_per_user == 2
    assert config.server.auto_approve_devices is False
    assert config.server.tls_cert == Path("/etc/ssl/chat.pem")
    assert config.limits.relay_ttl == 86_400
    assert config.ledger.target == Path("/var/log/commucat/ledger.log")
    assert config.crypto.federation_seed is not None
    assert len(config.crypto.federation_seed) == 32


def test_bare_and_quoted_scalars_mean_the_same(tmp_path: Path) -> None:
    bare = "[server]\nkeepalive = 30\nauto_approve_devices = true\n[timeouts]\ndrain = 2.5\nhandshake = 3"
    quoted = '[server]\nkeepalive = "30"\nauto_approve_devices = "true"\n[timeouts]\ndrain = "2.5"\n'

    assert load_text(tmp_path, bare) == load_text(tmp_path, quoted + 'handshake = "3"')


def test_a_hash_sign_inside_quotes_is_part_of_the_value(tmp_path: Path) -> None:
    # The reference server's parser cuts there.
    assert load_text(tmp_path, '[crypto]\nprologue = "a#b"').crypto.prologue == "a#b"


def test_flag_beats_environment_beats_dotenv_beats_file(tmp_path: Path) -> None:
    toml = '[server]\nbind = "127.0.0.1:1"'
    assert load_text(tmp_path, toml).server.bind.port == 1
    (tmp_path / ".env").write_text("COMMUCAT_BIND=127.0.0.1:2\n")
    assert load_text(tmp_path).server.bind.port == 2
    environ = {"COMMUCAT_BIND": "127.0.0.1:3"}
    assert load_text(tmp_path, environ=environ).server.bind.port == 3
    assert load_text(tmp_path, environ=environ, bind="127.0.0.1:4").server.bind.port == 4


def test_an_overridden_value_is_not_judged(tmp_path: Path) -> None:
    config = load_text(tmp_path, "[server]\nkeepalive = 0", environ={"COMMUCAT_KEEPALIVE": "5"})
    assert config.server.keepalive == 5


def test_dotenv_values_are_literal_and_other_programs_lines_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# comment\nexport COMMUCAT_NOISE_PROLOGUE='a${HOME}b'\nPG_DSN=x\nCOMMUCAT_KEEPALIVE=7 # seconds\n"
    )
    config = load_text(tmp_path)
    assert config.crypto.prologue == "a${HOME}b"
    assert config.server.keepalive == 7


def test_a_directory_named_dotenv_is_no_environment_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert not load_text(tmp_path).has_file


def test_data_dir_comes_from_the_flag_then_the_environment(tmp_path: Path) -> None:
    environ = {"COMMUCAT_DATA_DIR": "from-env"}
    assert load_text(tmp_path, environ=environ).data_dir == tmp_path / "from-env"
    config = load_text(tmp_path, environ=environ, data_dir=Path("from-flag"))
    assert config.data_dir == tmp_path / "from-flag"
    assert config.storage.path == tmp_path / "from-flag" / "commucat.db"


def test_the_file_is_named_by_flag_then_environment_then_found(tmp_path: Path) -> None:
    for port, name in enumerate(("flag.toml", "env.toml", "commucat.toml"), start=1):
        (tmp_path / name).write_text(f'[server]\nbind = "127.0.0.1:{port}"')
    environ = {"COMMUCAT_CONFIG": "env.toml"}

    assert load_text(tmp_path, environ=environ, config_path=Path("flag.toml")).server.bind.port == 1
    assert load_text(tmp_path, environ=environ).server.bind.port == 2
    config = load_text(tmp_path)
    assert config.server.bind.port == 3
    assert config.file == tmp_path / "commucat.toml"


def test_relative_paths_count_from_the_working_directory(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[server]\ntls_cert = "a.pem"\ntls_key = "/b.pem"\n[storage]\npath = "x.db"')
    assert (config.server.tls_cert, config.server.tls_key) == (tmp_path / "a.pem", Path("/b.pem"))
    assert config.storage.path == tmp_path / "x.db"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert load_text(tmp_path, b"\xef\xbb\xbf[server]\nkeepalive = 9").server.keepalive == 9


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:8443", "::1", 8443),
        ("[::]:65535", "::", 65535),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("chat.example.org:443", "chat.example.org", 443),
        ("localhost:8443", "localhost", 8443),
    ],
)
def test_bind_addresses(tmp_path: Path, text: str, host: str, port: int) -> None:
    bind = load_text(tmp_path, bind=text).server.bind
    assert bind == BindAddress(host=host, port=port)
    assert str(bind) == text


@pytest.mark.parametrize("domain", ["localhost", "a.b", "xn--mnchen-3ya.de", "192.0.2.1", "::1", "my_host"])
def test_domains(tmp_path: Path, domain: str) -> None:
    assert load_text(tmp_path, environ={"COMMUCAT_DOMAIN": domain}).server.domain == domain


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"COMMUCAT_LOG": "debug"}, LogLevel.DEBUG),
        ({"COMMUCAT_LOG": "WARN"}, LogLevel.WARNING),
        ({"COMMUCAT_LOG": "error", "RUST_LOG": "trace"}, LogLevel.ERROR),
        ({"RUST_LOG": "trace"}, LogLevel.DEBUG),
        ({"RUST_LOG": "hyper=info,warn"}, LogLevel.WARNING),
    ],
)
def test_log_level_variables(tmp_path: Path, environ: dict[str, str], level: LogLevel) -> None:
    assert load_text(tmp_path, '[logging]\nlevel = "critical"', environ=environ).logging.level is level


def test_rust_log_without_a_level_is_not_ours_but_said(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[logging]\nlevel = "error"', environ={"RUST_LOG": "hyper=debug"})
    assert config.logging.level is LogLevel.ERROR
    [warning] = config.warnings
    assert "RUST_LOG" in warning


def test_stray_variables_are_said_in_one_warning(tmp_path: Path) -> None:
    # Kubernetes sets such variables for a service named commucat: they must not stop the server.
    environ = {"COMMUCAT_SERVICE_HOST": "10.0.0.1", "COMMUCAT_PORT": "tcp://10.0.0.1:8443", "HOME": "/"}
    [warning] = load_text(tmp_path, "", environ=environ).warnings
    assert "COMMUCAT_PORT, COMMUCAT_SERVICE_HOST" in warning
    assert "10.0.0.1" not in warning


def test_variables_without_a_task_are_accepted(tmp_path: Path) -> None:
    names = ("COMMUCAT_VERSION", "COMMUCAT_TEST_PG_DSN", "COMMUCAT_TEST_REDIS_URL")
    assert load_text(tmp_path, "", environ=dict.fromkeys(names, "x")).warnings == ()


def test_patterns_are_a_list_or_comma_separated(tmp_path: Path) -> None:
    assert load_text(tmp_path, '[crypto]\nsupported_patterns = ["IK"]').crypto.supported_patterns == (
        NoisePattern.IK,
    )
    environ = {"COMMUCAT_SUPPORTED_PATTERNS": "IK, XK"}
    assert load_text(tmp_path, environ=environ).crypto.supported_patterns == (
        NoisePattern.IK,
        NoisePattern.XK,
    )


def test_a_matching_noise_pair_is_taken(tmp_path: Path) -> None:
    environ = noise_variables()
    keys = load_text(tmp_path, environ=environ).crypto.noise_keys
    assert keys is not None
    assert keys.private.hex() == environ["COMMUCAT_NOISE_PRIVATE"]
    assert keys.public.hex() == environ["COMMUCAT_NOISE_PUBLIC"]


def test_neither_summary_nor_repr_hold_secrets(tmp_path: Path) -> None:
    environ = noise_variables() | {
        "COMMUCAT_FEDERATION_SEED": hex_key(),
        "COMMUCAT_SECRET_KEY": hex_key(),
    }
    config = load_text(tmp_path, environ=environ)
    shown = repr(config) + "\n".join(config.summary())

    for name in ("COMMUCAT_NOISE_PRIVATE", "COMMUCAT_FEDERATION_SEED", "COMMUCAT_SECRET_KEY"):
        assert environ[name] not in shown
        assert repr(bytes.fromhex(environ[name])) not in shown
    assert "secrets at rest: encrypted" in config.summary()


def test_summary_names_what_is_in_force(tmp_path: Path) -> None:
    lines = load_text(tmp_path, '[server]\ndomain = "chat.example.org"\njoin_by_handle = true').summary()
    assert "domain: chat.example.org" in lines
    assert "listening on: 127.0.0.1:8443" in lines
    assert f"configuration: {tmp_path / 'commucat.toml'}" in lines
    assert any("1 per user" in line for line in lines)


def test_every_setting_has_a_variable_of_its_own() -> None:
    fields = [field for kind in SECTIONS.values() for field in attrs.fields(kind)]
    assert len(VARIABLES) == len(fields) == len(KEYS)


def test_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.server.domain = "x"  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("mode", ClearFrames)
def test_clear_frames_are_never_unless_asked_for_and_warned_of(tmp_path: Path, mode: ClearFrames) -> None:
    by_default = load_text(tmp_path, "[server]")
    config = load_text(tmp_path, f'[transport]\nclear_frames = "{mode.value}"')

    assert by_default.transport.clear_frames is ClearFrames.NEVER
    assert config.transport.clear_frames is mode
    assert f"clear frames: {mode.value}" in config.summary()
    named = [line for line in config.warnings if "transport.clear_frames" in line]
    assert len(named) == (mode is not ClearFrames.NEVER)
    assert all("limits.max_frame" in line for line in named)


def test_short_frames_need_no_word_about_long_ones(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[transport]\nclear_frames = "auto"\n[limits]\nmax_frame = 40960')
    assert [line for line in config.warnings if "clear_frames" in line and "max_frame" not in line]


def test_rooms_are_closed_unless_opened(tmp_path: Path) -> None:
    assert not load_text(tmp_path, "[server]").channels.open_join
    assert load_text(tmp_path, "[channels]\nopen_join = true").channels.open_join
    assert load_text(tmp_path, "[server]", environ={"COMMUCAT_OPEN_JOIN": "true"}).channels.open_join


def test_a_section_with_a_dot_is_read_by_its_whole_name(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        "[rotation.device]\nmin_interval = 0\n[pairing]\nrequire_approval = true",
        environ={"COMMUCAT_ROTATION_DEVICE_PROOF_TTL": "60", "COMMUCAT_PAIRING_TTL": "120"},
    )

    rotation = config.rotation_device
    assert (rotation.enabled, rotation.min_interval, rotation.proof_ttl) == (True, 0, 60)
    assert config.limits.pairing_ttl == 120
    assert config.pairing.require_approval


def test_files_of_users_are_in_the_data_directory_unless_told_otherwise(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    assert config.uploads.dir == tmp_path / "commucat-data" / "uploads"
    assert config.attachments.dir == tmp_path / "commucat-data" / "attachments"
    assert config.uploads.enabled
    assert config.attachments.enabled
    assert config.uploads.base_url is None
    limits = config.attachments
    assert (limits.max_bytes, limits.user_bytes) == (100 * 1024**2, 1024**3)
    assert (limits.ttl, limits.upload_ttl) == (30 * 86_400, 86_400)

    environ = {
        "COMMUCAT_UPLOADS_DIR": "elsewhere",
        "COMMUCAT_UPLOADS_ENABLED": "false",
        "COMMUCAT_ATTACHMENTS_DIR": "/srv/blobs",
    }
    toml = '[uploads]\nbase_url = "https://chat.example.org/uploads"\n[attachments]\nttl = 5'
    config = load_text(tmp_path, toml, environ=environ)
    assert (config.uploads.dir, config.uploads.enabled) == (tmp_path / "elsewhere", False)
    assert config.uploads.base_url == "https://chat.example.org/uploads"
    assert (config.attachments.dir, config.attachments.ttl) == (Path("/srv/blobs"), 5)


def test_each_worker_has_a_ledger_and_a_name_of_its_own(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[ledger]\nmode = "file"\nnode = "' + "n" * 64 + '"\n')
    first, second = config.of_worker(1).ledger, config.of_worker(2).ledger
    assert first.target is not None
    assert second.target is not None
    assert (first.target.name, second.target.name) == ("ledger-1.jsonl", "ledger-2.jsonl")
    assert (first.node, second.node) == ("n" * 62 + "-1", "n" * 62 + "-2")
