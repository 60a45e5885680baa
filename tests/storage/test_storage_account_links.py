"""Accounts of two servers that belong to one person, and how far their devices have read: every backend."""

import attrs
import pytest

from commucat_storage import (
    LINK_PATIENCE,
    MAX_LINKED_DEVICES,
    MAX_LINKS,
    MAX_OFFERS,
    AccountLink,
    Confirm,
    InboxOffset,
    LinkedOffsets,
    LinkRefusal,
    LinkRefusedError,
    LinkStatus,
    LinkWord,
    OffsetsTaken,
    OffsetsToTell,
    Storage,
    StorageError,
    Submission,
    outbox_of,
)
from commucat_storage.account_links import ACCOUNT_LINK, INBOX_OFFSETS, MAX_LINK_ROWS
from storage.conftest import Backend
from storage.storage_builders import LATER, NOW, add_devices, add_siblings, message, second_device, send

B = "b.example"
ME = "user-a"
MINE = f"alice2@{B}"
MICROS = NOW * 1_000_000
KEEP = NOW + 30 * 86_400


async def hear(
    storage: Storage, word: LinkWord, version: int, account: str = MINE, now: int = MICROS
) -> object:
    heard = await storage.hear_link(ME, account, word, version, now, KEEP)
    return None if heard.link is None else (heard.link.status, heard.answer)


async def linked(storage: Storage, account: str = MINE) -> None:
    await storage.declare_link(ME, account, MICROS)
    heard = await storage.hear_link(ME, account, LinkWord.AGREES, 1, MICROS, KEEP)
    assert heard.link is not None
    assert heard.link.status is LinkStatus.LINKED


async def statuses(storage: Storage, now: int = MICROS) -> dict[str, LinkStatus]:
    return {link.account: link.status for link in await storage.account_links(ME, now)}


def offset(device_id: str, confirmed: int = 2, next_number: int = 5) -> InboxOffset:
    return InboxOffset(
        device_id=device_id,
        epoch="e" * 32,
        next_number=next_number,
        confirmed=confirmed,
        waiting=next_number - 1 - confirmed,
    )


async def told(storage: Storage, each: OffsetsToTell) -> int:
    """Queue it as the server does; its number in the outbox."""
    submission = Submission("", 0, INBOX_OFFSETS, b"{}", LATER, (outbox_of(B),))
    [outcome] = await send(storage, submission)
    [(_, number)] = outcome.accepted  # type: ignore[union-attr]
    await storage.note_told(each, MICROS, number)
    return number


# -- links -----------------------------------------------------------------------------------------


async def test_a_link_holds_when_both_have_declared_it(storage: Storage) -> None:
    await add_devices(storage, "a")

    declared = await storage.declare_link(ME, MINE, MICROS)
    assert declared == AccountLink(
        user_id=ME,
        account=MINE,
        declared=True,
        heard=False,
        own_version=MICROS,
        created_at=NOW,
        expires_at=NOW + LINK_PATIENCE,
    )
    assert await statuses(storage) == {MINE: LinkStatus.DECLARED}
    assert await hear(storage, LinkWord.AGREES, 7) == (LinkStatus.LINKED, None)
    [link] = await storage.account_links(ME, MICROS)
    assert (link.expires_at, link.heard_version) == (None, 7)
    assert await storage.account_links("user-nobody", MICROS) == ()


async def test_an_offer_alone_links_nothing(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=True)

    assert await hear(storage, LinkWord.ASKS, 7) == (LinkStatus.OFFERED, None)
    assert await storage.offsets_to_tell(10) == ()
    assert await storage.take_offsets(ME, MINE, 8, [offset("x")]) is OffsetsTaken.NOT_LINKED
    assert (await storage.declare_link(ME, MINE, MICROS)).status is LinkStatus.LINKED


async def test_who_is_believed_to_have_declared_it_and_has_not_says_so(storage: Storage) -> None:
    await add_devices(storage, "a")
    # The declaration here has expired: nobody is linked whom nobody asked in a week.
    await storage.declare_link(ME, MINE, MICROS)
    much_later = MICROS + LINK_PATIENCE * 1_000_000

    answer = await hear(storage, LinkWord.AGREES, 7, now=much_later)

    assert answer == (LinkStatus.ENDED, LinkWord.ENDS)
    assert await hear(storage, LinkWord.AGREES, 7, account=f"other@{B}") == (LinkStatus.ENDED, LinkWord.ENDS)
    assert await statuses(storage) == {}


async def test_a_link_that_does_not_hold_is_denied_under_a_newer_version(storage: Storage) -> None:
    await add_devices(storage, "a")
    assert await storage.deny_link(ME, MINE, MICROS, KEEP) == MICROS
    declared = await storage.declare_link(ME, MINE, MICROS)
    assert await storage.deny_link(ME, MINE, MICROS, KEEP) is None
    ended = await storage.end_link(ME, MINE, MICROS, KEEP)
    assert ended is not None
    first = await storage.deny_link(ME, MINE, MICROS, KEEP)
    second = await storage.deny_link(ME, MINE, MICROS, KEEP)
    assert first is not None
    assert second is not None
    assert declared.own_version < ended.own_version < first < second
    # An offer that the other side takes for a link is ended as well.
    assert await hear(storage, LinkWord.ASKS, 7) == (LinkStatus.OFFERED, None)
    assert await storage.deny_link(ME, MINE, MICROS, KEEP) == second + 1
    assert await statuses(storage) == {}


async def test_both_may_declare_it_at_once(storage: Storage) -> None:
    await add_devices(storage, "a")
    first = await storage.declare_link(ME, MINE, MICROS)

    heard = await storage.hear_link(ME, MINE, LinkWord.ASKS, 7, MICROS, KEEP)

    assert heard.link is not None
    assert (heard.link.status, heard.answer) == (LinkStatus.LINKED, LinkWord.AGREES)
    assert heard.link.own_version > first.own_version
    assert await hear(storage, LinkWord.AGREES, 8) == (LinkStatus.LINKED, None)


@pytest.mark.parametrize("by_us", [True, False])
async def test_either_side_ends_it_with_what_was_told(storage: Storage, by_us: bool) -> None:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=True)
    await linked(storage)
    assert await storage.take_offsets(ME, MINE, 8, [offset("x")]) is OffsetsTaken.TAKEN
    before = (await storage.account_links(ME, MICROS))[0].own_version

    if by_us:
        ended = await storage.end_link(ME, MINE, MICROS, KEEP)
        assert ended is not None
        assert ended.own_version > before
        assert await storage.end_link(ME, MINE, MICROS, KEEP) is None
    else:
        assert await hear(storage, LinkWord.ENDS, 9) == (LinkStatus.ENDED, None)

    assert await statuses(storage) == {}
    assert await storage.linked_offsets(ME) == ()
    assert await storage.offsets_to_tell(10) == ()
    assert await storage.take_offsets(ME, MINE, 10, [offset("x")]) is OffsetsTaken.NOT_LINKED
    # One of the two alone does not bring it back.
    assert (await storage.declare_link(ME, MINE, MICROS)).status is LinkStatus.DECLARED


async def test_old_words_count_for_nothing(storage: Storage) -> None:
    await add_devices(storage, "a")
    await linked(storage)
    assert await hear(storage, LinkWord.ENDS, 20) == (LinkStatus.ENDED, None)

    assert await hear(storage, LinkWord.ASKS, 19) is None
    assert await hear(storage, LinkWord.ASKS, 20) is None
    assert await hear(storage, LinkWord.ENDS, 3, account=f"nobody@{B}") is None
    assert await statuses(storage) == {}
    assert await hear(storage, LinkWord.ASKS, 21) == (LinkStatus.OFFERED, None)


async def test_versions_rise_when_the_clock_is_set_back(storage: Storage) -> None:
    await add_devices(storage, "a")
    first = await storage.declare_link(ME, MINE, MICROS)
    ended = await storage.end_link(ME, MINE, MICROS - 3600 * 1_000_000, KEEP)
    again = await storage.declare_link(ME, MINE, MICROS - 7200 * 1_000_000)

    assert ended is not None
    assert first.own_version < ended.own_version < again.own_version


async def test_there_are_only_so_many(storage: Storage) -> None:
    await add_devices(storage, "a")
    for number in range(MAX_LINKS):
        await storage.declare_link(ME, f"mine{number}@{B}", MICROS)
    for number in range(MAX_OFFERS):
        await hear(storage, LinkWord.ASKS, 1, account=f"offered{number}@{B}")

    with pytest.raises(LinkRefusedError) as declared:
        await storage.declare_link(ME, MINE, MICROS)
    with pytest.raises(LinkRefusedError) as offered:
        await hear(storage, LinkWord.ASKS, 1)

    assert declared.value.refusal is LinkRefusal.TOO_MANY_LINKS
    assert offered.value.refusal is LinkRefusal.TOO_MANY_OFFERS
    assert len(await storage.account_links(ME, MICROS)) == MAX_LINKS + MAX_OFFERS
    # Those that are there can be declared again; those that have expired make room.
    await storage.declare_link(ME, f"mine0@{B}", MICROS)
    later = MICROS + (LINK_PATIENCE + 1) * 1_000_000
    assert (await storage.declare_link(ME, MINE, later)).status is LinkStatus.DECLARED


async def test_what_has_ended_is_bounded_too(storage: Storage) -> None:
    await add_devices(storage, "a")
    for number in range(MAX_LINK_ROWS):
        await hear(storage, LinkWord.ASKS, 1, account=f"spam{number}@{B}")
        await hear(storage, LinkWord.ENDS, 2, account=f"spam{number}@{B}")

    with pytest.raises(LinkRefusedError):
        await hear(storage, LinkWord.ASKS, 1)
    await storage.purge_expired(KEEP)
    assert await hear(storage, LinkWord.ASKS, 1) == (LinkStatus.OFFERED, None)


async def test_declarations_that_nobody_answers_are_forgotten(storage: Storage, backend: Backend) -> None:
    await add_devices(storage, "a")
    await storage.declare_link(ME, MINE, MICROS)
    await linked(storage, f"held@{B}")

    await storage.purge_expired(NOW + LINK_PATIENCE)

    assert await statuses(storage) == {f"held@{B}": LinkStatus.LINKED}
    assert backend.numbers("SELECT count(*) FROM account_link") == [(1,)]


async def test_links_are_of_users(storage: Storage) -> None:
    with pytest.raises(StorageError):
        await storage.declare_link("user-nobody", MINE, MICROS)
    with pytest.raises(StorageError):
        await storage.hear_link("user-nobody", MINE, LinkWord.ASKS, 1, MICROS, KEEP)


# -- what is told ----------------------------------------------------------------------------------


async def test_what_has_changed_is_told_once(storage: Storage) -> None:
    states = await add_devices(storage, "a", "s")
    await add_siblings(storage, "a", "a2")
    await storage.set_outbox(B, open=True)
    await linked(storage)

    [first] = await storage.offsets_to_tell(10)
    assert (first.user_id, first.handle, first.account, first.version) == (ME, "a", MINE, 0)
    assert first.offsets == await storage.inbox_offsets(ME)
    assert [each.device_id for each in first.offsets] == ["a", "a2"]
    number = await told(storage, first)
    # It waits; what changes meanwhile waits behind it, and does not fill the outbox.
    await send(storage, message("a", sender="s"), message("a", sender="s"))
    assert await storage.offsets_to_tell(10) == ()

    await send(storage, Confirm(outbox_of(B), await epoch_of_outbox(storage), number))
    [second] = await storage.offsets_to_tell(10)
    assert second.version == MICROS
    assert second.offsets[0] == InboxOffset(
        device_id="a", epoch=states["a"].epoch, next_number=3, confirmed=0, waiting=2
    )
    number = await told(storage, second)
    await send(storage, Confirm(outbox_of(B), await epoch_of_outbox(storage), number))
    assert await storage.offsets_to_tell(10) == ()

    await send(storage, Confirm("a", states["a"].epoch, 1))
    [third] = await storage.offsets_to_tell(10)
    assert attrs.astuple(third.offsets[0])[2:] == (3, 1, 1)


async def epoch_of_outbox(storage: Storage) -> str:
    page = await storage.outbox_page(B, 0, limit_rows=1, limit_bytes=1, now=NOW)
    assert page is not None
    return page.epoch


async def test_nothing_is_told_to_a_closed_outbox(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=False)
    await linked(storage)
    assert await storage.offsets_to_tell(10) == ()
    await storage.set_outbox(B, open=True)
    assert len(await storage.offsets_to_tell(10)) == 1


async def test_offsets_that_expired_in_the_outbox_are_told_again(storage: Storage) -> None:
    await add_devices(storage, "a", "s")
    await storage.set_outbox(B, open=True)
    await linked(storage)
    [first] = await storage.offsets_to_tell(10)
    await told(storage, first)
    await send(storage, message("a", sender="s", expires_at=LATER + 60))

    await storage.purge_expired(LATER)

    [again] = await storage.offsets_to_tell(10)
    assert again.offsets[0].waiting == 1


async def test_a_revoked_device_is_not_told_of(storage: Storage) -> None:
    await add_devices(storage, "a")
    await add_siblings(storage, "a", "a2")
    await storage.set_outbox(B, open=True)
    await linked(storage)
    [first] = await storage.offsets_to_tell(10)
    number = await told(storage, first)
    await send(storage, Confirm(outbox_of(B), await epoch_of_outbox(storage), number))

    await storage.revoke_device("a2", NOW)

    [after] = await storage.offsets_to_tell(10)
    assert [each.device_id for each in after.offsets] == ["a"]
    assert after.offsets == await storage.inbox_offsets(ME)


async def test_so_many_devices_are_told_of(storage: Storage) -> None:
    await add_devices(storage, "a")
    for number in range(MAX_LINKED_DEVICES):
        await storage.admit(attrs.evolve(second_device(f"b{number:03}", "a"), device_limit=1_000))
    await storage.set_outbox(B, open=True)
    await linked(storage)

    [found] = await storage.offsets_to_tell(10)

    assert [found.offsets[0].device_id, found.offsets[-1].device_id] == ["a", "b126"]
    assert len(found.offsets) == MAX_LINKED_DEVICES


async def test_those_wait_longest_come_first(storage: Storage) -> None:
    await add_devices(storage, "a", "s")
    await storage.set_outbox(B, open=True)
    others = [f"one@{B}", f"two@{B}"]
    for account in others:
        await linked(storage, account)
    first, second = await storage.offsets_to_tell(10)
    await storage.note_told(second, MICROS, 1_000)
    await storage.note_told(first, MICROS + 1, 1_001)
    await send(storage, message("a", sender="s"))

    assert [each.account for each in await storage.offsets_to_tell(10)] == [second.account, first.account]
    assert len(await storage.offsets_to_tell(1)) == 1


async def test_what_was_told_of_a_link_that_has_ended_is_forgotten(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=True)
    await linked(storage)
    [first] = await storage.offsets_to_tell(10)
    await storage.end_link(ME, MINE, MICROS, KEEP)

    await storage.note_told(first, MICROS, 1_000)

    await storage.declare_link(ME, MINE, MICROS)
    assert await hear(storage, LinkWord.AGREES, 7) == (LinkStatus.LINKED, None)
    assert await storage.offsets_to_tell(10) == (first,)


# -- what is taken ---------------------------------------------------------------------------------


async def test_offsets_are_replaced_by_newer_ones_only(storage: Storage) -> None:
    await add_devices(storage, "a")
    await linked(storage)
    assert await storage.linked_offsets(ME) == ()

    assert await storage.take_offsets(ME, MINE, 8, [offset("x"), offset("y")]) is OffsetsTaken.TAKEN
    assert await storage.take_offsets(ME, MINE, 8, [offset("x", 4)]) is OffsetsTaken.OLD
    assert await storage.take_offsets(ME, MINE, 7, []) is OffsetsTaken.OLD
    assert await storage.linked_offsets(ME) == (
        LinkedOffsets(account=MINE, version=8, offsets=(offset("x"), offset("y"))),
    )
    # A device that is not named any more is gone.
    assert await storage.take_offsets(ME, MINE, 9, [offset("y", 4)]) is OffsetsTaken.TAKEN
    assert await storage.linked_offsets(ME) == (
        LinkedOffsets(account=MINE, version=9, offsets=(offset("y", 4),)),
    )
    assert await storage.take_offsets(ME, MINE, 10, []) is OffsetsTaken.TAKEN
    assert await storage.linked_offsets(ME) == (LinkedOffsets(account=MINE, version=10, offsets=()),)
    assert await storage.take_offsets("user-nobody", MINE, 10, []) is OffsetsTaken.NOT_LINKED


async def test_old_offsets_do_not_come_back_with_a_new_link(storage: Storage) -> None:
    await add_devices(storage, "a")
    await linked(storage)
    await storage.take_offsets(ME, MINE, 8, [offset("x")])
    await storage.end_link(ME, MINE, MICROS, KEEP)
    await storage.declare_link(ME, MINE, MICROS)
    assert await hear(storage, LinkWord.AGREES, 9) == (LinkStatus.LINKED, None)

    assert await storage.take_offsets(ME, MINE, 8, [offset("x")]) is OffsetsTaken.OLD
    assert await storage.take_offsets(ME, MINE, 9, [offset("x")]) is OffsetsTaken.TAKEN


async def test_rows_of_these_types_are_taken_by_the_outbox_only(storage: Storage) -> None:
    await add_devices(storage, "a")
    await storage.set_outbox(B, open=True)
    await send(storage, Submission("", 0, ACCOUNT_LINK, b"{}", LATER, (outbox_of(B),)))
    page = await storage.outbox_page(B, 0, limit_rows=9, limit_bytes=9999, now=NOW)
    assert page is not None
    assert [row.frame_type for row in page.rows] == [ACCOUNT_LINK]
