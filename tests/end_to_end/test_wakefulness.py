"""A real server asks the kernel for processors that stay awake, if it may and is not forbidden to."""

import os
from pathlib import Path

import pytest

from commucat_server.ops.wakefulness import DEVICE, DRIVER
from end_to_end.server_process import ServerProcess, server_process


def can_ask() -> bool:
    """Not every machine has the device and a driver, and not everybody may: then the server does without."""
    try:
        os.close(os.open(DEVICE, os.O_WRONLY))
        return DRIVER.read_text().strip() != "none"
    except OSError:
        return False


def holds_the_device(server: ServerProcess) -> bool:
    return any(os.path.realpath(each) == str(DEVICE) for each in Path(f"/proc/{server.pid}/fd").iterdir())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_server_that_may_holds_the_device_and_says_so(wanted: bool, tmp_path: Path) -> None:
    with server_process(tmp_path, f"[server]\nkeep_awake = {str(wanted).lower()}\n") as server:
        assert holds_the_device(server) is (wanted and can_ask())
        log = server.log.read_text()
        assert ("processors stay awake while there is much to do" in log) is (wanted and can_ask())
        assert ("processors may sleep at any time" in log) is (wanted and not can_ask())
        assert server.stop() == 0
