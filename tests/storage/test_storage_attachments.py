"""What a store keeps of attachments. For every backend."""

import attrs
import pytest
import trio

from commucat_storage import AlreadyExistsError, Attachment, AttachmentQuotaError, Storage, StorageError
from storage.storage_builders import LATER, NOW, user

GIB = 2**30


def attachment(name: str, size: int = 10, owner: str = "a", expires_at: int = LATER) -> Attachment:
    return Attachment(
        id_hash=name.ljust(64, "0"), user_id=f"user-{owner}", size=size, created_at=NOW, expires_at=expires_at
    )


async def test_an_attachment_advances_only_from_where_it_stands(storage: Storage) -> None:
    await storage.create_user(user("a"))
    begun = attachment("a1", 3 * GIB)
    await storage.add_attachment(begun, quota=4 * GIB)
    assert await storage.load_attachment(begun.id_hash) == begun
    assert not begun.complete

    assert await storage.advance_attachment(begun.id_hash, before=0, received=7, expires_at=LATER, now=NOW)
    assert not await storage.advance_attachment(
        begun.id_hash, before=0, received=9, expires_at=LATER, now=NOW
    )
    assert not await storage.advance_attachment("x" * 64, before=0, received=9, expires_at=LATER, now=NOW)
    assert await storage.advance_attachment(
        begun.id_hash, before=7, received=3 * GIB, expires_at=LATER + 1, now=NOW
    )

    found = await storage.load_attachment(begun.id_hash)
    assert found == attrs.evolve(begun, received=3 * GIB, expires_at=LATER + 1)
    assert found.complete
    assert await storage.load_attachment("x" * 64) is None


async def test_the_quota_counts_what_is_announced_for_each_user(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.create_user(user("b"))
    await storage.add_attachment(attachment("a1", 60), quota=100)

    with pytest.raises(AttachmentQuotaError):
        await storage.add_attachment(attachment("a2", 41), quota=100)
    await storage.add_attachment(attachment("b1", 100, "b"), quota=100)
    await storage.add_attachment(attachment("a3", 40), quota=100)
    assert await storage.delete_attachment(attachment("a1").id_hash)
    assert not await storage.delete_attachment(attachment("a1").id_hash)
    await storage.add_attachment(attachment("a2", 41), quota=100)


async def test_uploads_that_begin_together_share_the_quota(storage: Storage) -> None:
    await storage.create_user(user("a"))
    refused: list[str] = []

    async def begin(name: str) -> None:
        try:
            await storage.add_attachment(attachment(name, 30), quota=100)
        except AttachmentQuotaError:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        for index in range(8):
            nursery.start_soon(begin, f"a{index}")

    assert len(refused) == 5


async def test_a_hash_that_is_taken_or_a_user_that_is_not_there_is_refused(storage: Storage) -> None:
    await storage.create_user(user("a"))
    await storage.add_attachment(attachment("a1"), quota=100)

    with pytest.raises(AlreadyExistsError):
        await storage.add_attachment(attachment("a1"), quota=100)
    with pytest.raises(StorageError):
        await storage.add_attachment(attachment("x1", owner="nobody"), quota=100)


async def test_those_whose_time_is_over_are_found_the_oldest_first(storage: Storage) -> None:
    await storage.create_user(user("a"))
    for index in (3, 1, 2):
        await storage.add_attachment(attachment(f"a{index}", expires_at=NOW + index), quota=100)

    found = await storage.expired_attachments(NOW + 2, 10)

    assert [each.expires_at for each in found] == [NOW + 1, NOW + 2]
    assert await storage.expired_attachments(NOW + 2, 1) == found[:1]
    assert await storage.expired_attachments(NOW, 10) == ()


async def test_an_attachment_whose_time_is_over_advances_no_more(storage: Storage) -> None:
    await storage.create_user(user("a"))
    begun = attachment("a1")
    await storage.add_attachment(begun, quota=GIB)
    where = begun.id_hash
    assert not await storage.advance_attachment(where, before=0, received=9, expires_at=LATER + 9, now=LATER)
    assert await storage.load_attachment(where) == begun
    assert await storage.advance_attachment(where, before=0, received=9, expires_at=LATER + 9, now=LATER - 1)
