"""Sound from a WAV file, and into one, a little at a time. Blocking: for worker threads."""

import sys
import wave
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from commucat_cli.errors import CliError

LOWEST_RATE: Final = 8_000
HIGHEST_RATE: Final = 48_000
SAMPLE_BYTES: Final = 2


class WavReader:
    """Mono samples of a file with one or two channels of 16 bits; two are mixed."""

    def __init__(self, path: Path) -> None:
        """Open the file and look at its head.

        Raises:
            CliError: it cannot be read, or is no such file; the text says what is wanted.
        """
        self._path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as exc:
            raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
        try:
            self._wave = wave.open(self._file)  # noqa: SIM115 - close() does
        except (wave.Error, EOFError) as exc:
            self._file.close()
            raise CliError(f"{path} is no WAV file with PCM samples: {exc or 'it is cut off'}") from exc
        except OSError as exc:
            self._file.close()
            raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
        self.rate = self._wave.getframerate()
        """Samples a second."""
        self._channels = self._wave.getnchannels()
        problem = self._problem()
        if problem is not None:
            self.close()
            raise CliError(f"{path} {problem}")

    def _problem(self) -> str | None:
        if self._wave.getsampwidth() != SAMPLE_BYTES:
            return f"has samples of {8 * self._wave.getsampwidth()} bits; 16 bits are wanted"
        if self._channels not in (1, 2):
            return f"has {self._channels} channels; one or two are wanted"
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            return f"has {self.rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are wanted"
        return None

    @property
    def seconds(self) -> float:
        """How long it is, as its head says."""
        return float(self._wave.getnframes() / self.rate)

    def read(self, count: int) -> array[int]:
        """The next ``count`` samples, fewer at the end.

        Raises:
            CliError: the file cannot be read any more.
        """
        try:
            raw = self._wave.readframes(count)
        except OSError as exc:
            raise CliError(f"{self._path} cannot be read: {exc.strerror}") from exc
        whole = len(raw) - len(raw) % (SAMPLE_BYTES * self._channels)  # it may be cut off within a sample
        samples = array("h", raw[:whole])
        if sys.byteorder == "big":
            samples.byteswap()
        if self._channels == 1:
            return samples
        # The mean, which two loud channels cannot take beyond 16 bits.
        return array(
            "h", ((left + right) // 2 for left, right in zip(samples[::2], samples[1::2], strict=True))
        )

    def all(self, block: int = 65_536) -> Iterator[array[int]]:
        """Everything from here on, in blocks."""
        while samples := self.read(block):
            yield samples

    def close(self) -> None:
        self._wave.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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

    def write(self, samples: array[int]) -> None:
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
