"""The Noise static keys of the server, kept in the store in versions.

A version is *accepted* from the moment a process has read it, and *shown* to clients from ``valid_after``
on, which is later: a client that was told of a key on one node finds it on every other. The newest version
never expires, whatever its row says; an older one does when the newer has been shown for the grace time.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import attrs
import structlog

from commucat_crypto import StaticKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision.errors import ProvisionError, TooManyKeysError
from commucat_server.provision.operator_records import operator_record
from commucat_server.security.secret_box import SecretBox, SecretBoxError
from commucat_storage.errors import AlreadyExistsError
from commucat_storage.operating import SecretRotation
from commucat_storage.records import Secret

NOISE_SECRET: Final = "noise-static"  # noqa: S105  # the name of the row
REFRESH_INTERVAL: Final = 60.0
"""Every process reads the store anew at least so often."""
ACTIVATION: Final = 90
"""Seconds from the making of a version to the moment when clients are told of it: longer than
:data:`REFRESH_INTERVAL`, so that every process accepts it by then."""
_KEY_LEN: Final = 32
_NEVER: Final = 10 * 365 * 86_400
"""For rows whose time is not limited."""

_log = structlog.get_logger("commucat.provision")


class SecretStore(Protocol):
    """The part of the store that keys need; every ``commucat_storage.Storage`` is one."""

    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]: ...

    async def rotate_secret(self, rotation: SecretRotation) -> None: ...


@attrs.frozen(kw_only=True)
class NoiseKeyVersion:
    """One version of the server's Noise static key. Times are Unix seconds."""

    version: int
    keys: StaticKeyPair
    valid_after: int
    rotates_at: int
    expires_at: int


async def load_noise_keys(
    storage: SecretStore, config: ServerConfig, now: int
) -> tuple[NoiseKeyVersion, ...]:
    """The accepted keys, newest first; at least one. Made (or taken from the configuration) on first use.

    Raises:
        ProvisionError: a stored key is damaged, or encrypted with another key than the configured one.
        StorageError: the store failed.
    """
    box = SecretBox(config.security.secret_key)
    rows = await storage.secret_versions(NOISE_SECRET)
    if not rows:
        await _insert_first(storage, config, box, now)
        rows = await storage.secret_versions(NOISE_SECRET)
    if not rows:
        raise ProvisionError("the store lists no Noise key right after one was stored")
    versions = _accepted(rows, box, now)
    configured = config.crypto.noise_public
    if configured is not None and configured not in {version.keys.public for version in versions}:
        _log.warning("crypto.noise_private has no effect: the store already has a Noise key")
    if box.has_key and any(not box.is_sealed(row) for row in rows):
        _log.warning("a Noise key is stored unencrypted; run: commucat-cli secrets rekey")
    return versions


async def read_noise_keys(
    storage: SecretStore, config: ServerConfig, now: int
) -> tuple[NoiseKeyVersion, ...]:
    """The accepted keys, newest first, as they are stored.

    Raises:
        ProvisionError: as :func:`load_noise_keys`; or there is none.
        StorageError: the store failed.
    """
    return _accepted(await _stored(storage), SecretBox(config.security.secret_key), now)


async def _stored(storage: SecretStore) -> tuple[Secret, ...]:
    rows = await storage.secret_versions(NOISE_SECRET)
    if not rows:
        raise ProvisionError("the store has no Noise key yet; start the server once")
    return rows


async def rotate_noise_keys(
    storage: SecretStore,
    config: ServerConfig,
    now: int,
    *,
    by: str,
    beyond_limit: bool = False,
    after: int | None = None,
) -> NoiseKeyVersion:
    """Store a new version, and let the one before it live on for the grace time at least.

    ``by`` says in the ledger who wanted it. ``beyond_limit``: even if there are more versions than
    ``noise_max_versions`` then. ``after``: only if this is the newest version still.

    Raises:
        AlreadyExistsError: another process was faster; its version is as good.
        TooManyKeysError: as many versions are accepted as may be; none is cut off.
        ProvisionError, StorageError: as :func:`read_noise_keys`.
    """
    rotation = config.security_rotation
    box = SecretBox(config.security.secret_key)
    stored = await _stored(storage)
    versions = _accepted(stored, box, now)
    if after is not None and versions[0].version != after:
        raise AlreadyExistsError(f"version {versions[0].version} of the Noise key is there already")
    if len(versions) >= rotation.noise_max_versions and not beyond_limit:
        first = min(version.expires_at for version in versions[1:]) if len(versions) > 1 else 0
        raise TooManyKeysError(len(versions), first)
    newest = versions[0]
    pair = StaticKeyPair.generate()
    valid_after = now + ACTIVATION
    fresh = NoiseKeyVersion(
        version=newest.version + 1,
        keys=pair,
        valid_after=valid_after,
        rotates_at=valid_after + (rotation.noise_interval or _NEVER),
        expires_at=valid_after + (rotation.noise_interval or _NEVER) + rotation.noise_grace,
    )
    until = max(newest.expires_at, valid_after + rotation.noise_grace)
    record = operator_record(
        f"{NOISE_SECRET}:{fresh.version}",
        {
            "scope": "secret",
            "event": "rotate",
            "name": NOISE_SECRET,
            "version": fresh.version,
            "public": pair.public.hex(),
            "by": by,
            "previous": newest.version,
            "previous_expires_at": until,
        },
        now,
    )
    await storage.rotate_secret(
        SecretRotation(
            secret=_row_of(fresh, box, now),
            until={newest.version: until},
            record=record,
            # Stored in another form meanwhile, under another key, it is not the same any more.
            newest=stored[0],
        )
    )
    return fresh


async def _insert_first(storage: SecretStore, config: ServerConfig, box: SecretBox, now: int) -> None:
    rotation = config.security_rotation
    rotates_at = now + (rotation.noise_interval or _NEVER)
    first = NoiseKeyVersion(
        version=1,
        keys=config.crypto.noise_keys or StaticKeyPair.generate(),
        valid_after=now,
        rotates_at=rotates_at,
        expires_at=rotates_at + rotation.noise_grace,
    )
    try:
        await storage.rotate_secret(SecretRotation(secret=_row_of(first, box, now)))
    except AlreadyExistsError:
        # Another process was faster; its key is as good.
        return


def _row_of(version: NoiseKeyVersion, box: SecretBox, now: int) -> Secret:
    sealed = box.seal(NOISE_SECRET, version.version, version.keys.private)
    return Secret(
        name=NOISE_SECRET,
        version=version.version,
        secret=sealed.secret,
        public=version.keys.public,
        metadata=sealed.metadata,
        created_at=now,
        valid_after=version.valid_after,
        rotates_at=version.rotates_at,
        expires_at=version.expires_at,
    )


def _accepted(rows: Sequence[Secret], box: SecretBox, now: int) -> tuple[NoiseKeyVersion, ...]:
    newest = max(row.version for row in rows)
    return tuple(_opened(row, box) for row in rows if row.expires_at > now or row.version == newest)


def _opened(row: Secret, box: SecretBox) -> NoiseKeyVersion:
    try:
        private = box.open(row)
    except SecretBoxError as exc:
        raise ProvisionError(str(exc)) from exc
    if len(private) != _KEY_LEN:
        raise ProvisionError(_damaged(row, f"{len(private)} bytes instead of {_KEY_LEN}"))
    keys = StaticKeyPair.from_private(private)
    if row.public is not None and row.public != keys.public:
        raise ProvisionError(_damaged(row, "its public half does not belong to it"))
    return NoiseKeyVersion(
        version=row.version,
        keys=keys,
        valid_after=row.valid_after,
        rotates_at=row.rotates_at,
        expires_at=row.expires_at,
    )


def _damaged(row: Secret, reason: str) -> str:
    return (
        f"{row.name} version {row.version} in the store is damaged ({reason}); restore a backup of the store"
    )
