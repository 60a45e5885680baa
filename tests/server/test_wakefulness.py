"""Processors are kept awake while there is much to do, and never longer."""

import os
from pathlib import Path

import attrs
import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from commucat_server.ops.wakefulness import ANY, BUSY, INTERVAL, QUIET, Wakefulness

POLLING = 0
SHALLOW = 2
SLACK = INTERVAL / 10


@attrs.define
class Work:
    """What a process uses, and what was asked of the kernel: a file takes what the device takes."""

    folder: Path
    driver: str | None = "haltpoll"
    used: float = 0
    wakefulness: Wakefulness = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.device.touch()
        driver = self.folder / "current_driver"
        if self.driver is not None:
            driver.write_text(self.driver + "\n")
        self.wakefulness = Wakefulness(self.device, driver, lambda: self.used)

    @property
    def device(self) -> Path:
        return self.folder / "cpu_dma_latency"

    @property
    def asked(self) -> list[int]:
        data = self.device.read_bytes()
        return [*memoryview(data).cast("i")]

    async def goes_on(self, part: float, seconds: float) -> None:
        """So much of a processor is used; returns in the middle between two looks."""
        for _ in range(round(seconds / INTERVAL)):
            self.used += part * INTERVAL
            await trio.sleep(INTERVAL)


async def test_only_much_work_keeps_them_awake(tmp_path: Path, autojump_clock: MockClock) -> None:
    work = Work(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.wakefulness.run)
        await trio.sleep(SLACK)
        await work.goes_on(0, 10)
        await work.goes_on(0.9 * BUSY, 10)
        assert work.asked == [ANY]
        assert not work.wakefulness.awake
        await work.goes_on(1.01 * BUSY, 10)
        assert work.asked == [ANY, POLLING]
        assert work.wakefulness.awake
        nursery.cancel_scope.cancel()
    assert not work.wakefulness.awake


async def test_they_sleep_again_a_moment_after_it_has_ended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    work = Work(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.wakefulness.run)
        await trio.sleep(SLACK)
        await work.goes_on(2 * BUSY, INTERVAL)
        assert work.asked == [ANY, POLLING]
        # A little less than what began it does not end it: nothing goes to and fro.
        await work.goes_on(1.1 * QUIET, 10)
        assert work.asked == [ANY, POLLING]
        await work.goes_on(0.9 * QUIET, INTERVAL)
        assert work.asked == [ANY, POLLING, ANY]
        assert not work.wakefulness.awake
        await work.goes_on(2 * BUSY, INTERVAL)
        assert work.asked == [ANY, POLLING, ANY, POLLING]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("driver", ["intel_idle", "none", None])
async def test_processors_that_know_a_light_sleep_are_left_it(
    driver: str | None, tmp_path: Path, autojump_clock: MockClock
) -> None:
    work = Work(tmp_path, driver=driver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.wakefulness.run)
        await trio.sleep(SLACK)
        await work.goes_on(1.01 * BUSY, INTERVAL)
        assert work.asked == [ANY, SHALLOW]
        nursery.cancel_scope.cancel()


async def test_the_device_is_closed_at_the_end_as_the_kernel_counts_on_it(tmp_path: Path) -> None:
    work = Work(tmp_path)

    def is_open() -> bool:
        return any(os.path.realpath(each) == str(work.device) for each in Path("/proc/self/fd").iterdir())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.wakefulness.run)
        await trio.testing.wait_all_tasks_blocked()
        assert is_open()
        nursery.cancel_scope.cancel()
    assert not is_open()


async def test_nothing_is_asked_for_where_it_cannot_be(tmp_path: Path) -> None:
    for device in (tmp_path / "missing", tmp_path):
        wakefulness = Wakefulness(device)
        with trio.fail_after(60):
            await wakefulness.run()
        assert not wakefulness.awake


async def test_a_kernel_that_refuses_is_told_of_once() -> None:
    """``/dev/full`` can be opened, and takes nothing."""
    wakefulness = Wakefulness(Path("/dev/full"))
    with trio.fail_after(60), structlog.testing.capture_logs() as logs:
        await wakefulness.run()
    assert [(each["log_level"], each["event"], each["reason"]) for each in logs] == [
        ("warning", "processors cannot be kept awake", "No space left on device")
    ]
    assert not wakefulness.awake
