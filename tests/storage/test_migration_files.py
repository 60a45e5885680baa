"""No migration is edited once a database may have had it: a server refuses such a database."""

import pytest

from commucat_storage.migrations import Migration
from commucat_storage.postgres import migrate as postgres
from commucat_storage.sqlite import migrate as sqlite

# SHA-256 of each file, as stored in schema_migration. A new migration is added at the end; no line changes.
SQLITE = """
0001_initial fbfa8cfb3e479a76411dce17c8aaadacc448606153c148bca25ca96d3d93e217
0002_groups 78ebe22465483f152922047393d115d68ab30dec9a872b2133eb490e5ef061ae
0003_reports 817f25b6cef656130669ff0f00c5da76c8c69122b86c1fc12a44e6b4bc76c5a2
0004_devices f66fbaaef6d42c4c7f0419c3bb9c1740da59b8310fcb282ed5f35a1c3f262840
0005_friends 528ef436677e1b689be1e98cf14807f25bb1893500717be0c1c47869c42c381d
0006_operating 77ed8259d1a8afc7fcc571650423dacba1092ff565ff4ed52dc2ee94ee02df83
0007_federation c399ead121401d88ef9c7014d3a72b41ee023a18ca6cd1ca101c4e3c33662e85
"""
POSTGRES = """
0001_initial e318ac414f8f4537f9f888def6998005329c848e82c1ae1f8dbf6bb8250c712e
0002_pairing ffc25c55d60980edaf15cda159e2836bc3f48bdbe64ff56ab9f6751430aa97d5
0003_user_blob fe12ecc17310815de47cb0295a0b9166781c2b5f82b209386f9ba995544cb4ff
0004_server_secret 879e3438a471a6dcaa2d1d4f24278bf7bf642cf2363ba20f69d2a6f041e68f5d
0005_rotation_audit a9872bc33422b9fb8627dc82e1622b2208643bdea9a1958d110e71e39b014492
0006_federation_outbox 83f041c1f0b41111e6bab49ca8bd2b7b6b72a3709e23a2ff619ba8069d00eaaa
0007_friend_requests 014d0b413293df0e9b0ebc38039900e854107eaad792ab556da9ef22d5e2465b
0008_federated_users c0229e6141820ff2914362001cc537f74abfd5c621c44a28fa306c5b88be17a2
0009_device_pq_keys 375d275e27ff1cb8da0364f9ab62abcedb9c0f7d9734e380f205afa01637281a
0010_certificates_and_views 806e4ff38e78d722c9a0afad4cae27341eaebef8d4551d844ca18f0d147d4167
0011_identity 37705c51db4da08b2d5b07334fadf36739d64fba6ffcf64a204ccc66d6651fae
0012_inboxes c63318ab11b6f971affef9dfc5db2e564c5c94cda4b3cceb332fa30b038423c4
0013_groups 997b2270bc1c2ec13c47cd1721d9b0c9394a49a5d9f0d81513932def6607f9e9
0014_reports_and_rooms 298b12c9a7bbaad6a5f9c1b66ff6f1c91ebd7f9dcf699262670169c7a7a3e122
0015_nodes 1af16b590bd6e709e000a2caf2be92a68c8ed01354fd795ccee2758462c7eb06
0016_devices 6d391e23111c78c063d6dc6163e248537dd4af37e3b4dd8ca05c58dd18d665f8
0017_friends dcfe72104b21be5c74c277b0b59dd7b26466a2f43a8cae2cdda7bc54a9c1c799
0018_operating 0cb44f87858ffc9223c1616f5cf2586cfd50d540aa1e01ed85fd078f4129b66e
0019_federation fa5b35e12d02b59f56f605a5855523a755ab4a34c371e784d01c7d78e670f542
"""


@pytest.mark.parametrize(
    ("bundled", "known"),
    [
        pytest.param(sqlite.bundled_migrations(), SQLITE, id="sqlite"),
        pytest.param(postgres.bundled_migrations(), POSTGRES, id="postgres"),
    ],
)
def test_migrations_are_what_they_were(bundled: tuple[Migration, ...], known: str) -> None:
    found = [f"{each.version:04}_{each.name} {each.checksum.hex()}" for each in bundled]
    assert found == known.strip().splitlines()
