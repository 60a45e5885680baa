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
        if self.driver is not None:
            self.driver_file.write_text(self.driver + "\n")
        self.wakefulness = Wakefulness(self.device, self.driver_file, lambda: self.used)

    @property
    def device(self) -> Path:
        return self.folder / "cpu_dma_latency"

    @property
    def driver_file(self) -> Path:
        return self.folder / "current_driver"

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


async def test_processors_that_know_a_light_sleep_are_left_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    work = Work(tmp_path, driver="intel_idle")
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


@pytest.mark.parametrize("driver", ["none", None])
async def test_without_a_driver_nobody_would_follow(driver: str | None, tmp_path: Path) -> None:
    work = Work(tmp_path, driver=driver)
    with trio.fail_after(60), structlog.testing.capture_logs() as logs:
        await work.wakefulness.run()
    assert work.asked == []
    [line] = logs
    assert (line["log_level"], line["event"]) == ("info", "processors may sleep at any time")
    assert str(tmp_path / "current_driver") in line["reason"]


async def test_nothing_is_asked_for_where_it_cannot_be(tmp_path: Path) -> None:
    driver = Work(tmp_path).driver_file
    for device in (tmp_path / "missing", tmp_path):
        wakefulness = Wakefulness(device, driver)
        with trio.fail_after(60), structlog.testing.capture_logs() as logs:
            await wakefulness.run()
        [line] = logs
        assert (line["log_level"], line["event"]) == ("info", "processors may sleep at any time")
        assert str(device) in line["reason"]
        assert not wakefulness.awake


async def test_a_kernel_that_refuses_is_told_of_once(tmp_path: Path) -> None:
    """``/dev/full`` can be opened, and takes nothing."""
    wakefulness = Wakefulness(Path("/dev/full"), Work(tmp_path).driver_file)
    with trio.fail_after(60), structlog.testing.capture_logs() as logs:
        await wakefulness.run()
    assert [each for each in logs if each["log_level"] != "info"] == [
        {
            "log_level": "warning",
            "event": "processors cannot be kept awake",
            "reason": "/dev/full: No space left on device",
        }
    ]
    assert not wakefulness.awake


async def test_what_the_process_uses_is_what_counts(tmp_path: Path) -> None:
    """With the real clocks: a process that computes until it is noticed."""
    work = Work(tmp_path)
    wakefulness = Wakefulness(work.device, work.driver_file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakefulness.run)
        with trio.fail_after(60):
            while not wakefulness.awake:
                sum(range(100_000))
                await trio.lowlevel.checkpoint()
        assert work.asked == [ANY, POLLING]
        nursery.cancel_scope.cancel()
