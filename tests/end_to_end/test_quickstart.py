"""The first steps go exactly as docs/quickstart.md tells, and the Russian page tells the same."""

import re
import socket
from pathlib import Path

import pytest

from end_to_end.console_pages import DOCS, shell_in, steps_of

HOME = "~/first-steps"


def test_every_step_goes_as_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    # The page's port may be taken here, and its directory is another; nothing else is changed.
    here = {"8443": port, HOME: str(tmp_path)}
    with shell_in(tmp_path, here, COMMUCAT_BIND=f"127.0.0.1:{port}") as shell:
        shell.follow("quickstart.md")
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_two_servers_are_connected_as_told(tmp_path: Path) -> None:
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(str(listener.getsockname()[1]))
    with shell_in(tmp_path, {"8501": ports[0], "8502": ports[1]}) as shell:
        shell.follow("federation.md")
    for log in (tmp_path / "a" / "log", tmp_path / "b" / "log"):
        assert "Traceback" not in log.read_text()


def test_the_russian_page_has_the_same_steps() -> None:
    assert steps_of("quickstart.ru.md") == steps_of("quickstart.md")


@pytest.mark.parametrize(
    "page",
    [
        "quickstart.md",
        "quickstart.ru.md",
        "operating.md",
        "messages.md",
        "client-developers.md",
        "federation.md",
    ],
)
def test_links_of_the_pages_lead_to_files(page: str) -> None:
    text = (DOCS / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []
