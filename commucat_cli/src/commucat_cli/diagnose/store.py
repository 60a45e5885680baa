"""The database and the Noise keys in it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import trio

from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_server.config import ServerConfig
from commucat_server.identity.admin_tokens import ADMIN_SECRET
from commucat_server.provision import (
    ProvisionError,
    StoreStatus,
    open_store,
    place_of_store,
    read_noise_keys,
    store_status,
)
from commucat_storage import Storage, StorageError

CHECKED_BYTES = 64 * 2**20
"""Databases up to this size are read as a whole, which takes well below a second."""
_MIB = 2**20
_LATE = 3600
"""Seconds after which a rotation that is due is overdue: a server looks every minute."""


def check_store(config: ServerConfig, *, full: bool) -> Iterator[Finding]:
    """Schema, damage, writing, Noise keys."""
    embedded = config.storage.postgres_dsn is None
    if embedded and not config.storage.path.exists():
        yield failure(
            "database",
            f"{config.storage.path}: does not exist; start the server once, or run: commucat-cli migrate",
        )
        return
    try:
        place = place_of_store(config)
        status = store_status(config)
    except StorageError as exc:
        yield failure("database", str(exc))
        return
    if status.pending:
        # Opening it would apply them, and that is for the operator to decide.
        yield failure(
            "database", f"{place}: migrations pending: {', '.join(status.pending)}; run: commucat-cli migrate"
        )
        return
    found = f"{place}: schema version {status.schema_version}, {status.size_bytes // _MIB} MiB"
    yield ok("database", found if status.server is None else f"{found}, {status.server}")
    yield from trio.run(_open_and_check, config, status, full)


async def _open_and_check(config: ServerConfig, status: StoreStatus, full: bool) -> list[Finding]:
    checked = full or status.size_bytes <= CHECKED_BYTES
    findings: list[Finding] = []
    try:
        # Opening reads the pages of an embedded store for damage, and fails with what it found.
        async with open_store(config, quick_check_bytes=2**62 if checked else 0) as storage:
            if config.storage.postgres_dsn is None:
                text = (
                    "no damage found"
                    if checked
                    else "not checked for damage because of its size; --full does"
                )
                findings.append(ok("database-integrity", text))
            findings.append(await _check_writing(storage))
            findings.append(await _check_noise_keys(storage, config))
            findings += await _check_admin_tokens(storage)
    except StorageError as exc:
        findings.append(
            failure("database-integrity" if config.storage.postgres_dsn is None else "database", str(exc))
        )
    return findings


async def _check_writing(storage: Storage) -> Finding:
    started = trio.current_time()
    try:
        await storage.check()
    except StorageError as exc:
        return failure("database-writable", str(exc))
    return ok("database-writable", f"a commit took {(trio.current_time() - started) * 1000:.1f} ms")


async def _check_noise_keys(storage: Storage, config: ServerConfig) -> Finding:
    now = int(time.time())
    try:
        keys = await read_noise_keys(storage, config, now)
    except ProvisionError as exc:
        return failure("noise-keys", str(exc))
    newest = keys[0]
    text = f"{len(keys)} accepted, version {newest.version} is {newest.keys.public.hex()}"
    if config.security_rotation.noise_interval and newest.rotates_at + _LATE < now:
        when = datetime.fromtimestamp(newest.rotates_at, UTC)
        return warning(
            "noise-keys",
            f"{text}; the next one is due since {when:%Y-%m-%d %H:%M} UTC: no server runs, or there are as "
            "many as security.rotation.noise_max_versions allows; see commucat-cli secrets list",
        )
    return ok("noise-keys", text)


async def _check_admin_tokens(storage: Storage) -> list[Finding]:
    """Nothing is said where there are none."""
    now = int(time.time())
    rows = await storage.secret_versions(ADMIN_SECRET)
    if not rows:
        return []
    good = [row for row in rows if row.valid_after <= now < row.expires_at]
    if not good:
        text = "all have expired: nobody sees metrics; run: commucat-cli admin-token new"
        return [warning("admin-tokens", text)]
    if all(row.rotates_at <= now for row in good):
        ends = datetime.fromtimestamp(max(row.expires_at for row in good), UTC)
        return [
            warning(
                "admin-tokens",
                f"the last good one ends {ends:%Y-%m-%d %H:%M} UTC; run: commucat-cli admin-token new",
            )
        ]
    return [ok("admin-tokens", f"{len(good)} good")]
