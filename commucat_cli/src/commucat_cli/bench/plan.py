"""What a scenario is: what was asked for, the server it needs, and one run of it."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import attrs

from commucat_cli.bench.result import Run
from commucat_cli.bench.server_process import ServerUnderLoad, Store, server_for
from commucat_cli.errors import CliError

STORED_EXTRA = 512
"""Bytes a stored message may take beyond its payload, generously."""
BASE_LIMITS = {
    "inbox_rows": 1_000_000,
    "inbox_bytes": 1024**3,
    # All clients have one address, and most of them are new.
    "connects_per_second": 10_000,
    "new_devices_per_hour": 1_000_000,
}
"""Section ``[limits]`` of every own server, at least."""
_COMMON = ("runs", "server", "tls_ca", "stall", "store")
MAX_LOAD_BYTES = 4 * 1024**3
"""Of all frames of one load, which its sender prepares and keeps."""
_FRAME_EXTRA = 128
"""Bytes that a prepared frame takes beyond its payload."""
SPARE_FILES = 100
"""Open files of a process beside its sessions."""


@attrs.frozen(kw_only=True)
class Plan(ABC):
    """One scenario with its sizes. The fields of subclasses are the options that a report repeats."""

    name: ClassVar[str]

    runs: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    """Repetitions, each with a fresh server."""
    server: str | None = None
    """Address of a running server; None starts one."""
    tls_ca: Path | None = None
    """For ``server`` only; absolute, because client processes work in a folder of their own."""
    stall: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    """Seconds without any progress after which the rest counts as lost."""

    store: Store = attrs.field(factory=Store)
    """Of an own server."""

    @abstractmethod
    async def run(self, server: ServerUnderLoad) -> Run:
        """Measure once.

        Raises:
            CliError: it could not be measured; a server that loses messages is a result, not an error.
        """

    def open(self) -> AbstractAsyncContextManager[ServerUnderLoad]:
        """The server of one run: ``server``, or a fresh one.

        Raises:
            ChildError: an own server does not start; the text says why.
        """
        return server_for(self.server, self.tls_ca, self.limits(), self.store)

    def limits(self) -> dict[str, int]:
        """Section ``[limits]`` of an own server: room for everything that may wait, and for all clients."""
        return dict(BASE_LIMITS)

    @property
    def open_sessions(self) -> int:
        """Sessions at once; the server, and perhaps one client process, has a socket for each."""
        return 2

    @property
    def pause(self) -> float:
        """Seconds between two messages of a schedule, in which nothing can come; 0 without one."""
        return 0.0

    def asked(self) -> dict[str, Any]:
        """The options of this scenario, by name."""
        return {name: value for name, value in attrs.asdict(self).items() if name not in _COMMON}


def check_load(messages: int, size: int) -> None:
    """Refuse a load whose frames do not fit the sender's memory.

    Raises:
        CliError: the text says how large it would be.
    """
    needed = messages * (size + _FRAME_EXTRA)
    if needed > MAX_LOAD_BYTES:
        raise CliError(
            f"{messages} messages of {size} bytes take {needed / 1024**3:.1f} GiB of the sender's memory; "
            f"{MAX_LOAD_BYTES // 1024**3} GiB is the most"
        )


def room_for(messages: int, size: int) -> dict[str, int]:
    """Limits of an inbox in which so many messages may wait."""
    return {
        "inbox_rows": max(BASE_LIMITS["inbox_rows"], messages),
        "inbox_bytes": max(BASE_LIMITS["inbox_bytes"], messages * (size + STORED_EXTRA)),
    }
