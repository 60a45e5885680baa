"""Administrative tokens that are kept in the store: who has one may see metrics and statistics.

A token is 64 random hexadecimal digits. The store has ``BLAKE3(salt | token)`` and the salt of 16 bytes; the
token itself is printed once, by the command that makes it, and is nowhere else. There may be several good
ones at a time, so that a new one can be brought to where the old one is used. Nothing of them needs to be
encrypted at rest: who has the hash of 256 random bits has nothing.
"""

import hmac
import secrets
from typing import Final, Protocol

import attrs
from blake3 import blake3

from commucat_server.config.rotation_section import RotationSection
from commucat_server.provision.operator_records import operator_record
from commucat_storage.operating import SecretRotation
from commucat_storage.records import Secret

ADMIN_SECRET: Final = "admin-token"  # noqa: S105  # the name of the rows
SALT_LEN: Final = 16
TOKEN_LEN: Final = 64
MAX_PRESENTED: Final = 512
"""Characters of an Authorization header that are looked at."""
_HASH_LEN: Final = 32
_FOREVER: Final = 100 * 365 * 86_400
"""For tokens that do not end by themselves; the same number that other servers of the protocol use."""
_MOST_AT_ONCE: Final = 64


class TokenStore(Protocol):
    """The part of the store that tokens need; every ``commucat_storage.Storage`` is one."""

    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]: ...

    async def rotate_secret(self, rotation: SecretRotation) -> None: ...


@attrs.frozen(kw_only=True)
class _Version:
    version: int
    salt: bytes
    digest: bytes = attrs.field(repr=False)
    valid_after: int
    rotates_at: int
    expires_at: int


class AdminTokens:
    """The tokens as this process last read them. :meth:`check` waits for nothing."""

    def __init__(self) -> None:
        self._versions: tuple[_Version, ...] = ()
        self._warned: set[int] = set()

    @property
    def configured(self) -> bool:
        """Whether there is, or was lately, a token at all. Then there is no access without one."""
        return bool(self._versions)

    def check(self, header: str | None, now: float) -> bool:
        """Whether ``header``, the value of ``Authorization``, holds a token that is good now.

        ``Bearer TOKEN`` or the bare token. Takes the same time for every token that is not good.
        """
        if header is None or len(header) > MAX_PRESENTED:
            return False
        scheme, _, rest = header.partition(" ")
        token = (rest if scheme.lower() == "bearer" else header).strip().encode("utf-8", "surrogatepass")
        good = False
        for version in self._versions:
            same = hmac.compare_digest(blake3(version.salt + token).digest(), version.digest)
            good |= same and version.valid_after <= now < version.expires_at
        return good

    async def refresh(self, storage: TokenStore) -> None:
        """Read the tokens anew. Raises :class:`StorageError`; then those that were read before count."""
        rows = await storage.secret_versions(ADMIN_SECRET)
        self._versions = tuple(
            _Version(
                version=row.version,
                salt=row.public,
                digest=row.secret,
                valid_after=row.valid_after,
                rotates_at=row.rotates_at,
                expires_at=row.expires_at,
            )
            for row in rows[:_MOST_AT_ONCE]
            # A row of another form opens nothing.
            if row.public is not None and len(row.public) == SALT_LEN and len(row.secret) == _HASH_LEN
        )

    def warnings(self, now: int) -> list[str]:
        """Once for each: that the newest token should be replaced, because it ends soon."""
        newest = self._versions[0] if self._versions else None
        if newest is None or newest.version in self._warned:
            return []
        if not newest.rotates_at <= now < newest.expires_at:
            return []
        self._warned.add(newest.version)
        return [f"administrative token {newest.version} ends soon; run: commucat-cli admin-token new"]


@attrs.frozen(kw_only=True)
class NewToken:
    """A token that was just made. Print it, and forget it."""

    token: str = attrs.field(repr=False)
    version: int
    valid_after: int
    expires_at: int | None
    """None: it does not end by itself."""
    previous_until: dict[int, int]
    """When the older ones end, by version."""


async def make_admin_token(
    storage: TokenStore, rotation: RotationSection, now: int, *, lifetime: int | None = None
) -> NewToken:
    """Store a new token, valid at once; older ones end after the grace time, and the oldest of too many now.

    ``lifetime`` in seconds; by default that of the configuration.

    Raises:
        AlreadyExistsError: somebody else made one at the same moment; try again.
        StorageError: the store failed.
    """
    rows = await storage.secret_versions(ADMIN_SECRET)
    good = [row for row in rows if row.expires_at > now]
    kept, ended = good[: rotation.admin_max_versions - 1], good[rotation.admin_max_versions - 1 :]
    until = {row.version: min(row.expires_at, now + rotation.admin_grace) for row in kept}
    until |= {row.version: now for row in ended}
    token, salt = secrets.token_hex(TOKEN_LEN // 2), secrets.token_bytes(SALT_LEN)
    version = max((row.version for row in rows), default=0) + 1
    rotates_at, expires_at = _times(rotation, now, lifetime)
    row = Secret(
        name=ADMIN_SECRET,
        version=version,
        secret=blake3(salt + token.encode()).digest(),
        public=salt,
        created_at=now,
        valid_after=now,
        rotates_at=rotates_at,
        expires_at=expires_at,
    )
    record = operator_record(
        f"{ADMIN_SECRET}:{version}",
        {
            "scope": "secret",
            "event": "rotate",
            "name": ADMIN_SECRET,
            "version": version,
            "by": "operator",
            "previous_expires_at": {str(earlier): end for earlier, end in until.items()},
        },
        now,
    )
    await storage.rotate_secret(SecretRotation(secret=row, until=until, record=record))
    return NewToken(
        token=token,
        version=version,
        valid_after=now,
        expires_at=None if is_endless(row) else expires_at,
        previous_until=until,
    )


def is_endless(row: Secret) -> bool:
    """Whether a token does not end by itself."""
    return row.expires_at - row.valid_after >= _FOREVER


def _times(rotation: RotationSection, now: int, lifetime: int | None) -> tuple[int, int]:
    if lifetime is not None:
        return now + lifetime * 3 // 4, now + lifetime
    if rotation.admin_enabled:
        return now + rotation.admin_interval, now + rotation.admin_interval + rotation.admin_grace
    return now + _FOREVER, now + _FOREVER
