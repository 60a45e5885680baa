"""The Noise keys: made once, kept in the store, encrypted there when a key is configured."""

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from commucat_crypto import StaticKeyPair
from commucat_server.provision import NOISE_SECRET, ProvisionError, load_noise_keys
from commucat_server.security.secret_box import SecretBox, SecretBoxError
from commucat_storage import open_sqlite
from commucat_storage.records import Secret
from server.config_builders import hex_key, load_text, noise_variables
from server.provision_builders import SecretTable

NOW = 1_800_000_000
HOUR = 3600


def stored(version: int, **changes: object) -> Secret:
    pair = StaticKeyPair.generate()
    row = Secret(
        name=NOISE_SECRET,
        version=version,
        secret=pair.private,
        public=pair.public,
        created_at=NOW,
        valid_after=NOW,
        rotates_at=NOW + HOUR,
        expires_at=NOW + 2 * HOUR,
    )
    return attrs.evolve(row, **changes)  # type: ignore[arg-type]  # names are checked at run time


async def test_the_first_start_makes_a_key_and_later_ones_find_it(tmp_path: Path) -> None:
    config, store = load_text(tmp_path), SecretTable()

    [first] = await load_noise_keys(store, config, NOW)
    [again] = await load_noise_keys(store, config, NOW + 9 * 365 * 24 * HOUR)

    assert first == again
    assert first.version == 1
    assert first.keys.private == again.keys.private
    assert first.valid_after == NOW
    assert first.rotates_at == NOW + 168 * HOUR
    assert first.expires_at == NOW + 10 * 365 * 24 * HOUR
    [row] = store.rows
    assert (row.name, row.secret, row.public) == ("noise-static", first.keys.private, first.keys.public)


async def test_a_configured_pair_seeds_an_empty_store_once(tmp_path: Path) -> None:
    store, environ = SecretTable(), noise_variables()
    [key] = await load_noise_keys(store, load_text(tmp_path, environ=environ), NOW)
    assert key.keys.private.hex() == environ["COMMUCAT_NOISE_PRIVATE"]

    with capture_logs() as logs:
        [later] = await load_noise_keys(store, load_text(tmp_path, environ=noise_variables()), NOW)
    assert later == key
    [line] = logs
    assert "no effect" in line["event"]


async def test_active_rows_come_newest_first_and_expired_ones_do_not(tmp_path: Path) -> None:
    store = SecretTable(
        stored(2), stored(4), stored(3), stored(1, expires_at=NOW), stored(9, valid_after=NOW + 1)
    )
    versions = await load_noise_keys(store, load_text(tmp_path), NOW)
    assert [version.version for version in versions] == [4, 3, 2]
    assert len(store.rows) == 5


async def test_after_all_keys_expired_the_next_version_is_made(tmp_path: Path) -> None:
    store = SecretTable(stored(7, expires_at=NOW))
    [key] = await load_noise_keys(store, load_text(tmp_path), NOW)
    assert key.version == 8


async def test_a_process_that_was_faster_wins(tmp_path: Path) -> None:
    winner = stored(1)

    class RacedTable(SecretTable):
        async def insert_secret(self, secret: Secret) -> None:
            self.rows.append(winner)
            self.rows.sort(key=lambda row: row.version)
            await super().insert_secret(secret)

    [key] = await load_noise_keys(RacedTable(), load_text(tmp_path), NOW)
    assert key.keys.private == winner.secret


async def test_with_a_secret_key_the_row_is_encrypted_and_fresh_each_time(tmp_path: Path) -> None:
    config = load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()} | noise_variables())
    store, other = SecretTable(), SecretTable()
    [key] = await load_noise_keys(store, config, NOW)
    await load_noise_keys(other, config, NOW)

    assert [version.keys.private for version in await load_noise_keys(store, config, NOW)] == [
        key.keys.private
    ]
    assert key.keys.private not in store.rows[0].secret
    assert store.rows[0].secret != other.rows[0].secret
    assert '"cipher":"chacha20poly1305"' in store.rows[0].metadata


async def test_encrypted_rows_need_their_key(tmp_path: Path) -> None:
    store = SecretTable()
    await load_noise_keys(store, load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()}), NOW)

    with pytest.raises(ProvisionError, match="is encrypted; set COMMUCAT_SECRET_KEY"):
        await load_noise_keys(store, load_text(tmp_path), NOW)
    other = load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()})
    with pytest.raises(ProvisionError, match="encrypted with another key"):
        await load_noise_keys(store, other, NOW)


async def test_plain_rows_are_read_with_a_key_too_but_said(tmp_path: Path) -> None:
    store = SecretTable(stored(1, metadata='{"from":"2025"}'))
    config = load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()})
    with capture_logs() as logs:
        [key] = await load_noise_keys(store, config, NOW)
    assert key.keys.private == store.rows[0].secret
    [line] = logs
    assert "unencrypted" in line["event"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": b"x" * 31}, "31 bytes instead of 32"),
        ({"public": b"x" * 32}, "public half"),
        ({"metadata": "nonsense"}, "unreadable metadata"),
        ({"metadata": "[]"}, "unreadable metadata"),
        ({"metadata": '{"cipher":"rot13"}'}, "does not know"),
    ],
)
async def test_damaged_rows_are_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    store = SecretTable(stored(3, **changes))
    with pytest.raises(ProvisionError, match=f"noise-static version 3 .*{reason}"):
        await load_noise_keys(store, load_text(tmp_path), NOW)


async def test_rows_without_a_public_half_are_read(tmp_path: Path) -> None:
    [key] = await load_noise_keys(SecretTable(stored(1, public=None)), load_text(tmp_path), NOW)
    assert len(key.keys.public) == 32


async def test_a_row_that_is_not_active_right_after_it_was_stored(tmp_path: Path) -> None:
    class ForgetfulTable(SecretTable):
        async def insert_secret(self, secret: Secret) -> None:
            assert secret.version == 1

    with pytest.raises(ProvisionError, match="no Noise key right after"):
        await load_noise_keys(ForgetfulTable(), load_text(tmp_path), NOW)


def row_of(box: SecretBox, name: str, version: int, secret: bytes) -> Secret:
    sealed = box.seal(name, version, secret)
    return stored(version, name=name, secret=sealed.secret, public=None, metadata=sealed.metadata)


@given(key=st.binary(min_size=32, max_size=32), name=st.text(), version=st.integers(1), secret=st.binary())
def test_sealed_secrets_open_again(key: bytes, name: str, version: int, secret: bytes) -> None:
    row = row_of(SecretBox(key), name, version, secret)
    assert SecretBox(key).is_sealed(row)
    assert SecretBox(key).open(row) == secret


@given(position=st.integers(0, 8 * 60 - 1))
def test_one_changed_bit_is_noticed(position: int) -> None:
    box = SecretBox(bytes(32))
    row = row_of(box, "a", 1, bytes(32))
    changed = bytearray(row.secret)
    changed[position // 8] ^= 1 << position % 8
    with pytest.raises(SecretBoxError, match="changed or damaged"):
        box.open(attrs.evolve(row, secret=bytes(changed)))


@pytest.mark.parametrize("changes", [{"name": "b"}, {"version": 2}, {"secret": b""}, {"secret": b"short"}])
def test_a_row_cannot_be_passed_off_as_another(changes: dict[str, object]) -> None:
    box = SecretBox(bytes(32))
    row = attrs.evolve(row_of(box, "a", 1, bytes(32)), **changes)  # type: ignore[arg-type]  # as above
    with pytest.raises(SecretBoxError, match="changed or damaged"):
        box.open(row)


def test_a_box_without_a_key_stores_plainly() -> None:
    box = SecretBox(None)
    sealed = box.seal("a", 1, b"secret")
    assert (sealed.secret, sealed.metadata) == (b"secret", "{}")
    assert "secret=" not in repr(sealed)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretBox(bytes(16))


async def test_keys_survive_in_a_real_store(tmp_path: Path) -> None:
    config = load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()})
    async with open_sqlite(tmp_path / "commucat.db") as store:
        [first] = await load_noise_keys(store, config, NOW)
    async with open_sqlite(tmp_path / "commucat.db") as store:
        [again] = await load_noise_keys(store, config, NOW + HOUR)
    assert (again.version, again.keys.private) == (1, first.keys.private)
