"""The server's Ed25519 identity: it signs device certificates, so it must survive everything."""

import re
import secrets
from pathlib import Path
from typing import Final

from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.files import make_private_dir, read_small, write_whole

_SEED_LEN: Final = 32
_LIMIT: Final = 8192
_HEX: Final = re.compile(rb"([0-9a-fA-F]{2}){32,}")


def seed_path(data_dir: Path) -> Path:
    return data_dir / "keys" / "federation.seed"


def read_federation_keys(config: ServerConfig) -> DeviceKeyPair:
    """The server's identity as it stands, beside a running server too: takes no lock, writes nothing.

    Raises:
        ProvisionError: there is none yet, or it cannot be read.
    """
    keys = _existing(config)
    if keys is None:
        path = seed_path(config.data_dir)
        raise ProvisionError(f"{path}: does not exist; start the server once, or set crypto.federation_seed")
    return keys


def ensure_federation_keys(config: ServerConfig) -> DeviceKeyPair:
    """The server's identity; made on first use. The caller holds the lock of the data directory.

    Raises:
        ProvisionError: the file is damaged, or cannot be read or written.
    """
    keys = _existing(config)
    if keys is not None:
        return keys
    path = seed_path(config.data_dir)
    make_private_dir(path.parent)
    seed = secrets.token_bytes(_SEED_LEN)
    write_whole(path, seed.hex().encode() + b"\n")
    return DeviceKeyPair.from_seed(seed)


def _existing(config: ServerConfig) -> DeviceKeyPair | None:
    if config.crypto.federation_seed is not None:
        return DeviceKeyPair.from_seed(config.crypto.federation_seed)
    path = seed_path(config.data_dir)
    content = read_small(path, limit=_LIMIT)
    if content is None:
        return None
    text = content.strip()
    if not _HEX.fullmatch(text):
        # Never replaced by a fresh one: every certificate of every device would become worthless.
        raise ProvisionError(
            f"{path}: damaged, not {2 * _SEED_LEN} or more hexadecimal digits; restore it from a backup"
        )
    return DeviceKeyPair.from_seed(bytes.fromhex(text.decode("ascii")))
