"""Files out and in, for `send --file` and `listen --save`, with a bar on a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from commucat_cli.client import Connection, PeerDirectory, ReceivedMessage, keep_connected
from commucat_cli.client.attachments import Download, Upload
from commucat_cli.client.attachments import Progress as Report
from commucat_cli.errors import CliError, RestError
from commucat_cli.profile import Profile
from commucat_cli.terminal import one_line, warn
from commucat_cli.transport import Via
from commucat_proto.attachment import AttachmentError, AttachmentNote


@contextmanager
def transfer_bar(name: str) -> Iterator[Report]:
    """Show how far a transfer is, on standard error, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _nobody_looks
        return
    # Only here: most sends have no file and no terminal, and it takes long to import.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(one_line(name)[:40], total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


def _nobody_looks(done: int, total: int) -> None:
    """No terminal."""


UPLOAD_KEPT: Final = 86_400
"""Seconds in which another run goes on with an upload; servers keep one for about as long."""


async def upload(
    profile: Profile, path: Path, recipient: str, patience: float, via: Via | None
) -> tuple[AttachmentNote, bytes]:
    """Upload a file, over as many connections as it takes; what to tell its receiver, and a mark.

    An upload that an earlier run has left unfinished goes on. Until the mark is given to
    :meth:`ProfileState.forget_upload`, the next run for this recipient finds everything uploaded.

    Raises:
        CliError: it cannot be read or is not taken, or nothing moved for ``patience`` seconds.
    """
    trouble: list[str] = []

    def notice(line: str) -> None:
        trouble[:] = [line.removesuffix("; trying again")]
        warn(line)

    whole = await Upload.of_file(path)
    mark, now = whole.mark(recipient), int(time.time())
    whole.on_begun = partial(profile.state.keep_upload, mark, begun_at=now)
    if (kept := profile.state.upload(mark, since=now - UPLOAD_KEPT)) is not None:
        whole.resume(kept)
    try:
        with transfer_bar(path.name) as bar, trio.move_on_after(patience) as waiting:

            def report(done: int, total: int) -> None:
                waiting.deadline = trio.current_time() + patience
                bar(done, total)

            async def work(connection: Connection, _: PeerDirectory) -> None:
                await whole.run(connection, report)

            await keep_connected(profile, work, receives=False, notice=notice, via=via)
        if waiting.cancelled_caught:
            because = f": {trouble[0]}" if trouble else ""
            raise CliError(f"{path} was not uploaded: nothing moved for {patience:g} s{because}")
        return whole.note, mark
    finally:
        whole.close()


class Saver:
    """Puts the attachments of messages into a folder before the messages are shown."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unfinished: dict[bytes, Download] = {}
        # Of messages that are not shown yet: until then they come again with each connection.
        self._finished: dict[tuple[str, bytes], Path] = {}
        self.connection: Connection | None = None

    async def save(self, messages: Sequence[ReceivedMessage]) -> list[ReceivedMessage]:
        """The messages, with where their attachments are.

        One that cannot be had, for good, is told in a warning; its message is shown all the same.

        Raises:
            RetryableError: the connection is lost; what was fetched is kept for the next one.
            CliError: the folder cannot be written.
        """
        saved = [await self._save(message) for message in messages]
        self._finished.clear()
        return saved

    def close(self) -> None:
        """Give up what is not finished."""
        while self._unfinished:
            self._unfinished.popitem()[1].close()

    async def _save(self, message: ReceivedMessage) -> ReceivedMessage:
        note = message.attachment
        if note is None or self.connection is None:
            return message
        mark = message.sender, message.message_id
        if (there := self._finished.get(mark)) is not None:
            return attrs.evolve(message, saved=there)
        download = self._unfinished.get(message.message_id)
        if download is None:
            download = self._unfinished[message.message_id] = Download(note, self._directory)
        try:
            with transfer_bar(note.name) as report:
                path = await download.run(self.connection, report)
        except (AttachmentError, RestError) as exc:
            warn(f"the attachment {note.name!r} from {message.sender} was not saved: {exc}")
            self._unfinished.pop(message.message_id).close()
            return message
        del self._unfinished[message.message_id]
        self._finished[mark] = path
        return attrs.evolve(message, saved=path)
