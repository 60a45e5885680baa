"""Files out and in over connections that get lost; a server in memory, and no network."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
from blake3 import blake3

from commucat_cli.client import ReceivedMessage
from commucat_cli.client import attachments as transfers
from commucat_cli.client.attachments import Download, Upload
from commucat_cli.client.friend_notices import friend_notice
from commucat_cli.commands.display import json_line, text_line
from commucat_cli.commands.transfers import Saver
from commucat_cli.errors import CliError, ConnectionLostError, NotCommuCatError, RestError
from commucat_cli.profile import KeptUpload
from commucat_cli.transport import Response
from commucat_proto import Frame, FrameType, json_text
from commucat_proto.attachment import SEALED_PIECE_LEN, AttachmentCipher, AttachmentError, AttachmentNote

ID = "ab" * 32


@attrs.define
class BlobServer:
    """What the server does for one attachment, as far as the client can see."""

    size: int = 0
    blob: bytearray = attrs.Factory(bytearray)
    asked: list[str] = attrs.Factory(list)
    lose_after: int = 10**9
    """So many requests until the connection is lost, once."""
    status: int = 0
    """Answered to everything, if it is set."""

    async def exchange(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        patience: float | None = None,
    ) -> Response:
        self.asked.append(f"{method} {path}")
        fields = dict(headers)
        self.lose_after -= 1
        if self.lose_after == 0:
            if method == "PATCH":
                self.blob += body[: len(body) // 3]  # this much had arrived
            raise ConnectionLostError("lost")
        if self.status:
            return Response(status=self.status, headers={}, body=b"")
        if method == "POST":
            self.size = orjson.loads(body)["size"]
            return self._answer(201, orjson.dumps({"id": ID}))
        assert path.startswith(f"/api/attachments/{ID}")
        if method == "PATCH":
            if int(fields["upload-offset"]) != len(self.blob):
                return self._answer(409)
            self.blob += body
            return self._answer(204)
        if path.endswith("/upload"):
            return self._answer(200, b"{}")
        first, last = fields["range"].removeprefix("bytes=").split("-")
        part = bytes(self.blob[int(first) : int(last) + 1])
        told = f"bytes {first}-{int(first) + len(part) - 1}/{len(self.blob)}"
        return Response(status=206, headers={"content-range": told}, body=part)

    def _answer(self, status: int, body: bytes = b"") -> Response:
        return Response(status=status, headers={"upload-offset": str(len(self.blob))}, body=body)


def content(path: Path) -> bytes:
    return path.read_bytes()


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


async def sent(server: Any, path: Path) -> AttachmentNote:
    upload = await Upload.of_file(path)
    try:
        while True:
            try:
                await upload.run(server, quiet)
                return upload.note
            except ConnectionLostError:
                continue
    finally:
        upload.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cat.bin"
    path.write_bytes(os.urandom(transfers.PIECES_PER_REQUEST * 65_536 * 2 + 5))
    return path


@pytest.mark.parametrize("lost", range(1, 6))
async def test_an_upload_goes_on_wherever_its_connection_was_lost(
    file: Path, tmp_path: Path, lost: int
) -> None:
    server: Any = BlobServer(lose_after=lost)

    note = await sent(server, file)

    assert len(server.blob) == server.size == note.blob_size
    got = await Download(note, tmp_path / "in").run(server, quiet)
    data = content(file)
    assert content(got) == data
    assert (note.name, note.digest) == ("cat.bin", blake3(data).digest())


@pytest.mark.parametrize("lost", range(1, 4))
async def test_a_download_goes_on_wherever_its_connection_was_lost(
    file: Path, tmp_path: Path, lost: int
) -> None:
    server: Any = BlobServer()
    note = await sent(server, file)
    server.lose_after, server.asked = lost, []
    download = Download(note, tmp_path / "in")
    with pytest.raises(ConnectionLostError):
        await download.run(server, quiet)

    path = await download.run(server, quiet)

    assert content(path) == content(file)
    assert len(server.asked) == 4  # each part once, and the one that was lost
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list((tmp_path / "in").iterdir()) == [path]


async def test_a_file_that_changes_while_it_is_sent_is_not_sent_on(file: Path) -> None:
    """Its pieces would be encrypted twice under one key and number, which reveals both."""
    server: Any = BlobServer(lose_after=3)
    upload = await Upload.of_file(file)
    with pytest.raises(ConnectionLostError):
        await upload.run(server, quiet)
    with file.open("r+b") as changing:
        changing.seek(-2, os.SEEK_END)
        changing.write(b"x")

    with pytest.raises(CliError, match="has changed while it was being sent"):
        await upload.run(server, quiet)
    upload.close()


async def test_a_server_without_attachments_or_with_nonsense_is_told(file: Path) -> None:
    for status, kind, text in (
        (404, CliError, "takes no attachments"),
        (200, CliError, "answers /api/attachments with 200"),
        (403, RestError, "403"),
    ):
        server: Any = BlobServer(status=status)
        with pytest.raises(kind, match=text):
            await sent(server, file)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda blob: blob[:-1], AttachmentError),
        (lambda blob: blob + b"x", AttachmentError),
        (lambda blob: blob[SEALED_PIECE_LEN:] + blob[:SEALED_PIECE_LEN], AttachmentError),
        (lambda blob: b"", AttachmentError),
    ],
)
async def test_a_blob_that_is_another_one_leaves_no_file(
    file: Path, tmp_path: Path, change: Any, kind: type[Exception]
) -> None:
    server: Any = BlobServer()
    note = await sent(server, file)
    server.blob = bytearray(change(bytes(server.blob)))
    download = Download(note, tmp_path / "in")

    with pytest.raises(kind):
        await download.run(server, quiet)
    download.close()

    assert list((tmp_path / "in").iterdir()) == []


async def test_a_file_that_is_not_what_its_note_says_is_not_kept(file: Path, tmp_path: Path) -> None:
    server: Any = BlobServer()
    note = attrs.evolve(await sent(server, file), digest=bytes(32))
    download = Download(note, tmp_path / "in")

    with pytest.raises(AttachmentError, match="another file"):
        await download.run(server, quiet)
    download.close()

    assert list((tmp_path / "in").iterdir()) == []


async def test_no_name_leaves_the_folder_or_overwrites(file: Path, tmp_path: Path) -> None:
    server: Any = BlobServer()
    note = await sent(server, file)
    folder = tmp_path / "in"
    (tmp_path / "evil").write_bytes(b"kept")

    for name in ("../evil", "a/../../evil", "evil", "x.tar.gz", "x.tar.gz"):
        path = await Download(attrs.evolve(note, name=name), folder).run(server, quiet)
        assert path.parent == folder

    assert (tmp_path / "evil").read_bytes() == b"kept"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["evil", "evil (2)", "evil (3)", "x.tar (2).gz", "x.tar.gz"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
async def test_what_is_no_file_is_not_sent(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "x")
    with pytest.raises(CliError, match="is no file"):
        await Upload.of_file(tmp_path / "x")
    with pytest.raises(CliError, match="cannot be read"):
        await Upload.of_file(tmp_path / "absent")


async def test_an_upload_that_nobody_can_place_is_an_error_of_the_server(file: Path) -> None:
    class Silent(BlobServer):
        def _answer(self, status: int, body: bytes = b"") -> Response:
            return Response(status=status, headers={"upload-offset": "-1"}, body=body)

    server: Any = Silent()
    with pytest.raises(NotCommuCatError, match="how far"):
        await sent(server, file)


# -- messages ------------------------------------------------------------------------------------------


def message_with(note: AttachmentNote | None, text: str = "hello") -> ReceivedMessage:
    return ReceivedMessage(
        message_id=bytes(16),
        sender="alice",
        channel=1,
        number=1,
        sent_at=0,
        text=text if note is None else note.to_text(),
        attachment=note,
    )


async def test_messages_say_where_their_files_are(file: Path, tmp_path: Path) -> None:
    server: Any = BlobServer()
    note = attrs.evolve(await sent(server, file), name="a\x1b[31m\n.txt")
    saver = Saver(tmp_path / "in")
    saver.connection = server

    plain, saved = await saver.save([message_with(None), message_with(note)])

    assert plain == message_with(None)
    assert saved.saved == tmp_path / "in" / "a_[31m_.txt"
    line = text_line(saved)
    assert "saved as" in line
    assert "\x1b" not in line
    assert note.key.hex() not in line
    assert orjson.loads(json_line(saved))["attachment"]["saved"] == str(saved.saved)
    # Not saved, it must be possible to fetch it later: the message will not come again.
    assert note.key.hex() in text_line(message_with(note))


async def test_a_file_that_cannot_be_had_does_not_hold_up_messages(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server: Any = BlobServer()
    note = await sent(server, file)
    server.blob[5] ^= 1
    saver = Saver(tmp_path / "in")
    saver.connection = server

    [shown] = await saver.save([message_with(note)])

    assert shown.saved is None
    assert "was not saved: a piece of the attachment does not decrypt" in capsys.readouterr().err
    assert list((tmp_path / "in").iterdir()) == []


async def test_a_connection_that_is_lost_midway_saves_no_file_twice(file: Path, tmp_path: Path) -> None:
    """What was not shown comes again, all of it; what of it is on the disk already is not fetched again."""
    server: Any = BlobServer()
    note = await sent(server, file)
    messages = [attrs.evolve(message_with(note), message_id=bytes([number]) * 16) for number in range(3)]
    saver = Saver(tmp_path / "in")
    saver.connection = server
    server.lose_after, server.asked = 5, []  # in the second one: each takes three requests
    with pytest.raises(ConnectionLostError):
        await saver.save(messages)

    shown = await saver.save(messages)

    names = ["cat (2).bin", "cat (3).bin", "cat.bin"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == names
    assert sorted(message.saved.name for message in shown if message.saved is not None) == names
    assert len(server.asked) == 10  # the one that was lost a second time


def event(**value: Any) -> Frame:
    return Frame(FrameType.GROUP_EVENT, 0, 1, json_text.dumps(value))


def test_notices_of_friends_are_told_and_others_cannot_make_them() -> None:
    asked = event(type="friend_request", message="hi", federated=False, **{"from": "bob@localhost"})
    assert friend_notice(asked) == (
        "bob@localhost asks to become a friend (hi); answer with friends accept bob"
    )
    for accept, words in ((True, "has become"), (False, "does not become")):
        answer = event(type="friend_response", accept=accept, **{"from": "bob@localhost"})
        assert friend_notice(answer) == f"bob@localhost {words} a friend"
    forged = event(type="friend_request", group_id="g", event="x", **{"from": "mallory"})
    for frame in (forged, event(type="friend_request"), event(type="x", **{"from": "b"}), event()):
        assert friend_notice(frame) is None


async def test_another_run_goes_on_with_the_same_content_for_the_same_recipient(file: Path) -> None:
    server: Any = BlobServer(lose_after=4)
    begun: list[KeptUpload] = []
    first = await Upload.of_file(file)
    first.on_begun = begun.append
    with pytest.raises(ConnectionLostError):
        await first.run(server, quiet)
    reached = bytes(server.blob)
    assert len(reached) > 0

    second = await Upload.of_file(file)
    assert second.mark("bob") == first.mark("bob") != second.mark("eve")
    second.on_begun = begun.append
    second.resume(begun[0])
    await second.run(server, quiet)

    assert len(begun) == 1
    assert server.blob.startswith(reached)
    cipher = AttachmentCipher(second.note.key, second.note.size)
    whole = bytes(server.blob)
    pieces = [whole[at : at + SEALED_PIECE_LEN] for at in range(0, len(whole), SEALED_PIECE_LEN)]
    assert b"".join(cipher.decrypt(number, piece) for number, piece in enumerate(pieces)) == content(file)
    for upload in (first, second):
        upload.close()


async def test_an_upload_that_the_server_has_not_got_any_more_begins_anew(file: Path) -> None:
    class Forgetful(BlobServer):
        async def exchange(self, method: str, path: str, *rest: Any, **options: Any) -> Response:
            if "gone" in path:
                return Response(status=404, headers={}, body=b"")
            return await super().exchange(method, path, *rest, **options)

    server: Any = Forgetful()
    begun: list[KeptUpload] = []
    upload = await Upload.of_file(file)
    upload.on_begun = begun.append
    upload.resume(KeptUpload(attachment_id="gone", key=b"k" * 32))
    await upload.run(server, quiet)

    assert upload.note.attachment_id == ID
    assert begun == [KeptUpload(attachment_id=ID, key=upload.note.key)]
    assert len(server.blob) == upload.note.blob_size
    upload.close()
