"""Storing the server's secrets under another key, or without one."""

from typing import Final

from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.noise_keys import NOISE_SECRET
from commucat_server.provision.operator_records import operator_record
from commucat_server.security.secret_box import SecretBox, SecretBoxError
from commucat_storage import Resealed, Secret, Storage

SEALED_SECRETS: Final = frozenset({NOISE_SECRET})
"""Names of secrets that are encrypted at rest. Others are hashes, which open nothing."""


async def rekey_secrets(storage: Storage, before: bytes | None, after: bytes | None, now: int) -> int:
    """Decrypt with the key ``before`` and encrypt with ``after``, all versions in one transaction.

    None stands for no key. Rows that are not encrypted yet are read, too. How many rows were stored anew.

    Raises:
        ProvisionError: a row cannot be decrypted; nothing is changed.
        StorageError: the store failed, or somebody has changed a secret meanwhile.
    """
    old, new = SecretBox(before), SecretBox(after)
    changes: list[Resealed] = []
    for row in await storage.secret_versions():
        if row.name not in SEALED_SECRETS:
            continue
        try:
            secret = old.open(row)
        except SecretBoxError as exc:
            raise ProvisionError(str(exc)) from exc
        sealed = new.seal(row.name, row.version, secret)
        changes.append(
            Resealed(
                name=row.name,
                version=row.version,
                before=row.secret,
                secret=sealed.secret,
                metadata=sealed.metadata,
            )
        )
    if changes:
        metadata = {
            "scope": "secret",
            "event": "rekey",
            "versions": len(changes),
            "encrypted": new.has_key,
            "by": "operator",
        }
        await storage.reseal_secrets(changes, operator_record("secrets:rekey", metadata, now))
    return len(changes)


def is_encrypted(row: Secret) -> bool:
    """Whether a row is encrypted; one with unreadable metadata is not."""
    try:
        return SecretBox(None).is_sealed(row)
    except SecretBoxError:
        return False
