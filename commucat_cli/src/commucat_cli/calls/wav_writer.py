"""Sound into a WAV file, a little at a time. Blocking: for worker threads."""

import struct
from array import array
from pathlib import Path
from typing import IO, Final

from commucat_cli.errors import CliError
from commucat_media.pcm import SAMPLE_BYTES, pcm_of

# RIFF header, chunk "fmt " of plain PCM in one channel, head of chunk "data" (RIFF WAVE, Microsoft 1994).
_HEAD: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FMT_LEN: Final = 16
_PCM: Final = 1
_MOST: Final = 2**32 - 1 - _HEAD.size
"""Bytes that the head can tell: twelve hours. Players read a longer file to its end all the same."""


class WavWriter:
    """A mono file of 16 bits. What was written is a whole file at any time, also when nobody closes it."""

    def __init__(self, path: Path, rate: int) -> None:
        """Make the file, or empty the one that is there. ``rate``: samples a second.

        Raises:
            CliError: it cannot be written.
        """
        self._path = path
        self._rate = rate
        self.samples = 0
        """Written so far."""
        try:
            # Unbuffered: what does not fit the disk is told by the write itself, nothing is left for later.
            self._file: IO[bytes] = path.open("wb", buffering=0)
        except OSError as exc:
            raise self._failure(exc) from exc
        try:
            self._write(self._head())
        except OSError as exc:
            self._file.close()
            raise self._failure(exc) from exc

    def write(self, samples: "array[int]") -> None:
        """Append samples, and bring the head of the file up to date.

        Raises:
            CliError: the disk is full, or the file cannot be written any more.
        """
        try:
            self._write(pcm_of(samples))
            self.samples += len(samples)
            if self._file.seekable():
                self._file.seek(0)
                self._write(self._head())
                self._file.seek(0, 2)
        except OSError as exc:
            raise self._failure(exc) from exc

    def close(self) -> None:
        """Raises :class:`CliError` when the system only now says that it cannot be written."""
        try:
            self._file.close()
        except OSError as exc:
            raise self._failure(exc) from exc

    def _head(self) -> bytes:
        # Of a pipe nobody knows the size, and the head cannot be written again: readers go on to its end.
        size = min(self.samples * SAMPLE_BYTES, _MOST) if self._file.seekable() else _MOST
        return _HEAD.pack(
            *(b"RIFF", _HEAD.size - 8 + size, b"WAVE"),
            *(
                b"fmt ",
                _FMT_LEN,
                _PCM,
                1,
                self._rate,
                self._rate * SAMPLE_BYTES,
                SAMPLE_BYTES,
                8 * SAMPLE_BYTES,
            ),
            *(b"data", size),
        )

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _failure(self, exc: OSError) -> CliError:
        return CliError(f"{self._path} cannot be written: {exc.strerror}")
