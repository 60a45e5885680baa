"""What an operator is told when PostgreSQL cannot be used. docs/operations.md lists all of it."""

import socket
import ssl
from typing import ClassVar

import asyncpg

from commucat_storage.errors import SchemaError
from commucat_storage.problems import Problem, SchemaProblems

OLDEST_VERSION = 130_000
"""As ``server_version_num`` has it: the schema uses what came with PostgreSQL 13."""


class Problems(SchemaProblems):
    """Each is one row of the table there."""

    ADDRESS: ClassVar = Problem(
        "the address cannot be used ({detail})",
        "it looks like postgresql://user:password@host:5432/database, with %40 for an @ in the password",
    )
    HOST: ClassVar = Problem(
        "cannot be reached: nobody knows that host ({detail})",
        "correct the host in storage.postgres_dsn, or the name service of this machine",
    )
    REFUSED: ClassVar = Problem(
        "cannot be reached: nothing listens there ({detail})",
        "start PostgreSQL, or correct host and port; listen_addresses says where it listens",
    )
    AWAY: ClassVar = Problem(
        "cannot be reached ({detail})", "see whether PostgreSQL runs, and what lies between"
    )
    SLOW: ClassVar = Problem(
        "did not answer in time ({detail})", "see what it is busy with, or what lies between"
    )
    PASSWORD: ClassVar = Problem(
        "refuses the user or its password ({detail})",
        "correct them in storage.postgres_dsn, or set the password with ALTER ROLE",
    )
    ADMITTANCE: ClassVar = Problem(
        "does not let this user in ({detail})",
        "create the role, or let it in from this machine with a line in pg_hba.conf",
    )
    NO_DATABASE: ClassVar = Problem(
        "there is no such database", "make it with: createdb --encoding UTF8 --owner ROLE NAME"
    )
    NO_TLS: ClassVar = Problem(
        "offers no TLS, and the address demands it",
        "set ssl = on in postgresql.conf, or sslmode=disable if nobody can listen on the way",
    )
    CERTIFICATE: ClassVar = Problem(
        "its certificate is not trusted ({detail})",
        "name the authority's file with sslrootcert=, and the host as the certificate names it",
    )
    RIGHTS: ClassVar = Problem(
        "the role lacks rights ({detail})",
        "make it the owner of the database: ALTER DATABASE NAME OWNER TO ROLE",
    )
    READ_ONLY: ClassVar = Problem(
        "takes no writes ({detail})",
        "name the primary server: several hosts and target_session_attrs=read-write find it",
    )
    CONNECTIONS: ClassVar = Problem(
        "has no connection left ({detail})",
        "raise max_connections or the limit of the role; a server process takes at most 10",
    )
    OLD: ClassVar = Problem("is PostgreSQL {detail}", "version 13 or newer is needed", SchemaError)
    ENCODING: ClassVar = Problem(
        "has the encoding {detail}", "make a database with: createdb --encoding UTF8", SchemaError
    )
    FOREIGN: ClassVar = Problem(
        "belongs to the server of the domain {detail}", "give each server its own database", SchemaError
    )
    IDENTITY: ClassVar = Problem(
        "is used by a server with another key, on the host {detail}",
        "give all nodes one identity: the same keys/federation.seed, or crypto.federation_seed",
    )
    MIGRATING: ClassVar = Problem("another process is migrating it", "wait until it is done, and start again")
    MIGRATION: ClassVar = Problem(
        "migration {detail}",
        "nothing of it was applied: take away what is in its way, and start again",
        SchemaError,
    )
    DAMAGED: ClassVar = Problem(
        "a part of the schema is missing ({detail})", "go back to a copy of the database", SchemaError
    )
    FULL: ClassVar = Problem("its disk is full ({detail})", "make room there")


_LIBRARY_SAYS_NO_TLS = "rejected SSL upgrade"


def problem_of(error: BaseException) -> Problem | None:
    """Which of them ``error`` is, of those that the database or the system reports; None for others."""
    match error:
        case asyncpg.InvalidPasswordError():
            return Problems.PASSWORD
        case asyncpg.InvalidAuthorizationSpecificationError():
            return Problems.ADMITTANCE
        case asyncpg.InvalidCatalogNameError():
            return Problems.NO_DATABASE
        case asyncpg.InsufficientPrivilegeError():
            return Problems.RIGHTS
        case asyncpg.ReadOnlySQLTransactionError():
            return Problems.READ_ONLY
        case asyncpg.TooManyConnectionsError():
            return Problems.CONNECTIONS
        case asyncpg.DiskFullError():
            return Problems.FULL
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return Problems.DAMAGED
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() | TimeoutError():
            return Problems.SLOW
        case ssl.SSLCertVerificationError():
            return Problems.CERTIFICATE
        case socket.gaierror():
            return Problems.HOST
        case ConnectionError() if _LIBRARY_SAYS_NO_TLS in str(error):
            return Problems.NO_TLS
        case ConnectionRefusedError() | FileNotFoundError():
            return Problems.REFUSED
        case _:
            return None


def all_problems() -> dict[str, Problem]:
    """Every one by name."""
    names = [name for kind in (SchemaProblems, Problems) for name in vars(kind)]
    found = {name: getattr(Problems, name) for name in names}
    return {name: each for name, each in found.items() if isinstance(each, Problem)}
