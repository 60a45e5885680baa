"""The Noise static keys of the server, kept in the store."""

from typing import Final, Protocol

import attrs
import structlog

from commucat_crypto import StaticKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision.errors import ProvisionError
from commucat_server.security.secret_box import SecretBox, SecretBoxError
from commucat_storage.errors import AlreadyExistsError
from commucat_storage.records import Secret

NOISE_SECRET: Final = "noise-static"  # noqa: S105  # the name of the row
_KEY_LEN: Final = 32
_ROTATES_AFTER: Final = 168 * 3600
# Clients keep the server's key from their login on and have no way to learn another, so a key
# that expires locks all of them out. There is no rotation yet; until then keys live long.
_LIFETIME: Final = 10 * 365 * 86_400

_log = structlog.get_logger("commucat.provision")


class SecretStore(Protocol):
    """The part of the store that keys need; every ``commucat_storage.Storage`` is one."""

    async def insert_secret(self, secret: Secret) -> None: ...

    async def active_secrets(self, name: str, now: int) -> tuple[Secret, ...]: ...

    async def latest_secret_version(self, name: str) -> int: ...


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
    """The active keys, newest first; at least one. Made (or taken from the configuration) on first use.

    Raises:
        ProvisionError: a stored key is damaged, or encrypted with another key than the configured one.
        StorageError: the store failed.
    """
    box = SecretBox(config.security.secret_key)
    rows = await storage.active_secrets(NOISE_SECRET, now)
    if not rows:
        await _insert_first(storage, config, box, now)
        rows = await storage.active_secrets(NOISE_SECRET, now)
    if not rows:
        raise ProvisionError(
            "the store lists no Noise key right after one was stored; check the system clock"
        )
    versions = tuple(_opened(row, box) for row in rows)
    configured = config.crypto.noise_public
    if configured is not None and configured not in {version.keys.public for version in versions}:
        _log.warning("crypto.noise_private has no effect: the store already has a Noise key")
    if box.has_key and any(not box.is_sealed(row) for row in rows):
        _log.warning("a Noise key is stored unencrypted: it is older than security.secret_key")
    return versions


async def _insert_first(storage: SecretStore, config: ServerConfig, box: SecretBox, now: int) -> None:
    pair = config.crypto.noise_keys or StaticKeyPair.generate()
    version = await storage.latest_secret_version(NOISE_SECRET) + 1
    sealed = box.seal(NOISE_SECRET, version, pair.private)
    try:
        await storage.insert_secret(
            Secret(
                name=NOISE_SECRET,
                version=version,
                secret=sealed.secret,
                public=pair.public,
                metadata=sealed.metadata,
                created_at=now,
                valid_after=now,
                rotates_at=now + _ROTATES_AFTER,
                expires_at=now + _LIFETIME,
            )
        )
    except AlreadyExistsError:
        # Another process was faster; its key is as good.
        return


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
