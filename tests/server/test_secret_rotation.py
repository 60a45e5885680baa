"""The server's secrets while it runs: taken over, rotated in time, and never the end of a client."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from commucat_crypto import NoiseKeyStatement, StaticKeyPair
from commucat_proto import FrameType, ServerParameters
from commucat_server.config import ServerConfig
from commucat_server.identity.admin_tokens import ADMIN_SECRET, AdminTokens, is_endless, make_admin_token
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.ops import operator_watch
from commucat_server.ops.counters import Counters
from commucat_server.ops.operator_watch import OperatorWatch
from commucat_server.ops.secret_rotation import SecretRotations
from commucat_server.ops.times import rfc3339
from commucat_server.provision import NOISE_SECRET, NoiseKeyVersion, load_noise_keys, rotate_noise_keys
from commucat_server.provision.noise_keys import ACTIVATION, read_noise_keys
from commucat_server.provision.operator_records import operator_record
from commucat_server.provision.rekey import rekey_secrets
from commucat_storage import Node as StoreNode
from commucat_storage import Storage, StorageError, open_sqlite
from commucat_storage.postgres import open_postgres
from databases.postgres_databases import PostgresDatabases
from server.config_builders import hex_key, load_text
from server.connect_builders import AUTHORITY, DOMAIN, running_server, upkeep_of
from server.test_audit import MemoryLedger
from server.test_groups_frames import ALICE, BOB

NOW = 1_800_000_000
HOUR = 3600
DAY = 24 * HOUR


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Node:
    """One process: what it answers to, and the task that looks after that."""

    storage: Storage
    config: ServerConfig
    clock: Clock
    catalogue: NoiseCatalogue
    tokens: AdminTokens
    rotation: SecretRotations

    def shown(self) -> list[int]:
        return [entry["version"] for entry in self.catalogue.entries()]

    def accepted(self) -> list[int]:
        return [key.version for key in self.catalogue.versions]


async def node_of(storage: Storage, config: ServerConfig, clock: Clock) -> Node:
    versions = await load_noise_keys(storage, config, int(clock()))
    parameters = ServerParameters(domain=DOMAIN, keys=())
    catalogue = NoiseCatalogue(versions, parameters, clock=clock, authority=AUTHORITY)
    tokens = AdminTokens()
    rotation = SecretRotations(
        storage=storage, config=config, catalogue=catalogue, admin_tokens=tokens, clock=clock
    )
    return Node(storage, config, clock, catalogue, tokens, rotation)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_sqlite(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    return load_text(tmp_path, environ={"COMMUCAT_SECRET_KEY": hex_key()})


# -- the catalogue --------------------------------------------------------------------------------


def version_of(version: int, **changes: Any) -> NoiseKeyVersion:
    made = NoiseKeyVersion(
        version=version,
        keys=StaticKeyPair.generate(),
        valid_after=NOW,
        rotates_at=NOW + HOUR,
        expires_at=NOW + 2 * HOUR,
    )
    return attrs.evolve(made, **changes)


def catalogue_of(*versions: NoiseKeyVersion, clock: Clock) -> NoiseCatalogue:
    return NoiseCatalogue(
        versions, ServerParameters(domain=DOMAIN, keys=()), clock=clock, authority=AUTHORITY
    )


def test_a_key_is_accepted_before_clients_are_told_of_it() -> None:
    clock = Clock()
    catalogue = catalogue_of(version_of(2, valid_after=NOW + 5), version_of(1), clock=clock)
    assert [key.version for key in catalogue.parameters.keys] == [2, 1]
    assert [entry["version"] for entry in catalogue.entries()] == [1]
    clock.now += 5
    assert [entry["version"] for entry in catalogue.entries()] == [2, 1]


def test_what_clients_are_told_is_signed_by_the_authority() -> None:
    [entry] = catalogue_of(key := version_of(4), clock=Clock()).entries()
    assert entry["public"] == key.keys.public.hex()
    assert entry["expires_at"] == rfc3339(key.expires_at)
    NoiseKeyStatement(
        domain=DOMAIN,
        version=4,
        public=key.keys.public,
        valid_after=key.valid_after,
        rotates_at=key.rotates_at,
        expires_at=key.expires_at,
    ).verify(AUTHORITY.public, bytes.fromhex(entry["signature"]))


def test_a_key_that_expired_during_the_handshake_is_answered_with_the_newest() -> None:
    catalogue = catalogue_of(version_of(2), clock=Clock())
    assert catalogue.note_use(1)["version"] == 2
    assert catalogue.note_use(2)["version"] == 2
    assert catalogue.take_used() == {1, 2}
    assert catalogue.take_used() == set()


def test_there_is_always_a_key() -> None:
    with pytest.raises(ValueError, match="at least one"):
        catalogue_of(clock=Clock())
    # A clock that was set back knows of no key yet; clients are told of the oldest.
    catalogue = catalogue_of(version_of(2), version_of(1), clock=Clock(NOW - DAY))
    assert [entry["version"] for entry in catalogue.entries()] == [1]


# -- rotation -------------------------------------------------------------------------------------


async def test_keys_rotate_by_themselves_and_old_ones_go(storage: Storage, config: ServerConfig) -> None:
    node = await node_of(storage, config, clock := Clock())
    await node.rotation.tick()
    assert node.accepted() == [1]

    clock.now += 168 * HOUR
    await node.rotation.tick()
    assert (node.accepted(), node.shown()) == ([2, 1], [1])
    clock.now += ACTIVATION
    assert node.shown() == [2, 1]

    clock.now += 720 * HOUR - 1
    await node.rotation.refresh()
    assert 1 in node.accepted()
    clock.now += 1
    await node.rotation.refresh()
    assert 1 not in node.accepted()


async def test_a_year_of_rotations_leaves_a_handful_of_keys(storage: Storage, config: ServerConfig) -> None:
    node = await node_of(storage, config, clock := Clock())
    most = 0
    for _ in range(365):
        clock.now += DAY
        await node.rotation.tick()
        most = max(most, len(node.accepted()))
    assert node.accepted()[0] > 45
    assert most <= config.security_rotation.noise_max_versions
    assert len(await storage.secret_versions()) <= 20


async def test_a_key_that_clients_use_lives_on(storage: Storage, config: ServerConfig) -> None:
    """The terminal client of 2025 keeps its first key for ever."""
    node = await node_of(storage, config, clock := Clock())
    for _ in range(100):
        clock.now += DAY
        node.catalogue.note_use(1)
        await node.rotation.tick()
    assert 1 in node.accepted()
    assert 2 not in node.accepted()

    clock.now += 720 * HOUR
    await node.rotation.refresh()
    assert 1 not in node.accepted()


async def test_a_key_that_is_revoked_while_it_is_prolonged_stays_revoked(
    storage: Storage, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await node_of(storage, config, clock := Clock())
    await rotate_noise_keys(storage, config, int(clock.now), by="operator")
    await node.rotation.tick()
    [old] = [version for version in node.catalogue.versions if version.version == 1]
    clock.now = old.expires_at - 10
    node.catalogue.note_use(1)
    change = storage.set_secret_expiry

    async def after_the_operator(*args: Any, **more: Any) -> bool:
        assert await change(NOISE_SECRET, 1, int(clock.now))
        return await change(*args, **more)

    monkeypatch.setattr(storage, "set_secret_expiry", after_the_operator)
    await node.rotation.tick()
    await node.rotation.refresh()

    assert 1 not in node.accepted()


@pytest.mark.parametrize("first", ["rekey", "rotation"])
async def test_a_rotation_beside_a_rekey_leaves_a_store_that_one_key_opens(
    storage: Storage, config: ServerConfig, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    node = await node_of(storage, config, clock := Clock())
    old, new = config.security.secret_key, bytes(range(32))
    clock.now += 168 * HOUR

    async def rekey() -> None:
        await rekey_secrets(storage, old, new, int(clock.now))

    async def rotate() -> None:
        await rotate_noise_keys(storage, config, int(clock.now), by="operator")

    name, meanwhile, act = {
        "rekey": ("rotate_secret", rekey, rotate),
        "rotation": ("reseal_secrets", rotate, rekey),
    }[first]
    write = getattr(storage, name)

    async def after_the_other(*args: Any) -> None:
        monkeypatch.setattr(storage, name, write)
        await meanwhile()
        await write(*args)

    monkeypatch.setattr(storage, name, after_the_other)
    with pytest.raises(StorageError, match="meanwhile"):
        await act()

    key = new if first == "rekey" else old
    opened = attrs.evolve(config, security=attrs.evolve(config.security, secret_key=key))
    assert await read_noise_keys(storage, opened, int(clock.now))
    assert node.accepted() == [1]


async def test_what_was_read_earlier_does_not_replace_what_was_read_later(
    storage: Storage, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await node_of(storage, config, clock := Clock())
    await rotate_noise_keys(storage, config, int(clock.now), by="operator")
    await node.rotation.refresh()
    read, going_on = storage.secret_versions, trio.Event()

    async def slowly(*args: Any) -> Any:
        monkeypatch.setattr(storage, "secret_versions", read)
        found = await read(*args)
        await going_on.wait()
        return found

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(storage, "secret_versions", slowly)
        nursery.start_soon(node.rotation.refresh)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await storage.set_secret_expiry(NOISE_SECRET, 1, int(clock.now))
        nursery.start_soon(node.rotation.refresh)
        await trio.testing.wait_all_tasks_blocked(0.01)
        going_on.set()

    assert 1 not in node.accepted()


async def test_whether_used_keys_live_on_can_be_chosen(tmp_path: Path, storage: Storage) -> None:
    config = load_text(tmp_path, "[security.rotation]\nnoise_keep_used = false")
    node = await node_of(storage, config, clock := Clock())
    for _ in range(45):
        clock.now += DAY
        node.catalogue.note_use(1)
        await node.rotation.tick()
    assert 1 not in node.accepted()


async def test_one_of_several_nodes_rotates_and_all_take_it_over(
    storage: Storage, config: ServerConfig
) -> None:
    clock = Clock()
    one, two = await node_of(storage, config, clock), await node_of(storage, config, clock)
    clock.now += 168 * HOUR
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.rotation.tick)
        nursery.start_soon(two.rotation.tick)
    await two.rotation.refresh()
    await one.rotation.refresh()
    assert one.accepted() == two.accepted() == [2, 1]
    assert one.catalogue.versions == two.catalogue.versions
    assert [record.recorded_at for record in await storage.operator_records(9)] == [clock.now]


async def test_a_node_that_was_overtaken_does_not_rotate_again(
    storage: Storage, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    one, two = await node_of(storage, config, clock), await node_of(storage, config, clock)
    clock.now += 168 * HOUR
    take_lease = storage.take_lease

    async def after_the_other(name: str, seconds: int) -> bool:
        monkeypatch.setattr(storage, "take_lease", take_lease)
        await one.rotation.tick()
        return await take_lease(name, seconds)

    monkeypatch.setattr(storage, "take_lease", after_the_other)
    await two.rotation.tick()

    assert one.accepted() == two.accepted() == [2, 1]


async def test_nodes_on_postgresql_rotate_once_and_notice_a_command(
    postgres_databases: PostgresDatabases, config: ServerConfig
) -> None:
    clock, dsn = Clock(), postgres_databases.migrated()
    async with open_postgres(dsn) as first, open_postgres(dsn) as second:
        for name, each in (("aa", first), ("bb", second)):
            await each.enter_cluster(StoreNode(node_id=name, host="here", pid=7, identity=b"one key"))
        one, two = await node_of(first, config, clock), await node_of(second, config, clock)
        clock.now += 168 * HOUR
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.rotation.tick)
            nursery.start_soon(two.rotation.tick)
        await one.rotation.refresh()
        await two.rotation.refresh()
        assert one.accepted() == two.accepted() == [2, 1]

        here, there = watched(first, clock=clock), watched(second, clock=clock)
        await rotate_noise_keys(second, config, int(clock.now), by="operator")
        for watch in (here.watch, there.watch, here.watch):
            await watch.look()
        assert (here.refreshed, there.refreshed) == ([1], [1])
        # Both were made in the same second of the clock, which gives them no order.
        told = [record.metadata["version"] for record in (*here.ledger.records, *there.ledger.records)]
        assert sorted(told) == [2, 3]


async def test_a_full_catalogue_postpones_the_rotation_and_says_so_once(
    tmp_path: Path, storage: Storage
) -> None:
    config = load_text(tmp_path, "[security.rotation]\nnoise_interval_hours = 1\nnoise_max_versions = 2")
    node = await node_of(storage, config, clock := Clock())
    clock.now += HOUR
    await node.rotation.tick()
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += HOUR
            await node.rotation.tick()
    assert node.accepted() == [2, 1]
    assert [line["event"] for line in logs] == ["rotation of the noise key is postponed"]


async def test_a_store_that_cannot_be_read_leaves_the_keys_there_are(
    storage: Storage, config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await node_of(storage, config, Clock())

    async def fail(name: str | None = None) -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(storage, "secret_versions", fail)
    with capture_logs() as logs:
        await node.rotation.tick()
        await node.rotation.tick()
    assert node.accepted() == [1]
    assert [line["reason"] for line in logs] == ["the disk is gone"]


# -- with clients ---------------------------------------------------------------------------------


async def test_sessions_go_on_and_new_handshakes_take_either_key(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        catalogue = server.context.noise_keys
        alice = await server.connect(ALICE)
        [first] = catalogue.versions
        newer = attrs.evolve(first, version=2, keys=StaticKeyPair.generate())
        catalogue.replace((newer, first))

        await alice.join(7)
        bob = await server.connect(BOB)
        assert bob.ack["noise_key_version"] == 1
        assert bob.ack["noise_public"] == first.keys.public.hex()
        assert [entry["version"] for entry in bob.ack["noise_keys"]] == [2, 1]
        assert bob.ack["noise_keys"][0]["public"] == newer.keys.public.hex()


# -- what operators change beside the server ------------------------------------------------------


@attrs.frozen
class Watched:
    watch: OperatorWatch
    ledger: MemoryLedger
    counters: Counters
    refreshed: list[int]


def watched(storage: Storage, clock: Clock | None = None) -> Watched:
    ledger, counters, refreshed = MemoryLedger(), Counters(), []

    async def refresh() -> None:
        refreshed.append(1)

    watch = OperatorWatch(
        storage=storage,
        ledger=ledger,
        counters=counters,
        clock=clock or Clock(),
        changed=[refresh],
    )
    return Watched(watch, ledger, counters, refreshed)


async def test_a_command_is_told_to_the_ledger_once_and_to_every_node(
    storage: Storage, config: ServerConfig
) -> None:
    one, two = watched(storage), watched(storage)
    await load_noise_keys(storage, config, NOW)
    await rotate_noise_keys(storage, config, NOW, by="operator")

    await one.watch.look()
    await two.watch.look()
    await one.watch.look()

    [record] = one.ledger.records
    assert record.metadata["scope"] == "secret"
    assert record.metadata["at"] == rfc3339(NOW)
    assert two.ledger.records == []
    assert (one.refreshed, two.refreshed) == ([1], [1])
    assert (one.counters.secret_rotations_noise, two.counters.secret_rotations_noise) == (1, 0)
    assert one.counters.secret_rotations_admin == 0


async def test_records_are_forgotten_once_every_node_has_seen_them(storage: Storage) -> None:
    it = watched(storage, clock=(clock := Clock()))
    await storage.add_operator_record(operator_record("x", {"scope": "queue", "event": "purge"}, NOW))
    await it.watch.look()
    assert len(await storage.operator_record_ids()) == 1
    clock.now += 60
    await it.watch.look()
    assert await storage.operator_record_ids() == set()


@pytest.mark.parametrize("metadata", ["[]", "1", '{"x": "' + "y" * 70_000 + '"}'])
async def test_a_row_that_somebody_wrote_by_hand_does_not_stop_the_others(
    storage: Storage, metadata: str
) -> None:
    it = watched(storage)
    good = operator_record("x", {"scope": "queue", "event": "purge", "messages": 1}, NOW)
    await storage.add_operator_record(attrs.evolve(good, record_id="0", metadata=metadata))
    await storage.add_operator_record(good)
    await it.watch.look()
    assert await storage.operator_records(9) == ()
    assert it.counters.messages_purged == 1


async def test_purged_messages_are_counted(storage: Storage) -> None:
    it = watched(storage)
    purge = {"scope": "queue", "event": "purge", "messages": 7}
    await storage.add_operator_record(operator_record("x", purge, NOW))
    await it.watch.look()
    assert it.counters.messages_purged == 7


async def test_sessions_that_an_operator_ended_end(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server:
        alice, bob = await server.connect(ALICE), await server.connect(BOB)
        record = operator_record("x", {"scope": "session", "event": "end"}, NOW)
        assert await server.storage.end_sessions(ALICE.device_id, lambda _: record) == 1

        await upkeep_of(server).end_revoked()

        error = await alice.next_of(FrameType.ERROR)
        assert isinstance(error.control, dict)
        assert error.control["error"] == "ended"
        await bob.join(7)


async def test_a_device_that_an_operator_revokes_is_told_so(tmp_path: Path) -> None:
    """Not to connect again; and the ledger has it."""
    async with running_server(tmp_path) as server:
        alice = await server.connect(ALICE)
        it = watched(server.storage)
        record = operator_record("x", {"scope": "device", "event": "revoke"}, NOW)
        await server.storage.revoke_device(ALICE.device_id, NOW, records=[record])

        await it.watch.look()
        await upkeep_of(server).end_revoked()

        error = await alice.next_of(FrameType.ERROR)
        assert isinstance(error.control, dict)
        assert error.control["error"] == "revoked"
        assert [each.metadata["event"] for each in it.ledger.records] == ["revoke"]


async def test_a_store_that_fails_is_told_once_and_asked_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = watched(storage)
    asked = 0

    async def fail() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            scope.cancel()
        raise StorageError("gone")

    monkeypatch.setattr(storage, "operator_record_ids", fail)
    monkeypatch.setattr(operator_watch, "INTERVAL", 0)
    with capture_logs() as logs, trio.CancelScope() as scope:
        await it.watch.run()
    assert [line["reason"] for line in logs] == ["gone"]


# -- administrative tokens ------------------------------------------------------------------------


async def test_a_token_opens_and_nothing_else_does(storage: Storage, config: ServerConfig) -> None:
    tokens = AdminTokens()
    await tokens.refresh(storage)
    assert not tokens.configured
    assert not tokens.check("Bearer " + "0" * 64, NOW)

    made = await make_admin_token(storage, config.security_rotation, NOW)
    await tokens.refresh(storage)
    assert tokens.configured
    assert len(made.token) == 64
    assert made.expires_at is None
    for good in (f"Bearer {made.token}", f"bearer {made.token}", made.token, f"Bearer  {made.token} "):
        assert tokens.check(good, NOW)
    for bad in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        f"Basic {made.token}",
        f"Bearer {made.token[:-1]}",
        f"Bearer {made.token}0",
        f"Bearer {made.token.upper()}" if made.token.upper() != made.token else "x",
        "Bearer " + "\ud800",
        "Bearer " + "0" * 10_000,
    ):
        assert not tokens.check(bad, NOW)
    assert not tokens.check(made.token, NOW - 1)


async def test_the_store_holds_no_token_and_no_repr_shows_one(storage: Storage, config: ServerConfig) -> None:
    made = await make_admin_token(storage, config.security_rotation, NOW)
    [row] = await storage.secret_versions(ADMIN_SECRET)
    [record] = await storage.operator_records(9)
    assert row.public is not None
    assert len(row.public) == 16
    assert is_endless(row)
    for text in (repr(made), repr(row), record.metadata, row.secret.hex()):
        assert made.token not in text
    again = await make_admin_token(storage, config.security_rotation, NOW)
    assert again.token != made.token
    assert len({row.public for row in await storage.secret_versions(ADMIN_SECRET)}) == 2


async def test_a_new_token_gives_the_old_one_its_grace_time(storage: Storage, config: ServerConfig) -> None:
    tokens, rules = AdminTokens(), config.security_rotation
    first = await make_admin_token(storage, rules, NOW)
    second = await make_admin_token(storage, rules, NOW + 10)
    await tokens.refresh(storage)
    assert second.previous_until == {1: NOW + 10 + 72 * HOUR}
    assert tokens.check(first.token, NOW + 72 * HOUR)
    assert not tokens.check(first.token, NOW + 10 + 72 * HOUR)
    assert tokens.check(second.token, NOW + 99 * DAY)

    third = await make_admin_token(storage, rules, NOW + 20)
    await tokens.refresh(storage)
    assert not tokens.check(first.token, NOW + 20)  # the third of two
    assert tokens.check(second.token, NOW + 20)
    assert tokens.check(third.token, NOW + 20)


async def test_tokens_end_by_themselves_if_they_shall_and_it_is_said_before(
    tmp_path: Path, storage: Storage
) -> None:
    rules = load_text(tmp_path, "[security.rotation]\nadmin_enabled = true").security_rotation
    tokens = AdminTokens()
    made = await make_admin_token(storage, rules, NOW)
    await tokens.refresh(storage)
    assert made.expires_at == NOW + (168 + 72) * HOUR
    assert tokens.warnings(NOW + 168 * HOUR - 1) == []
    [warning] = tokens.warnings(NOW + 168 * HOUR)
    assert "commucat-cli admin-token new" in warning
    assert tokens.warnings(NOW + 169 * HOUR) == []
    assert tokens.check(made.token, made.expires_at - 1)
    assert not tokens.check(made.token, made.expires_at)

    short = await make_admin_token(storage, rules, NOW, lifetime=60)
    assert short.expires_at == NOW + 60


async def test_rows_of_another_form_open_nothing(storage: Storage, config: ServerConfig) -> None:
    await make_admin_token(storage, config.security_rotation, NOW)
    [row] = await storage.secret_versions(ADMIN_SECRET)
    await storage.insert_secret(attrs.evolve(row, version=2, public=None))
    await storage.insert_secret(attrs.evolve(row, version=3, secret=b""))
    await storage.insert_secret(attrs.evolve(row, version=4, name=NOISE_SECRET))
    tokens = AdminTokens()
    await tokens.refresh(storage)
    assert not tokens.check("", NOW)
    assert tokens.configured
