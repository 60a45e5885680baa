"""While the server has much to do, the machine's processors stay awake, where the system allows it.

A processor that has nothing to do sleeps, and wakes up late: by microseconds, or by a tenth of a millisecond
on a virtual machine, whose host has to wake it, too. A message that comes alone needs several wake-ups one
after the other: of the event loop, of the thread that commits, two for the disk, of the loop again.

Linux takes a bound for this, in microseconds, from whoever may write to ``/dev/cpu_dma_latency`` (PM QoS;
Documentation/power/pm_qos_interface.rst of the kernel). It ends when the file is closed, if only by a crash.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import trio

log = structlog.get_logger("commucat")

DEVICE: Final = Path("/dev/cpu_dma_latency")
DRIVER: Final = Path("/sys/devices/system/cpu/cpuidle/current_driver")
"""What puts processors to sleep, if it lets itself be told how deep."""
INTERVAL: Final = 0.5
"""Seconds between two looks at what there is to do."""
BUSY: Final = 0.25
"""Part of a processor's time that the process has used, from which on they stay awake. One that is kept awake
has no rest at all, so few wake-ups are not worth it."""
QUIET: Final = 0.1
"""The same, below which they may sleep again."""
ANY: Final = 2_000_000_000
"""Microseconds: the kernel's own default, which asks for nothing."""
_VIRTUAL: Final = "haltpoll"
"""A driver for virtual machines. It knows one kind of sleep, which takes 1 µs, it says; only 0 forbids it."""
_SHALLOW: Final = 2
"""Microseconds: others have a kind of sleep that is this quick, and takes far less power than none."""


class Wakefulness:
    """Asks for processors that stay awake, by what the process uses of them.

    Args:
        device, driver: files of the kernel.
        used: seconds of processors that the process has used.
    """

    def __init__(
        self, device: Path = DEVICE, driver: Path = DRIVER, used: Callable[[], float] = time.process_time
    ) -> None:
        self._used = used
        self._device = device
        self._driver = driver
        self.awake = False
        """Whether it is asked for now."""

    async def run(self) -> None:
        """Look twice a second, until cancelled; returns where nothing can be asked for."""
        try:
            bound = _bound(self._driver)
            device = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as exc:
            log.info("processors may sleep at any time", reason=f"{exc.filename}: {exc.strerror}")
            return
        log.info("processors stay awake while there is much to do", microseconds=bound)
        try:
            await self._follow(device, bound)
        except OSError as exc:
            log.warning("processors cannot be kept awake", reason=f"{self._device}: {exc.strerror}")
        finally:
            self.awake = False
            os.close(device)

    async def _follow(self, device: int, bound: int) -> None:
        _ask(device, ANY)
        before, began = self._used(), trio.current_time()
        while True:
            await trio.sleep(INTERVAL)
            used, now = self._used(), trio.current_time()
            part = (used - before) / (now - began)
            before, began = used, now
            awake = part >= (QUIET if self.awake else BUSY)
            if awake is not self.awake:
                _ask(device, bound if awake else ANY)
                self.awake = awake


def _bound(driver: Path) -> int:
    """How late processors may wake up while there is much to do, in microseconds.

    Raises:
        FileNotFoundError: there is no driver that could be told.
    """
    name = driver.read_text("ascii", "replace").strip()
    if name == "none":
        raise FileNotFoundError(errno.ENOENT, "no driver", str(driver))
    return 0 if name == _VIRTUAL else _SHALLOW


def _ask(device: int, microseconds: int) -> None:
    os.write(device, microseconds.to_bytes(4, sys.byteorder, signed=True))
