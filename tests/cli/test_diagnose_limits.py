"""What diagnose says about open files and the port."""

import resource
import socket
import subprocess
import sys
from pathlib import Path

import attrs

from commucat_cli.diagnose.finding import Status
from commucat_cli.diagnose.limits import check_limits, check_port
from commucat_server.config import BindAddress, ServerConfig
from commucat_server.provision.open_files import OTHER_FILES, allow_connections, missing_files
from end_to_end.server_process import server_process
from server.config_builders import load_text


def config_at(folder: Path, port: int = 8443, connections: int = 10_000) -> ServerConfig:
    config = load_text(folder)
    section = attrs.evolve(
        config.server, bind=BindAddress(host="127.0.0.1", port=port), max_connections=connections
    )
    return attrs.evolve(config, server=section)


def test_a_free_port_is_free_and_a_taken_one_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        [finding] = check_port(config_at(tmp_path, port))
        assert finding.status is Status.FAIL
        assert "another program listens there" in finding.text
    [finding] = check_port(config_at(tmp_path, port))
    assert finding.status is Status.OK


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    elsewhere = attrs.evolve(config.server, bind=BindAddress(host="192.0.2.1", port=8443))
    [finding] = check_port(attrs.evolve(config, server=elsewhere))
    assert finding.status is Status.FAIL
    assert "check the address" in finding.text


def test_a_port_that_is_chosen_at_start_is_not_tried(tmp_path: Path) -> None:
    assert list(check_port(config_at(tmp_path, 0))) == []


def test_too_few_open_files_are_a_warning_with_a_remedy(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    [finding] = check_limits(config_at(tmp_path, connections=10))
    assert finding.status is Status.OK
    if hard != resource.RLIM_INFINITY and hard < 1_000_000:
        [finding] = check_limits(config_at(tmp_path, connections=1_000_000))
        assert finding.status is Status.WARN
        assert "LimitNOFILE=" in finding.text


def test_the_arithmetic_of_open_files() -> None:
    assert missing_files(1000, 1000 + OTHER_FILES) == 0
    assert missing_files(1000, 1024) == OTHER_FILES - 24
    assert missing_files(10**9, resource.RLIM_INFINITY) == 0
    assert allow_connections(1) is None


def test_a_server_raises_its_limit_as_far_as_its_connections_need() -> None:
    code = (
        "import resource; from commucat_server.provision.open_files import allow_connections as allow; "
        "print(allow(300)); print(resource.getrlimit(resource.RLIMIT_NOFILE)); "
        "print(allow(1000)); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        ["prlimit", "--nofile=256:700", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    enough, raised, too_few, most = done.stdout.splitlines()
    assert (enough, raised, most) == ("None", "(428, 700)", "(700, 700)")
    assert "the system allows 700 open files" in too_few
    assert "raise the limit (LimitNOFILE= of systemd" in too_few


def test_the_limit_of_a_running_server_is_asked_for(tmp_path: Path) -> None:
    with server_process(tmp_path, "[server]\nmax_connections = 10\n") as server:
        config = load_text(tmp_path, data_dir=server.data_dir)
        [finding] = check_limits(config)
        assert finding.status is Status.OK
        assert f"the running server (pid {server.pid}) may have" in finding.text
        assert list(check_port(config)) == []
