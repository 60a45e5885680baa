"""Sound into a WAV file, a little at a time. Blocking: for worker threads."""

import sys
import wave
from array import array
from pathlib import Path
from typing import IO, Final

from commucat_cli.errors import CliError

SAMPLE_BYTES: Final = 2


class WavWriter:
    """A mono file of 16 bits. What was written is a whole file at any time, also when nobody closes it."""

    def __init__(self, path: Path, rate: int) -> None:
        """Make the file, or empty the one that is there.

        Raises:
            CliError: it cannot be written.
        """
        self._path = path
        try:
            self._file: IO[bytes] = path.open("wb")
        except OSError as exc:
            raise CliError(f"{path} cannot be written: {exc.strerror}") from exc
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115 - close() does
        self._wave.setnchannels(1)
        self._wave.setsampwidth(SAMPLE_BYTES)
        self._wave.setframerate(rate)
        self.samples = 0
        """Written so far."""

    def write(self, samples: "array[int]") -> None:
        """Append samples, and bring the head of the file up to date.

        Raises:
            CliError: the disk is full, or the file cannot be written any more.
        """
        if sys.byteorder == "big":
            samples = array("h", samples)
            samples.byteswap()
        try:
            self._wave.writeframes(samples.tobytes())
            self._file.flush()
        except (OSError, wave.Error) as exc:
            raise self._failure(exc) from exc
        self.samples += len(samples)

    def close(self) -> None:
        """Raises :class:`CliError` as :meth:`write`."""
        try:
            try:
                self._wave.close()
            finally:
                self._file.close()
        except (OSError, wave.Error) as exc:
            raise self._failure(exc) from exc

    def _failure(self, exc: OSError | wave.Error) -> CliError:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        return CliError(f"{self._path} cannot be written: {reason}")
