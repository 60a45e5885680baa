"""Where a figure comes from: versions, commit and machine."""

import os
import platform
import sqlite3
import ssl
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("trio", "h2", "cryptography", "noiseprotocol", "orjson", "attrs")


def environment(*, own_server: bool) -> dict[str, Any]:
    """Ready for JSON. An own server runs on the same Python and libraries as this program."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version if own_server else None,
        "openssl": ssl.OPENSSL_VERSION,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
        "machine": {
            "cpus": os.cpu_count(),
            "cpu_model": _field("/proc/cpuinfo", "model name"),
            "memory_kib": _number(_field("/proc/meminfo", "MemTotal")),
            "kernel": platform.release(),
            "load_average": round(os.getloadavg()[0], 2),
            # Both decide whether a server started here can keep processors from sleeping.
            "idle_driver": _text("/sys/devices/system/cpu/cpuidle/current_driver").strip() or None,
            "may_keep_awake": os.access("/dev/cpu_dma_latency", os.W_OK),
        },
    }


def commit() -> str | None:
    """Abbreviated commit of the source tree this runs from, with ``-dirty`` if it was changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607 - as the user has it
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None  # no git on this machine
    return done.stdout.strip() or None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _text(file: str) -> str:
    """What is in it; nothing where there is no such file."""
    try:
        return Path(file).read_text("utf-8", "replace")
    except OSError:
        return ""


def _field(file: str, name: str) -> str | None:
    lines = _text(file).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _number(text: str | None) -> int | None:
    return int(text.split()[0]) if text else None
