"""Which Noise keys a profile takes for those of its server.

The first login keeps one key and the server's certificate authority. The server makes new keys in time; of
those a profile believes what that authority has signed, and never an older version than the one it has.
"""

from collections.abc import Iterator
from datetime import datetime

import attrs

from commucat_cli.profile import Account
from commucat_crypto import CryptoError, NoiseKeyStatement

_MOST_ENTRIES = 256
"""A server lists a handful; a hostile one would have us check signatures without end."""
_SIGNATURE_LEN = 64


@attrs.frozen
class ServerKey:
    """A Noise key of the server, and its place among those."""

    version: int
    public: bytes


def newest_believed(entries: object, account: Account, now: float) -> ServerKey | None:
    """The newest of the listed keys that the pinned authority has signed and that has not expired."""
    believed = list(_believed(entries, account, now))
    return max(believed, key=lambda key: key.version, default=None)


def follow(entries: object, account: Account, now: float) -> Account | None:
    """The account with the newest key, if that is another or the version was not known; else None."""
    newest = newest_believed(entries, account, now)
    if newest is None or newest.version < account.server_key_version:
        return None
    if (newest.public, newest.version) == (account.server_static, account.server_key_version):
        return None
    return attrs.evolve(account, server_static=newest.public, server_key_version=newest.version)


def _believed(entries: object, account: Account, now: float) -> Iterator[ServerKey]:
    if not isinstance(entries, list):
        return
    for entry in entries[:_MOST_ENTRIES]:
        statement = _read(entry, account.domain)
        if statement is None or statement[0].expires_at <= now:
            continue
        try:
            statement[0].verify(account.device_ca, statement[1])
        except CryptoError:
            continue
        yield ServerKey(statement[0].version, statement[0].public)


def _read(entry: object, domain: str) -> tuple[NoiseKeyStatement, bytes] | None:
    """What an entry says and the signature under it; None for anything that is not of this form."""
    if not isinstance(entry, dict):
        return None
    texts = [entry.get(name) for name in ("public", "signature", "valid_after", "rotates_at", "expires_at")]
    told = [text for text in texts if isinstance(text, str) and len(text) <= 2 * _SIGNATURE_LEN]
    version = entry.get("version")
    if type(version) is not int or len(told) != len(texts):
        return None
    try:
        public, signature = map(bytes.fromhex, told[:2])
        valid_after, rotates_at, expires_at = (
            int(datetime.fromisoformat(text).timestamp()) for text in told[2:]
        )
        statement = NoiseKeyStatement(
            domain=domain,
            version=version,
            public=public,
            valid_after=valid_after,
            rotates_at=rotates_at,
            expires_at=expires_at,
        )
    except (ValueError, OverflowError, CryptoError):
        return None
    return (statement, signature) if len(signature) == _SIGNATURE_LEN else None
