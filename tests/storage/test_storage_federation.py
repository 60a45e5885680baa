"""Peers, dead letters, and friends of other servers. For every backend."""

import hashlib

import attrs
import pytest
import trio

from commucat_storage import (
    Admission,
    AdmissionKind,
    AdmissionRefusal,
    AdmissionRefusedError,
    AlreadyExistsError,
    Confirm,
    DeadLetter,
    Friend,
    FriendRefusal,
    FriendRefusedError,
    OperatorRecord,
    Peer,
    PeerStanding,
    PeerStatus,
    RefusalReason,
    RemoteFriendRequest,
    RequestStatus,
    Storage,
    StorageError,
    federation,
)
from commucat_storage.friends import MAX_FRIENDS, MAX_PENDING_REQUESTS
from storage.storage_builders import (
    LATER,
    NOW,
    add_devices,
    asking,
    device,
    key_of,
    message,
    refused,
    send,
    user,
)

B = "b.example"
MICROS = NOW * 1_000_000 + 123_456


def peer(domain: str = B, **fields: object) -> Peer:
    made = Peer(
        domain=domain,
        endpoint=f"https://{domain}/federation",
        public_key=key_of(domain),
        status=PeerStatus.ACTIVE,
        created_at=NOW,
        updated_at=NOW + 1,
    )
    return attrs.evolve(made, **fields)  # type: ignore[arg-type]


def record(name: str) -> OperatorRecord:
    return OperatorRecord(
        record_id=name, digest=hashlib.sha256(name.encode()).digest(), metadata="{}", recorded_at=NOW
    )


def incoming(name: str, to: str = "a", request_id: str | None = None) -> RemoteFriendRequest:
    return RemoteFriendRequest(
        request_id=request_id or f"{name}-{to}",
        from_address=f"{name}@{B}",
        to_address=f"{to}@cats.example",
        status=RequestStatus.PENDING,
        message="meow\0?",
        incoming=True,
        created_at=MICROS,
        updated_at=MICROS,
        user_id=f"user-{to}",
    )


def outgoing(name: str, asker: str = "a", request_id: str | None = None) -> RemoteFriendRequest:
    return RemoteFriendRequest(
        request_id=request_id or f"{asker}-{name}",
        from_address=f"{asker}@cats.example",
        to_address=f"{name}@{B}",
        status=RequestStatus.PENDING,
        message=None,
        incoming=False,
        created_at=MICROS,
        updated_at=MICROS,
        user_id=f"user-{asker}",
    )


async def refusal_of(storage: Storage, request: RemoteFriendRequest) -> FriendRefusal:
    with pytest.raises(FriendRefusedError) as caught:
        await storage.put_remote_request(request)
    return caught.value.refusal


# -- peers -----------------------------------------------------------------------------------------


async def test_peers_are_stored_replaced_and_removed(storage: Storage) -> None:
    assert await storage.peers() == ()
    await storage.put_peer(peer("z.example", status=PeerStatus.BLOCKED))
    await storage.put_peer(peer("B.Example", next_key=key_of("next")), record("put"))

    assert await storage.peers() == (
        peer(
            B,
            endpoint="https://B.Example/federation",
            public_key=key_of("B.Example"),
            next_key=key_of("next"),
        ),
        peer("z.example", status=PeerStatus.BLOCKED),
    )
    await storage.put_peer(peer(status=PeerStatus.PENDING))
    assert await storage.load_peer("B.EXAMPLE") == peer(status=PeerStatus.PENDING)
    assert await storage.load_peer("nowhere") is await storage.load_peer("\ud800") is None

    assert not await storage.remove_peer("nowhere", record("nothing"))
    assert await storage.remove_peer("B.example", record("removed"))
    assert [each.domain for each in await storage.peers()] == ["z.example"]
    assert await storage.operator_record_ids() == {"put", "removed"}


async def test_a_removed_peer_gets_nothing_more_and_what_waits_stays(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.put_peer(peer())
    await storage.note_peer(standing())
    await storage.set_outbox(B, open=True)
    await send(storage, message(f"x@{B}", sender="a"))

    await storage.remove_peer(B)

    [outcome] = await send(storage, message(f"x@{B}", sender="a"))
    assert refused(outcome) == {f"x@{B}": RefusalReason.UNKNOWN_DOMAIN}
    [left] = await storage.outboxes()
    assert (left.open, left.rows) == (False, 1)
    assert await storage.peer_standings() == ()


@pytest.mark.parametrize(
    "wrong", [peer(""), peer("a@b"), peer(public_key=b"x"), peer(next_key=b""), peer(next_key=bytes(31))]
)
async def test_a_peer_that_cannot_be_one_is_refused(storage: Storage, wrong: Peer) -> None:
    with pytest.raises(ValueError, match=r"not a domain|32 bytes"):
        await storage.put_peer(wrong)


def standing(domain: str = B) -> PeerStanding:
    return PeerStanding(
        domain=domain,
        status="unreachable",
        error_count=3,
        last_seen_at=NOW,
        last_error="no route to \0 host ?",
        updated_at=NOW + 5,
    )


async def test_how_peers_are_is_noted(storage: Storage) -> None:
    await storage.note_peer(standing("z.example"))
    await storage.note_peer(attrs.evolve(standing("B.example"), last_error="no route to \0 host \ud800"))
    well = PeerStanding(
        domain="z.example", status="online", error_count=0, last_seen_at=None, last_error=None, updated_at=NOW
    )
    await storage.note_peer(well)

    assert await storage.peer_standings() == (standing(), well)


# -- dead letters ----------------------------------------------------------------------------------


async def sent(storage: Storage, count: int = 3, *, size: int = 4, domain: str = B) -> str:
    """Messages to a peer; the epoch of its outbox."""
    await storage.set_outbox(domain, open=True)
    await send(storage, *[asking(b"ref", f"x@{domain}", payload=bytes(size), sender="a")] * count)
    found = await storage.outbox_page(domain, 0, limit_rows=1, limit_bytes=1, now=NOW)
    assert found is not None
    return found.epoch


async def test_rows_are_buried_once_and_stay_until_they_are_confirmed(storage: Storage) -> None:
    await add_devices(storage, "a")
    epoch = await sent(storage)
    letter = DeadLetter(
        letter_id=f"{epoch}-1",
        domain=B,
        sender="a",
        target=f"x@{B}",
        channel=7,
        frame_type=1,
        payload=bytes(4),
        reason="unknown device",
        report=True,
        reference=b"ref",
        expires_at=LATER,
        failed_at=NOW,
    )
    second = attrs.evolve(letter, letter_id=f"{epoch}-2", reason="blocked")

    assert await storage.bury("B.example", epoch, [(2, "blocked"), (1, "unknown device")], NOW) == (
        letter,
        second,
    )
    assert await storage.bury(B, epoch, [(1, "other"), (9, "none")], NOW + 1) == (letter,)
    assert await storage.bury(B, "0" * 32, [(3, "foreign")], NOW) == ()
    assert await storage.bury("nowhere", epoch, [(3, "foreign")], NOW) == ()
    assert await storage.bury(B, epoch, [], NOW) == ()

    page = await storage.outbox_page(B, 0, limit_rows=9, limit_bytes=999, now=NOW)
    assert page is not None
    assert [row.number for row in page.rows] == [1, 2, 3]
    await send(storage, Confirm(f"@{B}", epoch, 2))
    assert await storage.bury(B, epoch, [(1, "again")], NOW + 2) == (letter,)
    assert await storage.dead_letters(None, 9) == (second, letter)


async def test_letters_are_listed_counted_and_forgotten(storage: Storage) -> None:
    await add_devices(storage, "a")
    here, there = await sent(storage), await sent(storage, domain="d.example")
    await storage.bury(B, here, [(1, "r"), (2, "r")], NOW)
    await storage.bury("d.example", there, [(1, "r")], NOW + 1)
    await storage.bury(B, here, [(3, "r")], NOW + 2)

    ids = [each.letter_id for each in await storage.dead_letters(None, 3)]
    assert ids == [f"{here}-3", f"{there}-1", f"{here}-2"]
    assert [each.domain for each in await storage.dead_letters("D.example", 9)] == ["d.example"]
    assert await storage.dead_letter_counts() == {B: 3, "d.example": 1}
    assert await storage.forget_dead_letters([*ids, "unknown", ids[0]]) == 3
    assert await storage.forget_dead_letters([]) == 0
    assert await storage.dead_letter_counts() == {B: 1}
    await storage.purge_expired(LATER - 1)
    assert await storage.dead_letter_counts() == {B: 1}
    await storage.purge_expired(LATER)
    assert await storage.dead_letter_counts() == {}


async def test_of_a_peer_that_refuses_everything_the_newest_letters_are_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sqlite", "postgres"):
        monkeypatch.setattr(f"commucat_storage.{name}.federation.MAX_DEAD_LETTERS", 3)
        monkeypatch.setattr(f"commucat_storage.{name}.federation.MAX_DEAD_LETTER_BYTES", 250)
    await add_devices(storage, "a")
    epoch = await sent(storage, 5)
    assert len(await storage.bury(B, epoch, [(number, "r") for number in range(1, 6)], NOW)) == 5
    assert [each.letter_id for each in await storage.dead_letters(B, 9)] == [
        f"{epoch}-{n}" for n in (5, 4, 3)
    ]

    await sent(storage, 3, size=100)
    await storage.bury(B, epoch, [(6, "r"), (7, "r"), (8, "r")], NOW + 1)
    assert [each.letter_id for each in await storage.dead_letters(B, 9)] == [f"{epoch}-{n}" for n in (8, 7)]
    await sent(storage, 1, size=1000)
    await storage.bury(B, epoch, [(9, "r")], NOW + 1)
    assert [each.letter_id for each in await storage.dead_letters(B, 9)] == [f"{epoch}-9"]
    assert federation.MAX_DEAD_LETTERS >= 1000


# -- friends of other servers ----------------------------------------------------------------------


async def test_a_request_is_stored_once(storage: Storage) -> None:
    await storage.create_user(user("a"))
    first = incoming("tom")

    assert await storage.put_remote_request(first) == first
    again = attrs.evolve(first, created_at=MICROS + 9, updated_at=MICROS + 9)
    assert await storage.put_remote_request(again) == first
    with pytest.raises(AlreadyExistsError):
        await storage.put_remote_request(attrs.evolve(first, message="other"))
    with pytest.raises(AlreadyExistsError):
        await storage.put_remote_request(attrs.evolve(first, from_address=f"kim@{B}"))
    with pytest.raises(StorageError):
        await storage.put_remote_request(incoming("tom", "nobody"))
    with pytest.raises(ValueError, match="no text"):
        await storage.put_remote_request(attrs.evolve(first, message="\ud800"))
    assert await storage.load_remote_request("tom-a") == first
    assert await storage.load_remote_request("unknown") is await storage.load_remote_request("\ud800") is None

    done = await storage.answer_remote_request("tom-a", accept=True, now=MICROS + 1)
    assert await storage.put_remote_request(first) == done


async def test_requests_are_listed_the_newest_first(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.create_user(user("c"))
    old, new = incoming("old"), attrs.evolve(incoming("new"), updated_at=MICROS + 5)
    mine = attrs.evolve(outgoing("kim"), updated_at=MICROS + 3)
    for request in (old, new, mine, incoming("other", "c"), incoming("done")):
        await storage.put_remote_request(request)
    await storage.answer_remote_request("done-a", accept=False, now=MICROS)
    rejected = await storage.answer_remote_request("a-kim", accept=False, now=MICROS + 4)

    assert await storage.remote_requests("user-a") == (new, rejected, old)
    assert await storage.remote_requests("nobody") == ()


async def test_accepting_makes_a_friend(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.replace_friends("user-a", [Friend(user_id="user-z", alias="Z")])
    await send(storage, message("a", sender=f"x@{B}"))  # the store knows "a" without a friend
    for request in (incoming("tom"), outgoing("kim"), incoming("no")):
        await storage.put_remote_request(request)

    assert await storage.answer_remote_request("tom-a", accept=True, now=MICROS + 1) == attrs.evolve(
        incoming("tom"), status=RequestStatus.ACCEPTED, updated_at=MICROS + 1
    )
    await storage.answer_remote_request("a-kim", accept=True, now=MICROS + 2)
    await storage.answer_remote_request("no-a", accept=False, now=MICROS + 3)

    listed = [Friend(user_id="user-z", alias="Z"), Friend(user_id=f"tom@{B}"), Friend(user_id=f"kim@{B}")]
    assert list(await storage.friends_of("user-a")) == listed
    again = await storage.answer_remote_request("tom-a", accept=True, now=MICROS + 9)
    assert again.updated_at == MICROS + 1
    for request_id, accept, why in (
        ("tom-a", False, FriendRefusal.NOT_PENDING),
        ("no-a", True, FriendRefusal.NOT_PENDING),
        ("unknown", True, FriendRefusal.NO_REQUEST),
    ):
        with pytest.raises(FriendRefusedError) as caught:
            await storage.answer_remote_request(request_id, accept=accept, now=MICROS)
        assert caught.value.refusal is why
    assert list(await storage.friends_of("user-a")) == listed


async def test_a_friend_is_no_stranger_from_the_commit_on(storage: Storage) -> None:
    await add_devices(storage, "a")
    storage.inbox_limits.stranger_rows = 1
    from_tom = attrs.evolve(message("a", sender=f"x@{B}"), on_behalf=f"tom@{B}")
    full = {"a": RefusalReason.QUOTA}
    assert [refused(each) for each in await send(storage, from_tom, from_tom)] == [{}, full]
    await storage.put_remote_request(incoming("tom"))

    await storage.answer_remote_request("tom-a", accept=True, now=MICROS)

    assert [refused(each) for each in await send(storage, from_tom, from_tom)] == [{}, {}]


async def test_a_full_list_takes_no_friend(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.replace_friends("user-a", [Friend(user_id=f"u{n}") for n in range(MAX_FRIENDS)])
    await storage.put_remote_request(incoming("tom"))

    with pytest.raises(FriendRefusedError) as caught:
        await storage.answer_remote_request("tom-a", accept=True, now=MICROS)

    assert caught.value.refusal is FriendRefusal.TOO_MANY_FRIENDS
    assert await storage.load_remote_request("tom-a") == incoming("tom")


async def test_asking_again_begins_anew(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.put_remote_request(outgoing("kim"))
    assert await refusal_of(storage, outgoing("kim", request_id="second")) is FriendRefusal.REQUEST_PENDING
    await storage.answer_remote_request("a-kim", accept=False, now=MICROS)

    second = outgoing("kim", request_id="second")
    assert await storage.put_remote_request(second) == second
    assert await storage.remote_requests("user-a") == (second,)
    # The other server may have forgotten what it asked before.
    await storage.put_remote_request(incoming("tom"))
    anew = incoming("tom", request_id="anew")
    assert await storage.put_remote_request(anew) == anew
    assert await storage.load_remote_request("tom-a") is None


async def test_there_are_only_so_many_requests_that_wait(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.create_user(user("c"))
    for index in range(MAX_PENDING_REQUESTS):
        await storage.put_remote_request(incoming(f"t{index}"))

    assert await refusal_of(storage, incoming("tom")) is FriendRefusal.TOO_MANY_WAITING
    await storage.put_remote_request(incoming("tom", "c"))
    await storage.put_remote_request(outgoing("tom"))
    await storage.put_remote_request(incoming("t3", request_id="in the place of another"))
    await storage.answer_remote_request("t7-a", accept=False, now=MICROS)
    await storage.put_remote_request(incoming("tom"))


async def test_of_equal_requests_at_once_one_is_stored(storage: Storage) -> None:
    await storage.create_user(user("a"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(storage.put_remote_request, incoming("tom"))

    assert await storage.remote_requests("user-a") == (incoming("tom"),)


# -- ids of devices --------------------------------------------------------------------------------


async def test_no_device_here_has_the_id_of_one_of_another_server(storage: Storage) -> None:
    await add_devices(storage, "a")
    for admission in (
        Admission(kind=AdmissionKind.NEW_USER, device=device(f"x@{B}"), user=user(f"x@{B}"), now=NOW),
        Admission(kind=AdmissionKind.BY_HANDLE, device=device(f"@{B}", "a"), device_limit=9, now=NOW),
    ):
        with pytest.raises(AdmissionRefusedError) as caught:
            await storage.admit(admission)
        assert caught.value.refusal is AdmissionRefusal.DEVICE_ELSEWHERE
    assert await storage.load_device(f"x@{B}") is None


async def test_only_a_pending_peer_becomes_active_by_itself(storage: Storage) -> None:
    pending = peer("b.example", status=PeerStatus.PENDING, next_key=key_of("next"))
    await storage.put_peer(pending)
    assert await storage.activate_peer("B.example", NOW + 5)
    assert await storage.load_peer("b.example") == attrs.evolve(
        pending, status=PeerStatus.ACTIVE, updated_at=NOW + 5
    )
    assert not await storage.activate_peer("b.example", NOW + 6)

    blocked = attrs.evolve(pending, status=PeerStatus.BLOCKED)
    await storage.put_peer(blocked)
    assert not await storage.activate_peer("b.example", NOW + 7)
    assert not await storage.activate_peer("nowhere.example", NOW + 7)
    assert await storage.peers() == (blocked,)
