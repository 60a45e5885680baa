"""The server under load: an own one with the limits a benchmark needs, or somebody else's."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from commucat_cli.bench.child import ChildError, running
from commucat_cli.bench.plan import Plan

START_TIMEOUT = 30.0
_STORED_EXTRA = 512
"""Bytes a stored message may take beyond its payload, generously."""
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen(kw_only=True)
class ServerUnderLoad:
    """Where it is, and how to look at it."""

    url: str
    tls_ca: Path | None
    folder: Path
    """For files of the run; deleted afterwards."""
    limits: dict[str, int] | None = None
    """What the configuration file of an own server says."""
    pid: int | None = None
    """None for a server of somebody else, perhaps on another machine."""

    def cpu_seconds(self) -> float | None:
        """User and system time that it has used, in steps of 10 ms."""
        if self.pid is None:
            return None
        # proc_pid_stat(5): the name in parentheses may hold blanks; utime and stime are fields 14 and 15.
        fields = Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS

    def rss_kib(self) -> int | None:
        """Resident memory."""
        if self.pid is None:
            return None
        lines = Path(f"/proc/{self.pid}/status").read_text("utf-8", "replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure a server."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COMMUCAT_") and name != "RUST_LOG"
    }


@asynccontextmanager
async def server_for(plan: Plan) -> AsyncIterator[ServerUnderLoad]:
    """The server named by the plan, or a fresh one on a free port with data of its own.

    Raises:
        ChildError: an own server does not start; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="commucat-bench-") as name:
        folder = Path(name)
        if plan.server is not None:
            ca = None if plan.tls_ca is None else plan.tls_ca.absolute()
            yield ServerUnderLoad(url=plan.server, tls_ca=ca, folder=folder)
            return
        limits = limits_for(plan)
        config = folder / "commucat.toml"
        config.write_text(configuration(limits), "utf-8")
        arguments = ["--config", str(config), "--data-dir", str(folder / "data")]
        async with running(
            "server", "commucat_server.main", arguments, folder=folder, environment=clean_environment()
        ) as server:
            with trio.move_on_after(START_TIMEOUT) as patience:
                line = (await server.read_line()).decode("utf-8", "replace")
            if patience.cancelled_caught or not line.startswith("listening on "):
                raise ChildError(f"the server does not listen within {START_TIMEOUT:g} s")
            yield ServerUnderLoad(
                url=line.removeprefix("listening on "),
                tls_ca=folder / "data" / "tls" / "cert.pem",
                folder=folder,
                limits=limits,
                pid=server.pid,
            )


def limits_for(plan: Plan) -> dict[str, int]:
    """Section ``[limits]``: room for everything that may wait, and for all clients at once."""
    return {
        "inbox_rows": max(1_000_000, plan.messages),
        "inbox_bytes": max(1024**3, plan.messages * (plan.size + _STORED_EXTRA)),
        "connects_per_second": 10_000,
        "new_devices_per_hour": 100_000,
    }


def configuration(limits: dict[str, int]) -> str:
    """The configuration file of an own server."""
    lines = ["[server]", 'bind = "127.0.0.1:0"', "auto_approve_devices = true"]
    lines += ["[logging]", 'level = "warning"']
    lines += ["[limits]", *(f"{name} = {value}" for name, value in limits.items())]
    return "\n".join([*lines, ""])
