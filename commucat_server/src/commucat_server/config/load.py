"""Joins flags, environment, file and defaults into one :class:`ServerConfig`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import cattrs

from commucat_server.config import (
    access_sections,
    calls_section,
    federation_section,
    rotation_section,
    sections,
    telemetry_section,
)
from commucat_server.config.errors import ConfigError, FlagError, InvalidValueError, one_line
from commucat_server.config.keys import SECTIONS
from commucat_server.config.sources import (
    Given,
    read_variables,
    settings_from_file,
    settings_from_variables,
)
from commucat_server.config.values import level_of, make_converter

_DATA_DIR: Final = "commucat-data"
_FILE: Final = "commucat.toml"
_DATABASE: Final = "commucat.db"
_LEDGER: Final = "ledger.jsonl"
_UPLOADS: Final = "uploads"
_ATTACHMENTS: Final = "attachments"


@attrs.frozen(kw_only=True)
class ServerConfig:
    """The whole configuration of a server. All paths are absolute if the working directory was."""

    data_dir: Path
    file: Path | None
    """The configuration file that was read."""
    server: sections.ServerSection
    crypto: sections.CryptoSection
    storage: sections.StorageSection
    ledger: sections.LedgerSection
    limits: sections.LimitsSection
    delivery: sections.DeliverySection
    channels: sections.ChannelsSection
    transport: sections.TransportSection
    timeouts: sections.TimeoutsSection
    security: sections.SecuritySection
    security_rate_limit: access_sections.RateLimitSection
    admin: access_sections.AdminSection
    proxy: access_sections.ProxySection
    uploads: sections.UploadsSection
    attachments: sections.AttachmentsSection
    security_rotation: rotation_section.RotationSection
    logging: sections.LoggingSection
    telemetry: telemetry_section.TelemetrySection
    pairing: sections.PairingSection
    rotation_device: sections.DeviceRotationSection
    calls: calls_section.CallsSection
    federation: federation_section.FederationSection
    warnings: tuple[str, ...] = ()
    """Lines to log at warning once, at start."""
    worker: int = 0
    """Which of several workers this process is, from 1; 0 for a server of one process."""

    def of_worker(self, worker: int) -> "ServerConfig":
        """The same for one of several workers: it has a ledger of its own, in ``ledger-1.jsonl``.

        It is also called otherwise, ``main-1``: clients that meet one worker after the other would take two
        ledgers of one name for one that was begun anew.
        """
        suffix = f"-{worker}"
        target, node = self.ledger.target, self.ledger.node
        if target is not None:
            target = target.with_stem(f"{target.stem}{suffix}")
        node = f"{node[: sections.MAX_NODE_LEN - len(suffix)]}{suffix}"
        return attrs.evolve(self, worker=worker, ledger=attrs.evolve(self.ledger, target=target, node=node))

    @property
    def has_file(self) -> bool:
        return self.file is not None

    def summary(self) -> list[str]:
        """Lines that tell an operator what is in force; no secrets."""
        server, ledger = self.server, self.ledger
        if server.auto_approve_devices:
            registration = "open: Hello may create new users"
        else:
            registration = "closed: users are created by commucat-cli register-user"
        if server.join_by_handle:
            registration += f"; Hello may add devices, {server.max_auto_devices_per_user} per user"
        lines = {
            "configuration": str(self.file) if self.file else "no file, defaults",
            "listening on": str(server.bind),
            "domain": server.domain,
            "data directory": str(self.data_dir),
            "workers": str(server.workers),
            "store": "PostgreSQL" if self.storage.postgres_dsn else str(self.storage.path),
            "shared between processes": "through Redis" if self.storage.redis_url else "nothing",
            "ledger": f"file {ledger.target}" if ledger.mode.value == "file" else ledger.mode.value,
            "certificate": str(server.tls_cert) if server.tls_cert else "in the data directory",
            "server key": "from crypto.federation_seed"
            if self.crypto.federation_seed
            else "in the data directory",
            "secrets at rest": "encrypted" if self.security.secret_key else "not encrypted",
            "registration": registration,
            "pairing": "claimed devices wait for approval" if self.pairing.require_approval else "on",
            "clear frames": self.transport.clear_frames.value,
            "open rooms": "yes" if self.channels.open_join else "no",
            "other servers": self._federation_summary(),
        }
        return [one_line(f"{name}: {value}") for name, value in lines.items()]

    def _federation_summary(self) -> str:
        if not self.federation.enabled:
            return "none, federation.enabled is false"
        named = [peer.domain for peer in self.federation.peers.peers]
        return f"{', '.join(named) or 'none'} by the configuration; commucat-cli peers list shows all"


def load_config(
    *,
    config_path: Path | None,
    data_dir: Path | None,
    bind: str | None,
    environ: Mapping[str, str],
    cwd: Path,
    workers: int | None = None,
) -> ServerConfig:
    """Read the configuration: flag over environment over ``.env`` over file over default.

    The file is ``config_path``, else ``COMMUCAT_CONFIG``, else ``commucat.toml`` in ``cwd`` if
    there is one. Relative paths count from ``cwd``, wherever they are written.

    Raises:
        FlagError: one of the flags is wrong.
        ConfigError: something else is; the text says where and what to do.
    """
    variables = read_variables(environ, cwd)
    file = _find_file(config_path, variables, cwd)
    settings = {} if file is None else settings_from_file(file)
    from_variables, warnings = settings_from_variables(variables)
    settings.update(from_variables)
    warnings += _apply_rust_log(settings, variables)
    if bind is not None:
        settings["server.bind"] = Given(value=bind, origin="--bind")
    if workers is not None:
        settings["server.workers"] = Given(value=workers, origin="--workers")

    converter = make_converter()
    directory = _find_data_dir(data_dir, variables, cwd, converter)
    # A target is of use to mode "file" only, but one that is there harms no other.
    defaults: dict[str, object] = {
        "storage.path": directory / _DATABASE,
        "ledger.target": directory / _LEDGER,
        "uploads.dir": directory / _UPLOADS,
        "attachments.dir": directory / _ATTACHMENTS,
    }
    if file is None:
        defaults["server.auto_approve_devices"] = True
    built = {
        name.replace(".", "_"): _section(name, kind, settings, defaults, cwd, converter)
        for name, kind in SECTIONS.items()
    }
    if file is None and "server.auto_approve_devices" not in settings:
        warnings.append(
            "auto_approve_devices is on because there is no configuration file: "
            "everybody who can reach the server can create a user"
        )
    limit = settings.get("limits.max_database_bytes")
    if limit is not None and built["storage"].postgres_dsn is None:
        raise ConfigError(
            f"{limit.origin}: is for PostgreSQL, and storage.postgres_dsn is not set; "
            "the embedded store watches the free space of its disk by itself"
        )
    own = built["server"].domain.lower()
    if any(peer.domain == own for peer in built["federation"].peers.peers):
        raise ConfigError(
            f"{settings['federation.peers'].origin}: names {own}, this server's own domain; remove it"
        )
    warnings += _clear_frames_warning(built["transport"].clear_frames, built["limits"].max_frame)
    attributes = {name.replace(".", "_"): section for name, section in built.items()}
    return ServerConfig(data_dir=directory, file=file, warnings=tuple(map(one_line, warnings)), **attributes)


def _clear_frames_warning(mode: sections.ClearFrames, max_frame: int) -> list[str]:
    whose = {
        sections.ClearFrames.AUTO: "clients named CommuCat-CLI that do not announce delivery-ack",
        sections.ClearFrames.ALWAYS: "all clients that do not announce delivery-ack",
    }.get(mode)
    if whose is None:
        return []
    line = (
        f"transport.clear_frames is {mode.value}: sessions of {whose} are protected by TLS alone after the "
        "handshake, not by Noise"
    )
    if max_frame > sections.CLEAR_MAX_FRAME:
        line += (
            f"; with limits.max_frame above {sections.CLEAR_MAX_FRAME} they can be written messages that are "
            "too long for them, behind which the others wait"
        )
    return [line]


def _find_file(flag: Path | None, variables: Mapping[str, Given], cwd: Path) -> Path | None:
    if flag is not None:
        return cwd / flag
    given = variables.get("COMMUCAT_CONFIG")
    if given is not None:
        if not given.value:
            raise ConfigError(f"{given.origin}: is empty; name a file or unset it")
        return cwd / str(given.value)
    # A dangling link is an intention to have a file: reading it will say what is wrong.
    return cwd / _FILE if os.path.lexists(cwd / _FILE) else None


def _find_data_dir(
    flag: Path | None, variables: Mapping[str, Given], cwd: Path, converter: cattrs.Converter
) -> Path:
    given = variables.get("COMMUCAT_DATA_DIR")
    if flag is not None:
        given = Given(value=str(flag), origin="--data-dir")
    if given is None:
        return cwd / _DATA_DIR
    try:
        return cwd / converter.structure(given.value, Path)
    except InvalidValueError as exc:
        raise _wrong(given.origin, exc) from exc


def _apply_rust_log(settings: dict[str, Given], variables: Mapping[str, Given]) -> list[str]:
    given = variables.get("RUST_LOG")
    if given is None or "COMMUCAT_LOG" in variables:
        return []
    # Other programs share the variable: what is no level ("hyper=warn") is theirs.
    for part in str(given.value).split(","):
        level = level_of(part)
        if level is not None:
            settings["logging.level"] = Given(value=level.value, origin=given.origin)
            return []
    return [f"{given.origin} holds no level name and has no effect; set COMMUCAT_LOG instead"]


def _section(
    section: str,
    kind: type,
    settings: Mapping[str, Given],
    defaults: Mapping[str, object],
    cwd: Path,
    converter: cattrs.Converter,
) -> Any:
    values: dict[str, object] = {}
    for field in attrs.fields(kind):
        key = f"{section}.{field.name}"
        given = settings.get(key)
        if given is not None:
            values[field.name] = _value(given, field.type, cwd, converter)
        elif key in defaults:
            values[field.name] = defaults[key]
    try:
        return kind(**values)
    except InvalidValueError as exc:
        key = f"{section}.{exc.key}"
        # A default can only be wrong together with something that was given: name the key then.
        origin = settings[key].origin if key in settings else key
        raise _wrong(origin, exc) from exc


def _value(given: Given, kind: Any, cwd: Path, converter: cattrs.Converter) -> object:
    try:
        value: object = converter.structure(given.value, kind)
    except InvalidValueError as exc:
        raise _wrong(given.origin, exc) from exc
    return cwd / value if isinstance(value, Path) else value


def _wrong(origin: str, exc: InvalidValueError) -> ConfigError:
    kind = FlagError if origin.startswith("--") else ConfigError
    return kind(f"{origin}: {exc}")
