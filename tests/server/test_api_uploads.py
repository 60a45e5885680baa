"""Avatars over the REST interface: what is a picture, what is stored, and what never leaves the folder."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from blake3 import blake3

from commucat_server.blobs import disk
from commucat_server.blobs.avatars import MAX_AVATAR, AvatarFolder, suffix_of
from server.people_builders import Api, running_api

BASE = "https://localhost/uploads"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
GIF = b"GIF89a" + bytes(100)
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
async def api(tmp_path: Path, folder: Path) -> AsyncIterator[Api]:
    async with running_api(
        tmp_path, avatars=lambda server: AvatarFolder(folder, BASE, server.storage)
    ) as api:
        await api.enter("ann", "bob")
        yield api


async def give(api: Api, data: bytes, who: str = "ann", kind: str = "image/png") -> Any:
    return await api.ask("POST", "/api/users/me/avatar", who, body=data, headers={"content-type": kind})


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    ("data", "suffix", "kind"),
    [
        (PNG, "png", "image/png"),
        (JPEG, "jpg", "image/jpeg"),
        (GIF, "gif", "image/gif"),
        (WEBP, "webp", "image/webp"),
    ],
    ids=["png", "jpeg", "gif", "webp"],
)
async def test_a_picture_is_named_after_its_content_and_shown_to_everybody(
    api: Api, folder: Path, data: bytes, suffix: str, kind: str
) -> None:
    name = f"{blake3(data).hexdigest()}.{suffix}"

    # What it is called counts for nothing.
    answer = await give(api, data, kind="IMAGE/PNG; charset=x")

    assert (answer.status, answer.json) == (200, {"avatar_url": f"{BASE}/{name}", "filename": name})
    user = await api.server.storage.load_user(api.user_id("ann"))
    assert user is not None
    assert user.avatar_url == f"{BASE}/{name}"
    shown = await api.ask("GET", f"/uploads/{name}")
    assert (shown.status, shown.body) == (200, data)
    assert shown.headers["content-type"] == kind
    assert shown.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["content-length"] == str(len(data))
    assert (await api.ask("HEAD", f"/uploads/{name}")).status == 200
    assert (folder / name).stat().st_mode & 0o777 == 0o600


async def test_the_file_goes_with_the_last_user_who_has_it(api: Api, folder: Path) -> None:
    await give(api, PNG)
    await give(api, PNG, "bob")
    await give(api, GIF)
    assert len(files_of(folder)) == 3  # two pictures and the lock

    await give(api, GIF, "bob")

    assert files_of(folder) == [disk.LOCK_FILE, f"{blake3(GIF).hexdigest()}.gif"]
    await give(api, GIF, "bob")
    assert len(files_of(folder)) == 2


async def test_who_leaves_while_it_is_stored_leaves_no_picture_behind(
    api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(api, PNG)
    storage, avatars = api.server.storage, AvatarFolder(folder, BASE, api.server.storage)
    stored = storage.set_avatar

    async def set_avatar(user_id: str, address: str) -> str | None:
        unused = await stored(user_id, address)
        leaving.cancel()
        await trio.lowlevel.checkpoint()
        return unused

    monkeypatch.setattr(storage, "set_avatar", set_avatar)
    with trio.CancelScope() as leaving:
        await avatars.give(api.user_id("ann"), GIF, "gif")

    assert files_of(folder) == [disk.LOCK_FILE, f"{blake3(GIF).hexdigest()}.gif"]


async def test_an_avatar_elsewhere_is_left_alone(api: Api, folder: Path) -> None:
    await api.server.storage.set_avatar(api.user_id("ann"), "https://elsewhere.example/../../etc/passwd")

    assert (await give(api, PNG)).status == 200


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b"", "image/png", "invalid image type 'unknown' (allowed: jpeg, png, webp, gif)"),
        (b"<svg/>", "image/svg+xml", "invalid image type 'image/svg+xml' (allowed: jpeg, png, webp, gif)"),
        (PNG, "image/bmp", "invalid image type 'image/bmp' (allowed: jpeg, png, webp, gif)"),
        (b"<html>", "image/png", "invalid image type 'unknown' (allowed: jpeg, png, webp, gif)"),
        (b"RIFF\0\0\0\0WAVE", "image/webp", "invalid image type 'unknown' (allowed: jpeg, png, webp, gif)"),
        (PNG + bytes(MAX_AVATAR), "image/png", "avatar file too large (max 5 MB)"),
    ],
)
async def test_what_is_no_picture_or_too_large_is_refused_and_not_stored(
    api: Api, folder: Path, data: bytes, kind: str, detail: str
) -> None:
    assert (await give(api, data, kind=kind)).refused(400) == detail

    assert files_of(folder) == []


async def test_the_largest_picture_is_taken(api: Api) -> None:
    assert (await give(api, PNG.ljust(MAX_AVATAR, b"x"))).status == 200


async def test_nobody_sets_an_avatar_without_a_session(api: Api) -> None:
    assert (await api.ask("POST", "/api/users/me/avatar", body=PNG)).refused(401)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/uploads/..", 403),
        ("/uploads/../secret", 403),
        ("/uploads/%2e%2e%2fsecret", 403),
        ("/uploads/..%5csecret", 403),
        ("/uploads/a%5cb", 403),
        ("/uploads/sub/0123456789abcdef.png", 403),
        ("/uploads/%00", 404),
        ("/uploads/.lock", 404),
        ("/uploads/0123456789abcdef.png", 404),
        ("/uploads/0123456789abcdef.svg", 404),
        ("/uploads/0123456789ABCDEF.png", 404),
        ("/uploads/0123456789abcdef.png%0a", 404),
        ("/uploads/link0123456789abcdef.png", 404),
        ("/uploads/aaaaaaaaaaaaaaaa.png", 404),
        ("/uploads/bbbbbbbbbbbbbbbb.png", 404),
    ],
)
async def test_nothing_but_stored_pictures_can_be_read(
    api: Api, folder: Path, tmp_path: Path, path: str, status: int
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    await give(api, PNG)
    (folder / "aaaaaaaaaaaaaaaa.png").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "bbbbbbbbbbbbbbbb.png")

    answer = await api.ask("GET", path)

    assert answer.status == status
    assert answer.body in (b"forbidden", b"not found")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_write_that_fails_changes_no_profile_and_leaves_nothing(
    api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("commucat_server.blobs.disk.os.fsync", full)

    answer = await give(api, PNG)

    assert answer.refused(503) == "the picture cannot be stored now; try again later"
    assert files_of(folder) == [disk.LOCK_FILE]
    user = await api.server.storage.load_user(api.user_id("ann"))
    assert user is not None
    assert user.avatar_url is None


async def test_avatars_that_change_at_the_same_time_leave_only_what_is_used(api: Api, folder: Path) -> None:
    pictures = [PNG + bytes([index]) for index in range(4)]

    async with trio.open_nursery() as nursery:
        for index in range(12):
            nursery.start_soon(give, api, pictures[index % 4], ("ann", "bob")[index % 2])

    used = set()
    for handle in ("ann", "bob"):
        user = await api.server.storage.load_user(api.user_id(handle))
        assert user is not None
        assert user.avatar_url is not None
        used.add(user.avatar_url.rpartition("/")[2])
    assert set(files_of(folder)) == used | {disk.LOCK_FILE}


async def test_uploads_that_are_switched_off_do_not_exist(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.enter("ann")
        assert (await give(api, PNG)).status == 404
        assert (await api.ask("GET", "/uploads/0123456789abcdef.png")).status == 404


def test_a_picture_that_is_cut_off_in_its_first_bytes_is_none() -> None:
    for data, length in ((PNG, 8), (JPEG, 3), (GIF, 6), (WEBP, 12)):
        assert suffix_of(data[:length]) is not None
        assert all(suffix_of(data[:cut]) is None for cut in range(length))
