"""The sections of the configuration: every setting, its default, its range and its variable.

A field's metadata name the environment variable that overrides it. Durations are in
seconds, sizes in bytes unless a field says otherwise.
"""

import enum
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from commucat_crypto import NoisePattern, StaticKeyPair
from commucat_server.config.address import BindAddress, check_domain
from commucat_server.config.errors import InvalidValueError, described

HEX_KEY_LEN: Final = 32
MIN_SEED_LEN: Final = 32
MAX_NODE_LEN: Final = 64
MAX_FRAME_CEILING: Final = 16 * 1024 * 1024
"""No configuration may allow longer frames (docs/protocol.md)."""
_DAY: Final = 86_400
_YEAR: Final = 365 * _DAY

Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _postgres_address(_section: Any, _attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and not value.startswith(("postgresql://", "postgres://")):
        raise InvalidValueError(
            "must look like postgresql://user:password@host:5432/database", key="postgres_dsn"
        )


def _redis_address(_section: Any, _attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidValueError("must look like redis://user:password@host:6379/0", key="redis_url")


def env(variable: str) -> dict[str, str]:
    """Metadata of a setting that ``variable`` overrides."""
    return {"env": variable}


def _between(low: float, high: float) -> Validator:
    def check(_section: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
        if not low <= value <= high:
            raise InvalidValueError(
                f"must be from {low} to {high}, not {described(value)}", key=attribute.name
            )

    return check


between = _between
"""For the sections of other modules: a validator of numbers in a range, ends included."""


def _seconds(_section: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    # Zero would mean "give up at once" to some readers and "never" to others.
    if not (math.isfinite(value) and 0 < value <= 3600):
        raise InvalidValueError(
            f"must be more than 0 and at most 3600 seconds, not {described(value)}", key=attribute.name
        )


def _key_bytes(_section: Any, attribute: "attrs.Attribute[Any]", value: bytes | None) -> None:
    if value is not None and len(value) != HEX_KEY_LEN:
        raise InvalidValueError(
            f"must be {2 * HEX_KEY_LEN} hexadecimal digits ({HEX_KEY_LEN} bytes), not {2 * len(value)}",
            key=attribute.name,
        )


def _node(_section: Any, _attribute: "attrs.Attribute[Any]", value: str) -> None:
    if not 0 < len(value) <= MAX_NODE_LEN or not value.isprintable():
        raise InvalidValueError(f"must be 1 to {MAX_NODE_LEN} printable characters", key="node")


class LedgerMode(enum.Enum):
    """Where audit records go."""

    NULL = "null"
    """Nowhere."""
    DEBUG = "debug"
    """One log line each."""
    FILE = "file"
    """A hash-chained file."""


class LogLevel(enum.Enum):
    """The least severe log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@attrs.frozen(kw_only=True)
class ServerSection:
    """Section ``[server]``: the address, the name and who may register."""

    bind: BindAddress = attrs.field(
        default=BindAddress(host="127.0.0.1", port=8443), metadata=env("COMMUCAT_BIND")
    )
    domain: str = attrs.field(default="localhost", metadata=env("COMMUCAT_DOMAIN"))
    """The public domain; handshake proofs and certificates are bound to it."""
    tls_cert: Path | None = attrs.field(default=None, metadata=env("COMMUCAT_TLS_CERT"))
    """PEM chain. Without it the data directory holds a certificate that the server made."""
    tls_key: Path | None = attrs.field(default=None, metadata=env("COMMUCAT_TLS_KEY"))
    keepalive: int = attrs.field(
        default=3600, validator=_between(1, _YEAR), metadata=env("COMMUCAT_KEEPALIVE")
    )
    """Lifetime of a session."""
    auto_approve_devices: bool = attrs.field(default=False, metadata=env("COMMUCAT_AUTO_APPROVE_DEVICES"))
    """Whether Hello may create new users; true where there is no configuration file."""
    max_auto_devices_per_user: int = attrs.field(
        default=1, validator=_between(0, 1_000_000), metadata=env("COMMUCAT_MAX_AUTO_DEVICES")
    )
    """Devices that ``join_by_handle`` lets a user have; 0 means none."""
    join_by_handle: bool = attrs.field(default=False, metadata=env("COMMUCAT_JOIN_BY_HANDLE"))
    """Whether Hello may add a device to a user that exists. Anybody who knows the handle can."""
    max_connections: int = attrs.field(
        default=10_000, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_MAX_CONNECTIONS")
    )
    """Open TCP connections, all clients together; with several workers, of each of them."""
    workers: int = attrs.field(default=1, validator=_between(1, 256), metadata=env("COMMUCAT_WORKERS"))
    """Processes that share the address, the data directory and a PostgreSQL database."""
    keep_awake: bool = attrs.field(default=True, metadata=env("COMMUCAT_KEEP_AWAKE"))
    """Whether the machine's processors may be kept from sleeping while the server has much to do."""

    @domain.validator
    def _check_domain(self, _attribute: object, value: str) -> None:
        try:
            check_domain(value)
        except InvalidValueError as exc:
            raise InvalidValueError(str(exc), key="domain") from exc

    def __attrs_post_init__(self) -> None:
        _both_or_neither(self, "tls_cert", "tls_key")


@attrs.frozen(kw_only=True)
class CryptoSection:
    """Section ``[crypto]``: keys given from outside, and what handshakes accept."""

    noise_private: bytes | None = attrs.field(
        default=None, repr=False, validator=_key_bytes, metadata=env("COMMUCAT_NOISE_PRIVATE")
    )
    """X25519 private key. Seeds the stored key once; later changes have no effect."""
    noise_public: bytes | None = attrs.field(
        default=None, validator=_key_bytes, metadata=env("COMMUCAT_NOISE_PUBLIC")
    )
    federation_seed: bytes | None = attrs.field(
        default=None, repr=False, metadata=env("COMMUCAT_FEDERATION_SEED")
    )
    """At least 32 bytes from which the server's Ed25519 key is derived. Without it, a generated one."""
    prologue: str = attrs.field(default="commucat", metadata=env("COMMUCAT_NOISE_PROLOGUE"))
    """Noise prologue (UTF-8); clients must use the same."""
    supported_patterns: tuple[NoisePattern, ...] = attrs.field(
        default=(NoisePattern.XK, NoisePattern.IK), metadata=env("COMMUCAT_SUPPORTED_PATTERNS")
    )

    @federation_seed.validator
    def _check_seed(self, _attribute: object, value: bytes | None) -> None:
        if value is not None and len(value) < MIN_SEED_LEN:
            raise InvalidValueError(
                f"must be at least {2 * MIN_SEED_LEN} hexadecimal digits ({MIN_SEED_LEN} bytes), "
                f"not {2 * len(value)}",
                key="federation_seed",
            )

    @supported_patterns.validator
    def _check_patterns(self, _attribute: object, value: tuple[NoisePattern, ...]) -> None:
        # X is one-way: a server that answers cannot speak it.
        usable = value and NoisePattern.X not in value and len(set(value)) == len(value)
        if not usable:
            raise InvalidValueError('must list "XK", "IK" or both, each once', key="supported_patterns")

    def __attrs_post_init__(self) -> None:
        _both_or_neither(self, "noise_private", "noise_public")
        pair = self.noise_keys
        if pair is not None and pair.public != self.noise_public:
            raise InvalidValueError(
                "does not belong to noise_private; remove both to let the server make a pair",
                key="noise_public",
            )

    @property
    def noise_keys(self) -> StaticKeyPair | None:
        """The configured Noise pair, None when the server shall make its own."""
        return None if self.noise_private is None else StaticKeyPair.from_private(self.noise_private)


@attrs.frozen(kw_only=True)
class StorageSection:
    """Section ``[storage]``: the embedded store, or a PostgreSQL database; Redis beside it."""

    path: Path = attrs.field(metadata=env("COMMUCAT_STORAGE_PATH"))
    """The SQLite file; ``commucat.db`` in the data directory unless set."""
    postgres_dsn: str | None = attrs.field(
        default=None, repr=False, validator=_postgres_address, metadata=env("COMMUCAT_PG_DSN")
    )
    """``postgresql://user:password@host:port/database?sslmode=verify-full``: used instead of the file.
    May hold a password, so no message shows it."""
    redis_url: str | None = attrs.field(
        default=None, repr=False, validator=_redis_address, metadata=env("COMMUCAT_REDIS_URL")
    )
    """``redis://user:password@host:port/database``, ``rediss://`` with TLS, or ``unix:///path?db=0``: what
    several processes share beside the database. May hold a password, so no message shows it."""


@attrs.frozen(kw_only=True)
class LedgerSection:
    """Section ``[ledger]``: the audit records."""

    mode: LedgerMode = attrs.field(default=LedgerMode.FILE, metadata=env("COMMUCAT_LEDGER"))
    target: Path | None = attrs.field(default=None, metadata=env("COMMUCAT_LEDGER_TARGET"))
    """The file of mode ``file``; ``ledger.jsonl`` in the data directory unless set."""
    rotate_bytes: int = attrs.field(
        default=64 * 1024**2, validator=_between(0, 1024**4), metadata=env("COMMUCAT_LEDGER_ROTATE_BYTES")
    )
    """Size at which the file is put away and the next one begun; 0 means never."""
    rotate_age: int = attrs.field(
        default=0, validator=_between(0, 10 * _YEAR), metadata=env("COMMUCAT_LEDGER_ROTATE_AGE")
    )
    """Age at which the same happens, in seconds since its first record; 0 means never."""
    heads: Path | None = attrs.field(default=None, metadata=env("COMMUCAT_LEDGER_HEADS"))
    """A second place, better on another disk, for what the server signs about the ledger."""
    heads_interval: int = attrs.field(
        default=60, validator=_between(1, _DAY), metadata=env("COMMUCAT_LEDGER_HEADS_INTERVAL")
    )
    """Seconds between two signed heads there while the ledger grows."""
    node: str = attrs.field(default="main", validator=_node, metadata=env("COMMUCAT_LEDGER_NODE"))
    """What the ledger of this process is called where there are several."""
    deliveries: bool = attrs.field(default=False, metadata=env("COMMUCAT_LEDGER_DELIVERIES"))
    """Whether single deliveries are recorded: who wrote to whom, when, and BLAKE3 of what."""
    key_event_retention: int = attrs.field(
        default=0, validator=_between(0, 100 * _YEAR), metadata=env("COMMUCAT_LEDGER_KEY_EVENT_RETENTION")
    )
    """Seconds after which key events move from the store to an archive file; 0 means never."""

    def __attrs_post_init__(self) -> None:
        if self.mode is LedgerMode.FILE and self.target is None:
            raise InvalidValueError('is needed with mode = "file"', key="target")


@attrs.frozen(kw_only=True)
class LimitsSection:
    """Section ``[limits]``: lifetimes and the bounds of what one device may use."""

    presence_ttl: int = attrs.field(
        default=30, validator=_between(1, _DAY), metadata=env("COMMUCAT_PRESENCE_TTL")
    )
    relay_ttl: int = attrs.field(
        default=30 * _DAY, validator=_between(1, 10 * _YEAR), metadata=env("COMMUCAT_RELAY_TTL")
    )
    """How long an undelivered message is kept."""
    ring_timeout: int = attrs.field(
        default=60, validator=_between(1, 3600), metadata=env("COMMUCAT_RING_TIMEOUT")
    )
    """How long a call rings, and how long frames of a call wait for a device that is away."""
    pairing_ttl: int = attrs.field(
        default=300, validator=_between(1, 3600), metadata=env("COMMUCAT_PAIRING_TTL")
    )
    """How long a pairing code is good for at most; less than 60 counts as 60."""
    devices_per_user: int = attrs.field(
        default=100, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_DEVICES_PER_USER")
    )
    """Active devices, and those that wait for approval, up to which a user can pair further ones."""
    inbox_rows: int = attrs.field(
        default=1_000_000, validator=_between(1, 100_000_000), metadata=env("COMMUCAT_INBOX_ROWS")
    )
    """Messages that may wait for one device."""
    inbox_bytes: int = attrs.field(
        default=1024**3, validator=_between(1, 1024**4), metadata=env("COMMUCAT_INBOX_BYTES")
    )
    """Bytes that may wait for one device."""
    stranger_rows: int = attrs.field(
        default=1000, validator=_between(1, 100_000_000), metadata=env("COMMUCAT_STRANGER_ROWS")
    )
    """Messages of senders without a relation to the device, of those that may wait for it."""
    stranger_bytes: int = attrs.field(
        default=16 * 1024**2, validator=_between(1, 1024**4), metadata=env("COMMUCAT_STRANGER_BYTES")
    )
    max_database_bytes: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(_between(1024**2, 1024**5)),
        metadata=env("COMMUCAT_MAX_DATABASE_BYTES"),
    )
    """Size of the PostgreSQL database above which messages are refused; no limit unless set. The embedded
    store watches the free space of its disk instead."""
    routes_per_device: int = attrs.field(
        default=1000, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_ROUTES_PER_DEVICE")
    )
    max_frame: int = attrs.field(
        default=1024 * 1024,
        validator=_between(4096, MAX_FRAME_CEILING),
        metadata=env("COMMUCAT_MAX_FRAME"),
    )
    """Longest frame that is accepted."""
    channel_members: int = attrs.field(
        default=512, validator=_between(1, 5000), metadata=env("COMMUCAT_CHANNEL_MEMBERS")
    )
    """Devices that one route may name."""
    connects_per_second: int = attrs.field(
        default=200, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_CONNECTS_PER_SECOND")
    )
    """Handshakes from one address (IPv6: one /64); those that succeed do not count."""
    new_devices_per_hour: int = attrs.field(
        default=100, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_NEW_DEVICES_PER_HOUR")
    )
    """Devices never seen before that one address may bring."""
    handshakes: int = attrs.field(
        default=1000, validator=_between(1, 1_000_000), metadata=env("COMMUCAT_HANDSHAKES")
    )
    """Unfinished handshakes at once, all addresses together."""

    def __attrs_post_init__(self) -> None:
        if self.inbox_bytes < self.max_frame:
            raise InvalidValueError(
                f"must be at least limits.max_frame ({self.max_frame}), or a frame that is accepted could "
                "never be stored",
                key="inbox_bytes",
            )


@attrs.frozen(kw_only=True)
class DeliverySection:
    """Section ``[delivery]``."""

    status: bool = attrs.field(default=True, metadata=env("COMMUCAT_DELIVERY_STATUS"))
    """Whether senders that ask are told when their messages were confirmed, or deleted without."""


@attrs.frozen(kw_only=True)
class ChannelsSection:
    """Section ``[channels]``."""

    open_join: bool = attrs.field(default=False, metadata=env("COMMUCAT_OPEN_JOIN"))
    """Whether a Join leads into a room that everybody who joins the number belongs to. Anybody with a device
    can then join any conversation's number; without it a route concerns its own device only."""


CLEAR_MAX_FRAME: Final = 40 * 1024
"""The longest frame that a client of a clear session can be sent for certain, as its sender made it."""


class ClearFrames(enum.Enum):
    """Which sessions go on without Noise encryption after the handshake, inside TLS only."""

    NEVER = "never"
    AUTO = "auto"
    """Those whose request looks like the terminal client of 2025."""
    ALWAYS = "always"
    """All that do not announce the capability ``delivery-ack``."""


@attrs.frozen(kw_only=True)
class TransportSection:
    """Section ``[transport]``."""

    clear_frames: ClearFrames = attrs.field(default=ClearFrames.NEVER, metadata=env("COMMUCAT_CLEAR_FRAMES"))


@attrs.frozen(kw_only=True)
class TimeoutsSection:
    """Section ``[timeouts]``: how long the server waits for a peer (fractions allowed)."""

    tls_handshake: float = attrs.field(
        default=10.0, validator=_seconds, metadata=env("COMMUCAT_TIMEOUT_TLS_HANDSHAKE")
    )
    handshake: float = attrs.field(
        default=10.0, validator=_seconds, metadata=env("COMMUCAT_TIMEOUT_HANDSHAKE")
    )
    """From the start of ``/connect`` to a proved device."""
    idle: float = attrs.field(default=60.0, validator=_seconds, metadata=env("COMMUCAT_TIMEOUT_IDLE"))
    """A connection without streams."""
    write_stall: float = attrs.field(
        default=30.0, validator=_seconds, metadata=env("COMMUCAT_TIMEOUT_WRITE_STALL")
    )
    """A peer that takes no byte of what waits for it."""
    drain: float = attrs.field(default=10.0, validator=_seconds, metadata=env("COMMUCAT_TIMEOUT_DRAIN"))
    """For everything that is left to do at shutdown."""


@attrs.frozen(kw_only=True)
class SecuritySection:
    """Section ``[security]``."""

    secret_key: bytes | None = attrs.field(
        default=None, repr=False, validator=_key_bytes, metadata=env("COMMUCAT_SECRET_KEY")
    )
    """Encrypts the server's secrets at rest."""


def _uploads_address(_section: Any, _attribute: "attrs.Attribute[Any]", value: str | None) -> None:
    if value is not None and (not value.startswith(("https://", "http://")) or not value.isprintable()):
        raise InvalidValueError("must look like https://chat.example.org/uploads", key="base_url")


@attrs.frozen(kw_only=True)
class UploadsSection:
    """Section ``[uploads]``: avatars, which everybody can see."""

    dir: Path = attrs.field(metadata=env("COMMUCAT_UPLOADS_DIR"))
    """Where they are; ``uploads`` in the data directory unless set."""
    enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_UPLOADS_ENABLED"))
    base_url: str | None = attrs.field(
        default=None, validator=_uploads_address, metadata=env("COMMUCAT_UPLOADS_BASE_URL")
    )
    """Where the world finds them; ``https://DOMAIN/uploads`` unless set."""


@attrs.frozen(kw_only=True)
class AttachmentsSection:
    """Section ``[attachments]``: files that clients encrypt and send to each other by their ids."""

    dir: Path = attrs.field(metadata=env("COMMUCAT_ATTACHMENTS_DIR"))
    """Where they are; ``attachments`` in the data directory unless set. All servers of a store share it."""
    enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_ATTACHMENTS_ENABLED"))
    max_bytes: int = attrs.field(
        default=100 * 1024**2, validator=_between(1, 1024**4), metadata=env("COMMUCAT_ATTACHMENT_BYTES")
    )
    """Size of one attachment."""
    user_bytes: int = attrs.field(
        default=1024**3, validator=_between(1, 1024**5), metadata=env("COMMUCAT_ATTACHMENT_USER_BYTES")
    )
    """Size of all attachments of a user that the server keeps."""
    ttl: int = attrs.field(
        default=30 * _DAY, validator=_between(1, 10 * _YEAR), metadata=env("COMMUCAT_ATTACHMENT_TTL")
    )
    """How long an attachment is kept."""
    upload_ttl: int = attrs.field(
        default=_DAY, validator=_between(1, 10 * _YEAR), metadata=env("COMMUCAT_ATTACHMENT_UPLOAD_TTL")
    )
    """How long an upload that makes no progress is kept."""

    def __attrs_post_init__(self) -> None:
        if self.user_bytes < self.max_bytes:
            raise InvalidValueError(
                f"must be at least attachments.max_bytes ({self.max_bytes}), or an attachment of that size "
                "could never be stored",
                key="user_bytes",
            )


@attrs.frozen(kw_only=True)
class PairingSection:
    """Section ``[pairing]``: further devices of a user."""

    require_approval: bool = attrs.field(default=False, metadata=env("COMMUCAT_PAIRING_REQUIRE_APPROVAL"))
    """Whether a device that claimed a code waits until another one of its user, or the operator, agrees."""
    failures_per_hour: int = attrs.field(
        default=1000, validator=_between(1, 1_000_000_000), metadata=env("COMMUCAT_PAIRING_FAILURES_PER_HOUR")
    )
    """Claims that fail, all addresses together: whoever has many addresses guesses no faster."""


@attrs.frozen(kw_only=True)
class DeviceRotationSection:
    """Section ``[rotation.device]``: how devices change their keys."""

    enabled: bool = attrs.field(default=True, metadata=env("COMMUCAT_ROTATION_DEVICE_ENABLED"))
    min_interval: int = attrs.field(
        default=_DAY, validator=_between(0, _YEAR), metadata=env("COMMUCAT_ROTATION_DEVICE_MIN_INTERVAL")
    )
    """Between two changes of a device's key, and after it was made; 0 for none."""
    proof_ttl: int = attrs.field(
        default=600, validator=_between(1, _DAY), metadata=env("COMMUCAT_ROTATION_DEVICE_PROOF_TTL")
    )
    """How far in the future a proof by the old key may expire."""
    notify_channel: int = attrs.field(
        default=0, validator=_between(0, 2**32 - 1), metadata=env("COMMUCAT_ROTATION_DEVICE_NOTIFY_CHANNEL")
    )
    """The channel number of the KeyUpdate that tells others."""


@attrs.frozen(kw_only=True)
class LoggingSection:
    """Section ``[logging]``. ``RUST_LOG`` counts where ``COMMUCAT_LOG`` is not set."""

    level: LogLevel = attrs.field(default=LogLevel.INFO, metadata=env("COMMUCAT_LOG"))


def _both_or_neither(section: object, first: str, second: str) -> None:
    given = [name for name in (first, second) if getattr(section, name) is not None]
    if len(given) == 1:
        [missing] = {first, second} - set(given)
        raise InvalidValueError(f"is set without {missing}; set both or neither", key=given[0])
