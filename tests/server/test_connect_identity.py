"""Identity invariants: nothing is written before the proof, and nobody takes over an account."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from commucat_crypto import DeviceKeyPair, NoisePattern, StaticKeyPair
from commucat_proto import UserHint, decode_frame
from commucat_server.identity.admissions import user_json
from commucat_server.identity.certificates import RENEW_BEFORE, certificate_of, row_of
from commucat_server.identity.tokens import enrolment_code_hash, new_enrolment_code, token_hash
from commucat_storage import EnrolmentCode, User
from server.connect_builders import (
    DOMAIN,
    NOW,
    Client,
    MemoryConnectStream,
    Person,
    Server,
    running_server,
)

INVALID = {"error": "handshake", "detail": "invalid request"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


async def add_user(
    server: Server, handle: str, code: str | None = None, *, expires_at: int = NOW + 60
) -> User:
    user = User(user_id=f"id-of-{handle}", handle=handle, domain=DOMAIN, created_at=NOW)
    row = None
    if code is not None:
        row = EnrolmentCode(
            code_hash=enrolment_code_hash(code), user_id=user.user_id, created_at=NOW, expires_at=expires_at
        )
    await server.storage.create_user(user, row)
    return user


def pairing_required(client: Client, reason: str | None = None) -> bool:
    assert client.refused is not None
    assert client.refused["detail"] == "pairing required"
    assert client.refused["title"] == "PairingRequired"
    assert client.refused["pairing_required"] is True
    return reason is None or reason in str(client.refused)


async def test_first_device_creates_user_device_certificate_and_session(server: Server) -> None:
    alice = Person(handle="alice")
    client = await server.connect(alice, user=UserHint(handle="alice", display_name="Alice"))

    device = await server.storage.load_device(alice.device_id)
    assert device is not None
    assert device.public_key == alice.keys.public
    user = await server.storage.load_user_by_handle("alice", DOMAIN)
    assert user is not None
    assert client.ack["user"] == user_json(user)
    assert user.display_name == "Alice"
    assert client.ack["user_id"] == device.user_id == user.user_id
    certificate = await server.storage.newest_certificate(alice.device_id)
    assert certificate is not None
    assert client.ack["device_certificate"] == certificate_of(certificate).to_wire()
    assert client.ack["certificate"]["serial"] == certificate.serial
    session = await server.storage.load_session(token_hash(client.token))
    assert session is not None
    assert session.device_id == alice.device_id
    assert client.ack["inbox"]["next"] == 1


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
async def test_known_device_comes_back_as_itself(server: Server, pattern: NoisePattern) -> None:
    alice = Person(handle="alice")
    first = await server.connect(alice, pattern=pattern)
    second = await server.connect(alice, pattern=pattern)

    assert second.ack["user_id"] == first.ack["user_id"]
    assert second.ack["device_certificate"] == first.ack["device_certificate"]
    assert second.token != first.token
    assert second.epoch == first.epoch


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
async def test_stolen_device_id_with_another_key_is_refused_and_nothing_is_written(
    server: Server, pattern: NoisePattern
) -> None:
    """S1 of the reference: a fresh key under a known device id replaced the stored key."""
    alice = Person(handle="alice")
    await server.connect(alice)
    before = await server.storage.load_device(alice.device_id)
    thief = Person(handle="alice", device_id=alice.device_id)

    client = await server.connect(thief, pattern=pattern)

    assert client.refused == INVALID
    assert await server.storage.load_device(alice.device_id) == before
    assert (await server.connect(alice)).ack


@pytest.mark.parametrize("code", [None, "WRONG-CODE"])
async def test_existing_handle_never_gains_a_device_by_hello(server: Server, code: str | None) -> None:
    """S4 of the reference: auto-approval attached strangers to existing users."""
    await server.connect(Person(handle="alice"))
    stranger = Person(handle="alice", device_id="stranger")

    client = await server.connect(stranger, code=code)

    assert pairing_required(client)
    assert await server.storage.load_device("stranger") is None


async def test_user_id_hint_of_somebody_else_is_no_way_in(server: Server) -> None:
    first = await server.connect(Person(handle="alice"))
    hint = UserHint(user_id=str(first.ack["user_id"]))

    client = await server.connect(Person(handle="x", device_id="stranger"), user=hint)

    assert pairing_required(client)
    assert await server.storage.load_device("stranger") is None


async def test_certificate_of_another_device_is_no_way_in(server: Server) -> None:
    alice = Person(handle="alice")
    await server.connect(alice)
    row = await server.storage.newest_certificate(alice.device_id)
    assert row is not None
    stranger = Person(handle="alice", device_id="stranger")

    client = await server.connect(stranger, certificate=certificate_of(row))

    assert pairing_required(client)
    assert await server.storage.load_device("stranger") is None


async def test_of_two_devices_racing_for_a_handle_one_wins_and_neither_is_attached_to_the_other(
    server: Server,
) -> None:
    racers = [Person(handle="alice", device_id=f"racer-{n}") for n in range(2)]
    clients: list[Client] = []

    async def run(person: Person) -> None:
        clients.append(await server.connect(person))

    async with trio.open_nursery() as nursery:
        for racer in racers:
            nursery.start_soon(run, racer)

    [winner] = [client for client in clients if client.ack]
    [loser] = [client for client in clients if client.refused]
    assert pairing_required(loser)
    assert winner.ack["user"]["handle"] == "alice"
    stored = [await server.storage.load_device(racer.device_id) for racer in racers]
    assert sum(device is not None for device in stored) == 1


async def test_loser_between_lookup_and_transaction_is_told(server: Server) -> None:
    """Both have their tentative message 2 before either is proved."""
    racers = [server.open(Person(handle="alice", device_id=f"racer-{n}")) for n in range(2)]
    replies = []
    for client in racers:
        client.stream.write(client.session.start())
        [auth] = client.session.receive_data(await client.stream.read())
        replies.append(auth.reply)  # type: ignore[union-attr]
    assert racers[0].session.welcome["user_id"] != racers[1].session.welcome["user_id"]
    answers = []
    for client, reply in zip(racers, replies, strict=True):
        client.stream.write(reply)
        answers.append(decode_frame(await client.stream.read())[0].control)

    assert answers[0]["handshake"] == "ok"  # type: ignore[index, call-overload]
    assert answers[1]["detail"] == "pairing required"  # type: ignore[index, call-overload]


async def test_token_of_message_2_is_worth_nothing_before_the_proof(server: Server) -> None:
    alice = Person(handle="alice")
    client = server.open(alice)
    client.stream.write(client.session.start())
    client.session.receive_data(await client.stream.read())

    token = str(client.session.welcome["session"])

    assert len(token) == 64
    assert await server.storage.load_session(token_hash(token)) is None
    assert await server.storage.load_device(alice.device_id) is None
    assert await server.storage.load_user_by_handle("alice", DOMAIN) is None


@pytest.mark.parametrize("pattern", [NoisePattern.XK, NoisePattern.IK])
async def test_replayed_hello_changes_nothing(server: Server, pattern: NoisePattern) -> None:
    """Not even who is connected: the real session goes on."""
    alice = Person(handle="alice")
    session = alice.session(pattern=pattern)
    hello = session.start()
    client = Client(session, MemoryConnectStream())
    server.nursery.start_soon(server.handler, client.stream)
    client.stream.write(hello)
    while not client.ack:
        client._take(session.receive_data(await client.stream.read()))
    replay = MemoryConnectStream()
    server.nursery.start_soon(server.handler, replay)

    replay.write(hello)
    await replay.read()
    replay.write(b"\x10" + bytes(16))

    error, _ = decode_frame(await replay.read())
    assert error.control["error"] in ("handshake", "decode")  # type: ignore[index, call-overload]
    live = server.context.registry.receiver(alice.device_id)
    assert live is not None
    assert live.farewell is None
    assert server.context.counters.handshakes == 1


async def test_enrolment_code_admits_one_device_once(server: Server) -> None:
    code = new_enrolment_code()
    user = await add_user(server, "alice", code)
    first = await server.connect(Person(handle="alice", device_id="one"), code=code.lower())
    second = await server.connect(Person(handle="alice", device_id="two"), code=code)

    assert first.ack["user_id"] == user.user_id
    assert pairing_required(second, "code")
    assert await server.storage.load_device("two") is None


async def test_one_code_for_two_devices_at_once_admits_one(server: Server) -> None:
    code = new_enrolment_code()
    await add_user(server, "alice", code)
    clients: list[Client] = []

    async def run(name: str) -> None:
        clients.append(await server.connect(Person(handle="alice", device_id=name), code=code))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "one")
        nursery.start_soon(run, "two")

    assert sum(bool(client.ack) for client in clients) == 1


async def test_expired_code_and_code_of_another_user_are_refused(server: Server) -> None:
    expired, other = new_enrolment_code(), new_enrolment_code()
    await add_user(server, "alice", expired, expires_at=NOW)
    await add_user(server, "bob", other)

    for code in (expired, other):
        client = await server.connect(Person(handle="alice", device_id="one"), code=code)
        assert pairing_required(client, "code")
    assert await server.storage.load_device("one") is None


async def test_closed_registration_creates_nobody(tmp_path: Path) -> None:
    async with running_server(tmp_path, policy={"auto_approve_devices": False}) as server:
        client = await server.connect(Person(handle="alice"))

        assert pairing_required(client)
        assert await server.storage.load_user_by_handle("alice", DOMAIN) is None


async def test_join_by_handle_restores_the_old_behaviour_up_to_its_limit(tmp_path: Path) -> None:
    policy = {"join_by_handle": True, "max_auto_devices_per_user": 2}
    async with running_server(tmp_path, policy=policy) as server:
        clients = [await server.connect(Person(handle="alice", device_id=f"d{n}")) for n in range(3)]

        assert [bool(client.ack) for client in clients] == [True, True, False]
        assert clients[0].ack["user_id"] == clients[1].ack["user_id"]
        assert pairing_required(clients[2], "device_limit")


async def test_zero_auto_devices_means_none(tmp_path: Path) -> None:
    policy = {"join_by_handle": True, "max_auto_devices_per_user": 0}
    async with running_server(tmp_path, policy=policy) as server:
        await add_user(server, "alice")

        assert pairing_required(await server.connect(Person(handle="alice")))


async def test_new_devices_per_address_are_limited_and_known_ones_are_not(tmp_path: Path) -> None:
    async with running_server(tmp_path, new_devices_per_hour=2) as server:
        people = [Person(handle=f"user{n}") for n in range(3)]
        answers = [bool((await server.connect(person)).ack) for person in people]

        assert answers == [True, True, False]
        assert (await server.connect(people[0])).ack


async def test_revoked_device_stays_out_and_keeps_no_token(server: Server) -> None:
    alice = Person(handle="alice")
    client = await server.connect(alice)
    await server.storage.revoke_device(alice.device_id, NOW)

    again = await server.connect(alice)

    assert again.refused == INVALID
    assert await server.storage.load_session(token_hash(client.token)) is None
    assert await server.storage.newest_certificate(alice.device_id) is None


@pytest.mark.parametrize(
    "changes",
    [{"user": UserHint(handle="bob")}, {"user": UserHint(user_id="somebody")}],
    ids=["handle", "user_id"],
)
async def test_known_device_cannot_claim_another_user(server: Server, changes: dict[str, Any]) -> None:
    alice = Person(handle="alice")
    await server.connect(alice)
    await add_user(server, "bob")

    assert (await server.connect(alice, **changes)).refused == INVALID


@pytest.mark.parametrize("handle", ["", "a b", "a@b", "a/b", "x" * 65, "ä", "a\x00"])
async def test_handles_that_cannot_be_addressed_are_refused(server: Server, handle: str) -> None:
    assert (await server.connect(Person(handle=handle, device_id="d"))).refused == INVALID


async def test_device_that_names_no_user_is_refused(server: Server) -> None:
    assert (await server.connect(Person(handle="x"), user=UserHint())).refused == INVALID


# -- certificates -----------------------------------------------------------------------------------------


async def test_certificate_near_its_end_is_renewed_in_the_ack(tmp_path: Path) -> None:
    now = [float(NOW)]
    async with running_server(tmp_path, clock=lambda: now[0]) as server:
        alice = Person(handle="alice")
        first = await server.connect(alice)
        row = await server.storage.newest_certificate(alice.device_id)
        assert row is not None
        now[0] = row.expires_at - RENEW_BEFORE + 1

        second = await server.connect(alice, certificate=certificate_of(row))

        renewed = second.ack["device_certificate"]
        assert renewed["serial"] != first.ack["certificate"]["serial"]
        assert renewed["issued_at"] == int(now[0])


async def test_expired_future_and_foreign_certificates_are_refused(tmp_path: Path) -> None:
    now = [float(NOW)]
    async with running_server(tmp_path, clock=lambda: now[0]) as server:
        alice, bob = Person(handle="alice"), Person(handle="bob")
        await server.connect(alice)
        await server.connect(bob)
        row = await server.storage.newest_certificate(alice.device_id)
        bobs = await server.storage.newest_certificate(bob.device_id)
        assert row is not None
        assert bobs is not None
        own = certificate_of(row)
        forged = own.issue(
            DeviceKeyPair.generate(),
            serial=1,
            user_id=own.user_id,
            device_id=own.device_id,
            public_key=own.public_key,
            issued_at=NOW,
            expires_at=NOW + 100,
        )

        assert (await server.connect(alice, certificate=certificate_of(bobs))).refused == INVALID
        assert (await server.connect(alice, certificate=forged)).refused == {
            "error": "handshake",
            "detail": "crypto failure",
        }
        now[0] = NOW - 301.0
        assert (await server.connect(alice, certificate=own)).refused == INVALID
        now[0] = float(own.expires_at)
        assert (await server.connect(alice, certificate=own)).refused == INVALID
        assert (await server.connect(alice)).ack


async def test_certificate_for_the_noise_key_is_replaced_at_once(server: Server) -> None:
    alice = Person(handle="alice")
    first = await server.connect(alice)
    odd = server.context.issuer.issue(
        user_id=str(first.ack["user_id"]), device_id=alice.device_id, public_key=alice.static.public
    )
    await server.storage.add_certificate(row_of(odd, "test"))

    again = await server.connect(alice, certificate=odd)

    assert again.ack["device_certificate"]["public_key"] == alice.keys.public.hex()


async def test_another_noise_key_of_the_same_device_is_fine(server: Server) -> None:
    """The proof binds the Noise static; it is not pinned beyond that."""
    alice = Person(handle="alice")
    await server.connect(alice)
    alice.static = StaticKeyPair.generate()

    assert (await server.connect(alice)).ack
