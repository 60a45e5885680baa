"""Limits and tuning of the PostgreSQL store."""

import attrs

from commucat_storage.limits import StoreLimits

_positive = attrs.validators.gt(0)
_seconds = attrs.validators.gt(0.0)


@attrs.frozen(kw_only=True)
class PostgresSettings(StoreLimits):
    """All limits of the PostgreSQL store; the defaults suit a database in the same network."""

    domain: str | None = None
    """The server's domain. The first one claims the database; a server of another domain is refused. Users
    of the domain ``local``, as other servers made them, become users of this one. None asks nothing."""
    connections: int = attrs.field(default=8, validator=_positive)
    """Connections for everything but the journal, which holds one more."""
    max_database_bytes: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )
    """Size of the database above which every message is refused and ``check`` fails, as on a full disk:
    how much room the server's disk has left cannot be seen from here."""
    connect_timeout: float = attrs.field(default=5.0, validator=_seconds)
    """Seconds one attempt to connect may take."""
    reconnect_timeout: float = attrs.field(default=5.0, validator=_seconds)
    """Seconds for which a unit of work that lost its connection is tried again before it fails."""
    statement_timeout: float = attrs.field(default=20.0, validator=_seconds)
    """Seconds one statement may take, waiting for locks included; the server ends it then."""
    unit_timeout: float = attrs.field(default=30.0, validator=_seconds)
    """Seconds a whole unit of work may take. Its connection is given up then: the server hangs."""
    migrate_timeout: float = attrs.field(default=600.0, validator=_seconds)
    """Seconds to wait for another process that migrates the same database."""
    close_timeout: float = attrs.field(default=35.0, validator=_seconds)
    """As for every store; a commit that is being repeated may take that long."""
