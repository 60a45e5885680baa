"""A real server asks the kernel for processors that stay awake, if it may and is not forbidden to."""

import os
from pathlib import Path

import pytest

from commucat_server.ops.wakefulness import DEVICE
from end_to_end.server_process import ServerProcess, server_process


def has_asked(server: ServerProcess) -> bool:
    return any(os.path.realpath(each) == str(DEVICE) for each in Path(f"/proc/{server.pid}/fd").iterdir())


@pytest.mark.parametrize("wanted", [True, False])
def test_the_device_is_held_by_a_server_that_may_until_it_ends(wanted: bool, tmp_path: Path) -> None:
    with server_process(tmp_path, f"[server]\nkeep_awake = {str(wanted).lower()}\n") as server:
        # Not every machine has the device, and not everybody may write to it: then the server does without.
        assert has_asked(server) is (wanted and os.access(DEVICE, os.W_OK))
        assert server.stop() == 0
    assert "processors" not in server.log.read_text()
