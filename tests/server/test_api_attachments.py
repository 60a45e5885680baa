"""Attachments over the REST interface: resumed, bounded, and readable for whoever knows the id."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_server.api.ranges import UnsatisfiableRangeError, wanted_range
from commucat_server.blobs import attachments as blobs
from commucat_server.blobs.attachments import AttachmentFolder, AttachmentLimits, hash_of
from server.connect_builders import NOW
from server.people_builders import Answer, Api, running_api

LIMITS = AttachmentLimits(max_bytes=2**20, user_bytes=2**20 + 2**19, lifetime=1000, upload_lifetime=100)
DATA = bytes(range(256)) * 40


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Stage:
    """The application, its folder of attachments, and the time."""

    api: Api
    folder: AttachmentFolder
    path: Path
    clock: Clock

    async def begin(self, size: int, who: str = "ann") -> str:
        answer = await self.api.ask("POST", "/api/attachments", who, json={"size": size})
        assert answer.status == 201, answer.body
        return str(answer.json["id"])

    async def append(self, name: str, offset: object, data: Any, who: str = "ann", **more: Any) -> Answer:
        headers = {"upload-offset": str(offset)}
        return await self.api.ask(
            "PATCH", f"/api/attachments/{name}/upload", who, body=data, headers=headers, **more
        )

    async def stored(self, data: bytes = DATA) -> str:
        name = await self.begin(len(data))
        assert (await self.append(name, 0, data)).status == 204
        return name

    async def offset(self, name: str) -> int:
        answer = await self.api.ask("GET", f"/api/attachments/{name}/upload", "ann")
        assert answer.headers["upload-offset"] == str(answer.json["offset"])
        return int(answer.json["offset"])

    async def download(self, name: str, **headers: str) -> Answer:
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.api.ask("GET", f"/api/attachments/{name}", headers=fields)

    def files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if path.is_file()]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock, path = Clock(), tmp_path / "attachments"
    folders: list[AttachmentFolder] = []

    def make(server: Any) -> AttachmentFolder:
        folders.append(AttachmentFolder(path, LIMITS, server.storage, clock))
        return folders[0]

    async with running_api(tmp_path, attachments=make) as api:
        await api.enter("ann", "bob")
        yield Stage(api, folders[0], path, clock)


async def test_an_upload_in_pieces_is_downloaded_by_everybody_who_knows_the_id(stage: Stage) -> None:
    begun = await stage.api.ask("POST", "/api/attachments", "ann", json={"size": len(DATA)})
    name = begun.json["id"]
    assert begun.json == {
        "id": name,
        "size": len(DATA),
        "offset": 0,
        "complete": False,
        "expires_at": "2027-01-15T08:01:40+00:00",
        "max_request_bytes": 8 * 2**20,
    }
    assert begun.headers["location"] == f"/api/attachments/{name}/upload"
    assert len(name) == 64

    first = await stage.append(name, 0, [DATA[:10], b"", DATA[10:1000]])
    assert (first.status, first.headers["upload-offset"], first.body) == (204, "1000", b"")
    assert (await stage.download(name)).refused(404) == "attachment not found"
    assert (await stage.append(name, 1000, DATA[1000:])).status == 204

    standing = await stage.api.ask("HEAD", f"/api/attachments/{name}/upload", "ann")
    assert (standing.headers["upload-offset"], standing.headers["upload-length"]) == (str(len(DATA)),) * 2
    got = await stage.download(name)
    assert (got.status, got.body) == (200, DATA)
    assert got.headers["content-length"] == str(len(DATA))
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["cache-control"] == "private, no-store"
    # Neither the disk nor the store tells the id.
    [file] = stage.files()
    assert file.name == hash_of(name)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_what_came_before_the_client_left_is_kept_and_the_rest_follows(stage: Stage) -> None:
    name = await stage.begin(len(DATA))

    await stage.append(name, 0, [DATA[:300], DATA[300:777]], leaves=True)

    assert await stage.offset(name) == 777
    assert (await stage.append(name, 777, DATA[777:])).status == 204
    assert (await stage.download(name)).body == DATA


async def test_bytes_that_never_counted_are_written_anew(stage: Stage) -> None:
    """A killed server leaves them: they were written, and nobody was told."""
    name = await stage.begin(len(DATA))
    await stage.append(name, 0, DATA[:100])
    [file] = stage.files()
    with file.open("ab") as broken:
        broken.write(b"rubbish" * 100)

    assert await stage.offset(name) == 100
    assert (await stage.append(name, 100, DATA[100:])).status == 204
    assert (await stage.download(name)).body == DATA


async def test_a_piece_elsewhere_is_refused_with_the_place_where_it_stands(stage: Stage) -> None:
    name = await stage.begin(len(DATA))
    await stage.append(name, 0, DATA[:100])

    for offset in (0, 99, 101, 2**60):
        refused = await stage.append(name, offset, b"x")
        assert refused.refused(409) == "the next byte is 100"
        assert refused.headers["upload-offset"] == "100"
    for offset in ("", "-1", "1.0", "x", "\u0661", "9" * 20):
        assert (await stage.append(name, offset, b"x")).refused(400) == "Upload-Offset must be a number"
    assert await stage.offset(name) == 100


async def test_more_bytes_than_announced_do_not_count_at_all(stage: Stage) -> None:
    name = await stage.begin(100)
    await stage.append(name, 0, DATA[:40])

    too_many = await stage.append(name, 40, [DATA[:60], b"x"])

    assert too_many.refused(400) == "more bytes than announced (100)"
    assert await stage.offset(name) == 40
    assert (await stage.append(name, 40, DATA[40:100])).status == 204
    assert (await stage.append(name, 100, b"x")).refused(400)
    assert (await stage.append(name, 100, b"")).status == 204
    assert (await stage.download(name)).body == DATA[:100]


@pytest.mark.parametrize("size", [None, 0, -1, 1.5, "7", True, [], 2**63])
async def test_a_size_that_is_none_is_refused(stage: Stage, size: Any) -> None:
    answer = await stage.api.ask("POST", "/api/attachments", "ann", json={"size": size})

    assert answer.refused(400) in (
        "size must be a whole number of bytes, at least 1",
        f"attachment too large (max {LIMITS.max_bytes} bytes)",
    )


async def test_sizes_are_bounded_for_one_and_for_all_of_a_user(stage: Stage) -> None:
    large = await stage.api.ask("POST", "/api/attachments", "ann", json={"size": LIMITS.max_bytes + 1})
    assert large.refused(400) == f"attachment too large (max {LIMITS.max_bytes} bytes)"
    first = await stage.begin(LIMITS.max_bytes)

    over = await stage.api.ask("POST", "/api/attachments", "ann", json={"size": 2**19 + 1})

    assert over.refused(403) == f"attachment quota exceeded (max {LIMITS.user_bytes} bytes of a user)"
    await stage.begin(2**20, "bob")
    assert (await stage.api.ask("DELETE", f"/api/attachments/{first}", "ann")).status == 204
    await stage.begin(2**19 + 1)


async def test_a_disk_without_room_takes_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "RESERVE", 2**62)

    answer = await stage.api.ask("POST", "/api/attachments", "ann", json={"size": 1})

    assert answer.refused(503) == "the disk has no room for that now; try again later"


async def test_a_disk_that_fills_up_is_told_and_what_was_stored_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await stage.begin(len(DATA))
    await stage.append(name, 0, DATA[:100])
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "WRITE_LEN", 10)

        def full(handle: int, data: bytes, position: int) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr("commucat_server.blobs.attachments.os.pwrite", full)
        assert (await stage.append(name, 100, DATA[100:])).refused(503)

    assert await stage.offset(name) == 100
    assert (await stage.append(name, 100, DATA[100:])).status == 204


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_only_its_owner_touches_an_upload(stage: Stage, method: str) -> None:
    name = await stage.stored()
    path = f"/api/attachments/{name}" + ("" if method == "DELETE" else "/upload")

    assert (await stage.api.ask(method, path, "bob")).refused(404) == "attachment not found"
    assert (await stage.api.ask(method, path)).refused(401)
    missing = path.replace(name, "0" * 64)
    assert (await stage.api.ask(method, missing, "ann")).refused(404) == "attachment not found"
    assert (await stage.download(name)).status == 200


@pytest.mark.parametrize("name", ["0" * 64, "..", "%2e%2e", "x%00", "a" * 3000, "%ff"])
async def test_an_id_that_is_none_finds_nothing(stage: Stage, name: str) -> None:
    await stage.stored()

    assert (await stage.download(name)).status == 404


async def test_the_hash_of_an_id_is_no_id(stage: Stage) -> None:
    name = await stage.stored()

    assert (await stage.download(hash_of(name))).status == 404


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-", 5, None), ("bytes=-3", -3, None), ("bytes=10-99999999", 10, None)],
)
async def test_a_range_is_given_for_a_download_that_goes_on(
    stage: Stage, header: str, start: int, end: int | None
) -> None:
    name = await stage.stored()

    got = await stage.download(name, range=header)

    assert (got.status, got.body) == (206, DATA[start:end])
    first = start % len(DATA)
    assert got.headers["content-range"] == f"bytes {first}-{first + len(got.body) - 1}/{len(DATA)}"
    assert got.headers["content-length"] == str(len(got.body))
    assert (await stage.download(name, range=header, if_range='"other"')).status == 200
    assert (await stage.download(name, range=header, if_range=got.headers["etag"])).status == 206


async def test_a_range_behind_the_end_is_refused(stage: Stage) -> None:
    name = await stage.stored()

    got = await stage.download(name, range=f"bytes={len(DATA)}-")

    assert got.refused(416) is None
    assert got.headers["content-range"] == f"bytes */{len(DATA)}"


def test_what_is_no_single_range_asks_for_everything() -> None:
    for header in (None, "", "bytes=-", "bytes=1-0", "bytes=0-1,3-4", "lines=0-1", "bytes=x", "bytes=1"):
        assert wanted_range(header, 10) is None
    for header in ("bytes=-0", "bytes=10-", "bytes=10-11"):
        with pytest.raises(UnsatisfiableRangeError):
            wanted_range(header, 10)
    assert wanted_range("bytes=-99", 10) == (0, 10)


async def test_the_head_of_a_download_reads_no_file(stage: Stage) -> None:
    name = await stage.stored()

    head = await stage.api.ask("HEAD", f"/api/attachments/{name}")

    assert head.headers["content-length"] == str(len(DATA))


async def test_uploads_without_progress_and_old_attachments_go_with_their_files(stage: Stage) -> None:
    done, abandoned = await stage.stored(), await stage.begin(50)
    await stage.append(abandoned, 0, b"x")
    stage.clock.now += LIMITS.upload_lifetime / 2
    await stage.append(abandoned, 1, b"x")
    stage.clock.now += LIMITS.upload_lifetime - 1
    assert await stage.offset(abandoned) == 2  # progress gave it time
    assert await stage.folder.purge() == 0
    stage.clock.now += 2

    # Gone before the purge comes round.
    assert (await stage.append(abandoned, 2, b"x")).refused(404)
    assert await stage.folder.purge() == 1

    assert [file.name for file in stage.files()] == [hash_of(done)]
    stage.clock.now += LIMITS.lifetime
    assert (await stage.download(done)).refused(404)
    assert await stage.folder.purge() == 1
    assert stage.files() == []
    assert await stage.api.server.storage.load_attachment(hash_of(done)) is None


async def test_a_file_that_is_lost_is_no_error_of_the_server(stage: Stage) -> None:
    name, half = await stage.stored(), await stage.begin(50)
    await stage.append(half, 0, b"x")
    for file in stage.files():
        file.unlink()

    assert (await stage.download(name)).refused(404)
    assert (await stage.append(half, 1, b"x")).refused(503)
    assert (await stage.api.ask("DELETE", f"/api/attachments/{name}", "ann")).status == 204


async def test_a_link_in_the_place_of_a_file_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    name = await stage.stored()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(len(DATA)))
    [file] = stage.files()
    file.unlink()
    file.symlink_to(secret)

    assert (await stage.download(name)).refused(404)


async def test_a_newer_piece_ends_one_whose_connection_died_unnoticed(stage: Stage) -> None:
    name = await stage.begin(len(DATA))
    found = await stage.folder.find(name)
    assert found is not None
    waiting = trio.Event()

    async def silent() -> bytes:
        if not waiting.is_set():
            waiting.set()
            return DATA[:500]
        await trio.sleep_forever()
        raise AssertionError

    async def old() -> None:
        with pytest.raises(blobs.WrongOffsetError) as caught:
            await stage.folder.append(found, 0, silent)
        assert caught.value.received == 500

    async with trio.open_nursery() as nursery:
        nursery.start_soon(old)
        await waiting.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (await stage.append(name, 0, DATA)).refused(409) == "the next byte is 500"

    assert (await stage.append(name, 500, DATA[500:])).status == 204
    assert (await stage.download(name)).body == DATA


async def test_cancelled_at_any_moment_nothing_stays_open_and_what_came_counts(stage: Stage) -> None:
    name = await stage.begin(len(DATA))
    found = await stage.folder.find(name)
    assert found is not None
    before = len(os.listdir("/proc/self/fd"))

    async def silent() -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    with trio.move_on_after(0.05) as scope:
        await stage.folder.append(found, 0, silent)

    assert scope.cancelled_caught
    assert len(os.listdir("/proc/self/fd")) == before
    assert (await stage.append(name, 0, DATA)).status == 204


async def test_attachments_that_are_switched_off_do_not_exist(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.enter("ann")
        assert (await api.ask("POST", "/api/attachments", "ann", json={"size": 1})).status == 404


async def test_an_upload_that_ends_when_its_time_is_over_is_not_said_to_be_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is about to be deleted, and who was told that it is complete would name it in a message."""
    name = await stage.begin(len(DATA))
    assert (await stage.append(name, 0, DATA[:100])).status == 204
    advance = stage.folder._storage.advance_attachment

    async def while_it_is_purged(*args: Any, **more: Any) -> bool:
        stage.clock.now += LIMITS.upload_lifetime + 1
        nursery.start_soon(stage.folder.purge)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return await advance(*args, **more | {"now": int(stage.clock.now)})

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(stage.folder._storage, "advance_attachment", while_it_is_purged)
        answer = await stage.append(name, 100, DATA[100:])

    assert answer.status == 409
    assert (await stage.download(name)).status == 404
    assert stage.files() == []
