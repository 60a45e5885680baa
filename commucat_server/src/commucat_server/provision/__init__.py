"""What a server needs before it can start, made on first use: the data directory and its lock, the
server's Ed25519 identity, a TLS certificate, the Noise keys. Needs nothing configured.
"""

from commucat_server.provision.certificate import self_signed
from commucat_server.provision.data_dir import DataDir, prepare_data_dir
from commucat_server.provision.device_key import certificate_for_key, give_device_key
from commucat_server.provision.errors import DataDirBusyError, ProvisionError, TooManyKeysError
from commucat_server.provision.federation_seed import read_federation_keys
from commucat_server.provision.moving import (
    Moved,
    restore_backup,
    transfer_store,
    unmark_store,
    write_backup,
)
from commucat_server.provision.noise_keys import (
    NOISE_SECRET,
    NoiseKeyVersion,
    load_noise_keys,
    read_noise_keys,
    rotate_noise_keys,
)
from commucat_server.provision.operator_records import operator_record
from commucat_server.provision.rekey import is_encrypted, rekey_secrets
from commucat_server.provision.shared import Shared, open_shared
from commucat_server.provision.store import (
    StoreStatus,
    migrate_store,
    open_store,
    place_of_store,
    store_status,
)

__all__ = [
    "NOISE_SECRET",
    "DataDir",
    "DataDirBusyError",
    "Moved",
    "NoiseKeyVersion",
    "ProvisionError",
    "Shared",
    "StoreStatus",
    "TooManyKeysError",
    "certificate_for_key",
    "give_device_key",
    "is_encrypted",
    "load_noise_keys",
    "migrate_store",
    "open_shared",
    "open_store",
    "operator_record",
    "place_of_store",
    "prepare_data_dir",
    "read_federation_keys",
    "read_noise_keys",
    "rekey_secrets",
    "restore_backup",
    "rotate_noise_keys",
    "self_signed",
    "store_status",
    "transfer_store",
    "unmark_store",
    "write_backup",
]
