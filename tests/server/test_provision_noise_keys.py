"""The Noise keys: made at first use, kept in the store, rotated with overlap, encrypted when configured."""

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from commucat_crypto import StaticKeyPair
from commucat_server.provision import (
    NOISE_SECRET,
    ProvisionError,
    TooManyKeysError,
    load_noise_keys,
    read_noise_keys,
    rotate_noise_keys,
)
from commucat_server.provision.noise_keys import ACTIVATION
from commucat_server.security.secret_box import SecretBox, SecretBoxError
from commucat_storage import open_sqlite
from commucat_storage.operating import SecretRotation
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
    assert first.expires_at == NOW + (168 + 720) * HOUR
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


async def test_accepted_keys_come_newest_first_and_expired_ones_do_not(tmp_path: Path) -> None:
    # Version 9 is accepted before clients are told of it: other nodes tell them perhaps a moment earlier.
    store = SecretTable(
        stored(2), stored(4), stored(3), stored(1, expires_at=NOW), stored(9, valid_after=NOW + 1)
    )
    versions = await load_noise_keys(store, load_text(tmp_path), NOW)
    assert [version.version for version in versions] == [9, 4, 3, 2]
    assert len(store.rows) == 5


async def test_the_newest_key_never_expires(tmp_path: Path) -> None:
    # A server that was down for longer than interval and grace time: its clients know no other key.
    store = SecretTable(stored(6, expires_at=NOW - 1), stored(7, expires_at=NOW))
    [key] = await load_noise_keys(store, load_text(tmp_path), NOW)
    assert key.version == 7


async def test_a_process_that_was_faster_wins(tmp_path: Path) -> None:
    winner = stored(1)

    class RacedTable(SecretTable):
        async def rotate_secret(self, rotation: SecretRotation) -> None:
            self.rows.append(winner)
            await super().rotate_secret(rotation)

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


async def test_a_row_that_is_not_there_right_after_it_was_stored(tmp_path: Path) -> None:
    class ForgetfulTable(SecretTable):
        async def rotate_secret(self, rotation: SecretRotation) -> None:
            assert rotation.secret.version == 1

    with pytest.raises(ProvisionError, match="no Noise key right after"):
        await load_noise_keys(ForgetfulTable(), load_text(tmp_path), NOW)


async def test_reading_makes_no_key(tmp_path: Path) -> None:
    store = SecretTable()
    with pytest.raises(ProvisionError, match="no Noise key yet; start the server once"):
        await read_noise_keys(store, load_text(tmp_path), NOW)
    assert store.rows == []


# -- rotation -------------------------------------------------------------------------------------


async def test_a_rotated_key_is_shown_later_and_the_one_before_lives_on(tmp_path: Path) -> None:
    config = load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()})
    store = SecretTable()
    [first] = await load_noise_keys(store, config, NOW)

    later = NOW + 160 * HOUR
    fresh = await rotate_noise_keys(store, config, later, by="operator")

    assert fresh.version == 2
    assert fresh.valid_after == later + ACTIVATION
    assert fresh.rotates_at == fresh.valid_after + 168 * HOUR
    assert fresh.expires_at == fresh.rotates_at + 720 * HOUR
    newest, before = await read_noise_keys(store, config, later)
    assert newest == fresh
    assert before.keys.private == first.keys.private
    # It was promised until 888 hours after its making, and gets no less than that.
    assert before.expires_at == max(first.expires_at, fresh.valid_after + 720 * HOUR)
    assert all('"cipher"' in row.metadata for row in store.rows)


async def test_a_rotation_that_comes_late_gives_the_whole_grace_time(tmp_path: Path) -> None:
    store, config = SecretTable(), load_text(tmp_path)
    [first] = await load_noise_keys(store, config, NOW)
    much_later = first.expires_at + 1000 * HOUR

    fresh = await rotate_noise_keys(store, config, much_later, by="schedule")

    _, before = await read_noise_keys(store, config, much_later)
    assert before.expires_at == fresh.valid_after + 720 * HOUR


async def test_a_rotation_records_the_public_halves_and_nothing_secret(tmp_path: Path) -> None:
    store, config = SecretTable(), load_text(tmp_path)
    await load_noise_keys(store, config, NOW)
    fresh = await rotate_noise_keys(store, config, NOW, by="operator")
    [record] = store.records
    metadata = json.loads(record.metadata)
    assert (metadata["scope"], metadata["event"], metadata["name"]) == ("secret", "rotate", "noise-static")
    assert (metadata["version"], metadata["previous"], metadata["by"]) == (2, 1, "operator")
    assert metadata["public"] == fresh.keys.public.hex()
    assert fresh.keys.private.hex() not in record.metadata


async def test_no_key_is_cut_off_for_a_rotation(tmp_path: Path) -> None:
    config = load_text(tmp_path, "[security.rotation]\nnoise_max_versions = 2\nnoise_grace_hours = 48")
    store = SecretTable()
    await load_noise_keys(store, config, NOW)
    await rotate_noise_keys(store, config, NOW, by="operator")

    with pytest.raises(TooManyKeysError, match="2 Noise keys already, as many as") as caught:
        await rotate_noise_keys(store, config, NOW, by="operator")
    assert caught.value.first_expires_at == NOW + (168 + 48) * HOUR
    assert len(store.rows) == 2

    assert (await rotate_noise_keys(store, config, NOW, by="operator", beyond_limit=True)).version == 3
    assert (await rotate_noise_keys(store, config, NOW + 500 * HOUR, by="operator")).version == 4


async def test_an_interval_of_zero_means_never(tmp_path: Path) -> None:
    config = load_text(tmp_path, "[security.rotation]\nnoise_interval_hours = 0")
    [first] = await load_noise_keys(SecretTable(), config, NOW)
    assert first.rotates_at > NOW + 9 * 365 * 24 * HOUR


# -- secrets at rest ------------------------------------------------------------------------------


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
