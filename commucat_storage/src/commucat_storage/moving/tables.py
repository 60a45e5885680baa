"""What a store consists of, said without SQL: the tables and columns that backups and transfers carry.

Times are whole Unix seconds where a record of the interface has them so, and microseconds in friend requests
and in the tables that only PostgreSQL has. The epoch of an inbox is not among the columns on purpose: whoever
fills a store makes new ones, so that no client takes numbers of the old store for numbers of the new one.
"""

import enum
from collections.abc import Sequence
from typing import Final

import attrs


class Kind(enum.Enum):
    """How a value looks in Python, and so in a row of a backup."""

    TEXT = enum.auto()
    """``str``, any characters."""
    INT = enum.auto()
    """``int`` of at most 64 bits, signed."""
    BOOL = enum.auto()
    BYTES = enum.auto()
    """``bytes``; base64 (RFC 4648, section 4) in a backup."""
    TEXTS = enum.auto()
    """``list[str]``."""
    DECIMAL = enum.auto()
    """``str`` of decimal digits: a number beyond 64 bits of a signed integer."""
    SECONDS = enum.auto()
    """``int``: Unix time."""
    EXPIRY = enum.auto()
    """``int``: Unix time; everything from :data:`LATEST` on means never and is written as that."""
    MICROSECONDS = enum.auto()
    """``int``: Unix time in microseconds."""
    JSON = enum.auto()
    """``str``: a JSON text of which each character counts."""
    JSON_VALUE = enum.auto()
    """``str``: a JSON text of which only the value counts."""


LATEST: Final = 2**42
"""Unix seconds beyond what PostgreSQL's timestamps are used for here."""


@attrs.frozen
class Column:
    """One value of a row; ``postgres`` is the column's name there, when it has another."""

    name: str
    kind: Kind
    optional: bool = False
    postgres: str | None = None

    @property
    def postgres_name(self) -> str:
        return self.postgres or self.name


@attrs.frozen(kw_only=True)
class Table:
    """A sequence of rows. ``order`` are the columns (of the database) that put them into one order."""

    name: str
    columns: tuple[Column, ...]
    order: str
    sqlite: bool = True
    """Whether the embedded store has it; PostgreSQL has all of them."""
    restored: bool = True
    """False: a transfer carries it, a restore of a backup does not."""
    postgres_order: str | None = None
    stored_in: str | None = None
    """The table of the database, when it has another name."""
    owner_columns: int = 0
    """Of a table of owners of inboxes: how many columns are the owner's. The others are those of
    ``inbox_offset``."""
    size_of_row: str | None = None
    """Bytes of a row as SQL, for tables whose rows can be too large to be read by the hundred."""

    @property
    def homeless(self) -> str:
        """What owners of inboxes are called where something is said of several."""
        return f"{self.name}es" if self.name.endswith("x") else f"{self.name}s"

    @property
    def database_name(self) -> str:
        """The table of the database; for owners of inboxes theirs."""
        return self.stored_in or self.name

    def of_columns(self, names: Sequence[str]) -> "Table | None":
        """The table as an older version wrote it, without the last columns, which may be absent; itself if
        the names are those of its columns; None for any other names."""
        kept, missing = self.columns[: len(names)], self.columns[len(names) :]
        if tuple(names) != tuple(each.name for each in kept) or not all(each.optional for each in missing):
            return None
        return attrs.evolve(self, columns=kept) if missing else self

    def index(self, column: str) -> int:
        """Where the column stands in a row."""
        return [each.name for each in self.columns].index(column)


def _text(*names: str, optional: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name, Kind.TEXT, optional) for name in names)


def _int(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, Kind.INT) for name in names)


def _moments(*names: str, optional: bool = False) -> tuple[Column, ...]:
    return tuple(Column(name, Kind.MICROSECONDS, optional) for name in names)


_INBOX: Final = (
    *_int("inbox", "next_number", "confirmed", "rows", "bytes", "shared", "earliest"),
    *_int("stranger_rows", "stranger_bytes", "reports"),
)

DEVICE: Final = Table(
    name="device",
    stored_in="user_device",
    columns=(
        Column("device_id", Kind.TEXT, postgres="opaque_id"),
        Column("user_id", Kind.TEXT),
        Column("public_key", Kind.BYTES, postgres="pubkey"),
        Column("status", Kind.TEXT),
        Column("created_at", Kind.SECONDS),
        *_INBOX,
    ),
    owner_columns=5,
    order="device_id",
    postgres_order="opaque_id",
)
"""A device and its inbox: two tables in both databases, tied in opposite directions."""
OUTBOX: Final = Table(
    name="outbox",
    columns=(Column("domain", Kind.TEXT), Column("open", Kind.BOOL), *_INBOX),
    owner_columns=2,
    order="domain",
)
"""The outbox of a domain and its inbox, likewise."""

TABLES: Final = (
    Table(
        name="app_user",
        columns=(
            *_text("user_id", "handle", "domain"),
            *_text("display_name", "avatar_url", optional=True),
            Column("created_at", Kind.SECONDS),
        ),
        order="user_id",
    ),
    DEVICE,
    OUTBOX,
    Table(
        name="chat_group",
        columns=(
            Column("group_id", Kind.TEXT),
            Column("relay", Kind.BOOL),
            Column("created_at", Kind.SECONDS),
            *_text("home", optional=True),
            *_int("revision"),
        ),
        order="group_id",
    ),
    Table(
        name="group_member",
        columns=(
            *_text("group_id", "device_id", "role"),
            Column("joined_at", Kind.SECONDS),
            Column("accepted", Kind.BOOL),
        ),
        order="group_id, device_id",
    ),
    Table(
        name="route",
        columns=(
            Column("device_id", Kind.TEXT),
            Column("channel", Kind.INT),
            Column("relay", Kind.BOOL),
            Column("members", Kind.TEXTS),
            Column("group_id", Kind.TEXT, optional=True),
        ),
        order="device_id, channel",
    ),
    Table(
        name="relay_payload",
        columns=(*_int("payload_id", "refs"), Column("payload", Kind.BYTES)),
        order="payload_id",
        size_of_row="length(payload)",
    ),
    Table(
        name="relay_queue",
        columns=(
            *_int("position", "frame_type", "channel"),
            Column("expires_at", Kind.EXPIRY),
            Column("size", Kind.INT),
            Column("payload", Kind.BYTES, optional=True),
            Column("payload_id", Kind.INT, optional=True),
            Column("stranger", Kind.BOOL),
            Column("reporter", Kind.TEXT, optional=True),
            Column("reference", Kind.BYTES, optional=True),
            *_text("sender", "target", "group_id", optional=True),
        ),
        order="position",
        size_of_row="size",
    ),
    Table(
        name="device_key_event",
        columns=(
            *_text("event_id", "device_id"),
            Column("public_key", Kind.BYTES),
            Column("recorded_at", Kind.SECONDS),
        ),
        order="event_id",
    ),
    Table(
        name="device_certificates",
        columns=(
            Column("serial", Kind.DECIMAL),
            *_text("user_id", "device_id"),
            Column("public_key", Kind.BYTES),
            Column("issuer", Kind.BYTES),
            Column("issued_at", Kind.SECONDS),
            Column("expires_at", Kind.SECONDS),
            Column("signature", Kind.BYTES),
            Column("source", Kind.TEXT),
            Column("revoked_at", Kind.SECONDS, optional=True),
        ),
        # The order in which they were issued, which decides among those of one second.
        order="rowid",
        postgres_order="position",
    ),
    Table(
        name="friend",
        columns=(
            *_text("user_id", "friend_id"),
            *_text("alias", optional=True),
            *_int("position"),
        ),
        order="user_id, friend_id",
    ),
    Table(
        name="friend_requests",
        columns=(
            *_text("id", "from_user_id", "to_user_id", "status"),
            *_text("message", optional=True),
            *_moments("created_at", "updated_at"),
        ),
        order="id",
    ),
    Table(
        name="attachment",
        columns=(
            *_text("id_hash", "user_id"),
            *_int("size", "received"),
            Column("created_at", Kind.SECONDS),
            Column("expires_at", Kind.SECONDS),
        ),
        order="id_hash",
    ),
    Table(
        name="enrolment_code",
        columns=(
            Column("code_hash", Kind.BYTES),
            Column("user_id", Kind.TEXT),
            Column("created_at", Kind.SECONDS),
            Column("expires_at", Kind.SECONDS),
            Column("used_at", Kind.SECONDS, optional=True),
            Column("used_by", Kind.TEXT, optional=True),
        ),
        order="code_hash",
        # One that was used after the backup would open the door a second time.
        restored=False,
    ),
    Table(
        name="server_secret",
        columns=(
            Column("name", Kind.TEXT),
            Column("version", Kind.INT),
            Column("secret", Kind.BYTES),
            Column("public", Kind.BYTES, optional=True),
            Column("metadata", Kind.JSON),
            *(Column(name, Kind.SECONDS) for name in ("created_at", "valid_after", "rotates_at")),
            Column("expires_at", Kind.SECONDS),
        ),
        order="name, version",
    ),
    Table(
        name="operator_record",
        columns=(
            Column("record_id", Kind.TEXT),
            Column("digest", Kind.BYTES),
            Column("metadata", Kind.JSON),
            Column("recorded_at", Kind.SECONDS),
            Column("taken_at", Kind.SECONDS, optional=True),
        ),
        order="record_id",
    ),
    Table(
        name="device_pairing",
        columns=(
            *_text("pair_code", "user_id", "issuer_device_id"),
            *_moments("issued_at", "expires_at"),
            *_moments("redeemed_at", optional=True),
            *_text("redeemed_device_id", optional=True),
            Column("public_key", Kind.BYTES, optional=True),
            *_int("attempts"),
        ),
        order="pair_code",
        restored=False,
    ),
    Table(
        name="device_rotation_audit",
        columns=(
            *_text("rotation_id", "device_id"),
            *(Column(name, Kind.BYTES) for name in ("old_public_key", "new_public_key", "signature")),
            Column("nonce", Kind.BYTES, optional=True),
            *_moments("proof_expires_at", "applied_at"),
        ),
        order="rotation_id",
    ),
    Table(
        name="pending_device",
        columns=(
            *_text("device_id", "user_id"),
            Column("public_key", Kind.BYTES),
            *_text("name", optional=True),
            *_text("issuer_device_id"),
            *(Column(name, Kind.SECONDS) for name in ("requested_at", "expires_at")),
        ),
        order="device_id",
        # One that was rejected after the backup would ask again.
        restored=False,
    ),
    Table(name="device_name", columns=_text("device_id", "name"), order="device_id"),
    Table(
        name="federation_peer",
        columns=(
            *_text("domain", "endpoint"),
            Column("public_key", Kind.BYTES),
            *_text("status"),
            Column("next_key", Kind.BYTES, optional=True),
            *(Column(name, Kind.SECONDS) for name in ("created_at", "updated_at")),
        ),
        order="domain",
    ),
    Table(
        name="federation_peer_status",
        columns=(
            *_text("domain", "status"),
            *_int("error_count"),
            Column("last_seen_at", Kind.SECONDS, optional=True),
            *_text("last_error", optional=True),
            Column("updated_at", Kind.SECONDS),
        ),
        order="domain",
    ),
    Table(
        name="federation_dead_letter",
        columns=(
            *_text("letter_id", "domain"),
            *_int("number"),
            *_text("sender", "target"),
            *_int("channel", "frame_type"),
            Column("payload", Kind.BYTES),
            *_text("reason"),
            Column("report", Kind.BOOL),
            Column("reference", Kind.BYTES),
            Column("expires_at", Kind.EXPIRY),
            Column("failed_at", Kind.SECONDS),
            *_text("group_id", optional=True),
        ),
        order="letter_id",
        size_of_row="length(payload)",
    ),
    Table(
        name="idempotency",
        columns=(*_text("key", "scope"), Column("expires_at", Kind.EXPIRY)),
        order="key, scope",
    ),
    Table(
        name="federated_friend_requests",
        columns=(
            *_text("request_id", "user_id"),
            Column("incoming", Kind.BOOL),
            *_text("from_address", "to_address", "status"),
            *_text("message", optional=True),
            *_moments("created_at", "updated_at"),
        ),
        order="request_id",
    ),
    # From here on: what databases of other servers of the protocol bring along.
    Table(
        name="device_pq_keys",
        columns=(
            Column("device_id", Kind.TEXT),
            Column("kem_public", Kind.BYTES),
            Column("signature_public", Kind.BYTES),
            *_moments("updated_at"),
        ),
        order="device_id",
        sqlite=False,
    ),
    Table(
        name="user_blob",
        columns=(*_text("user_id", "key", "payload"), *_moments("updated_at")),
        order="user_id, key",
        sqlite=False,
    ),
    Table(
        name="federation_outbox",
        columns=(
            *_text("outbox_id", "destination_domain", "endpoint"),
            Column("payload", Kind.JSON_VALUE),
            Column("public_key", Kind.BYTES),
            *_int("attempts"),
            *_moments("next_attempt_at"),
            *_text("last_error", optional=True),
            *_moments("created_at"),
        ),
        order="outbox_id",
        sqlite=False,
        size_of_row="length(payload::text)",
    ),
    Table(
        name="remote_user_cache",
        columns=(
            *_text("user_id", "domain", "handle"),
            *_text("display_name", "avatar_url", optional=True),
            Column("profile_data", Kind.JSON_VALUE),
            *_moments("cached_at", "expires_at", "last_fetched_at"),
        ),
        order="user_id",
        sqlite=False,
    ),
)
"""In an order in which each row's references exist already."""

NOT_MOVED: Final = {
    "session": "every device makes a new session, with a new token, when it connects",
    "call_sessions": "kept for a short time, for the server that holds the calls",
    "call_media_tracks": "of those calls",
    "readiness": "proves that the disk takes writes; says nothing",
    "schema_migration": "each database has its own migrations",
    "cluster": "the domain and the id of the cluster travel beside the tables",
    "cluster_node": "nodes that run; none does",
    "cluster_lease": "jobs of nodes that run",
    "store_move": "what is being moved here, or has been moved away",
    "store_move_table": "how far it is",
}
"""Tables that stay behind, and why."""

NOT_MOVED_COLUMNS: Final = {
    "inbox_offset.epoch": "a moved inbox has a new one",
    "inbox_offset.entity_id": "the device, or the domain, which is in the same row of a backup",
    "inbox_offset.owner_node": "sessions end, and begin anew in the other store",
    "inbox_offset.owner_session": "as above",
    "inbox_offset.owner_claim": "counts sessions that have ended",
    "inbox_offset.updated_at": "nothing reads it",
    "inbox_offset.relations": "counts changes for processes that run; none does",
    "user_device.inbox": "in the row of the inbox",
    "outbox.inbox": "in the row of the inbox",
    "app_user.updated_at": "nothing reads it",
    "chat_group.owner_device": "the member whose role is owner",
    "chat_group.version": "counts changes for processes that run; none does",
    "device_certificates.position": "the order of the rows",
}
"""Columns that stay behind, and why."""
