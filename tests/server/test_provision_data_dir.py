"""The data directory: made once, locked, whole after a kill."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from commucat_crypto import DeviceKeyPair
from commucat_server.provision import (
    DataDirBusyError,
    ProvisionError,
    prepare_data_dir,
    read_federation_keys,
)
from server.config_builders import hex_key, load_text
from server.provision_builders import KilledError, KillSwitch

SEED = Path("keys") / "federation.seed"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_is_made_with_private_modes(tmp_path: Path) -> None:
    # A permissive umask must not matter.
    before = os.umask(0)
    try:
        with prepare_data_dir(load_text(tmp_path, data_dir=Path("a/b/data"))) as data_dir:
            path = tmp_path / "a" / "b" / "data"
            assert data_dir.path == path
            assert data_dir.warnings == ()
            assert [mode_of(path / name) for name in (".", "keys", "tls")] == [0o700] * 3
            assert [mode_of(path / name) for name in (SEED, "tls/key.pem", "server.lock")] == [0o600] * 3
            assert (data_dir.tls_certificate, data_dir.tls_key) == (
                path / "tls/cert.pem",
                path / "tls/key.pem",
            )
    finally:
        os.umask(before)


def test_a_second_start_finds_the_same_identity_and_certificate(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    with prepare_data_dir(config) as first:
        certificate = first.tls_certificate.read_bytes()
    with prepare_data_dir(config) as second:
        assert second.federation_keys == first.federation_keys
        assert second.tls_certificate.read_bytes() == certificate
    assert read_federation_keys(config) == first.federation_keys
    seed = bytes.fromhex((config.data_dir / SEED).read_text())
    assert DeviceKeyPair.from_seed(seed) == first.federation_keys


def test_two_directories_get_two_identities(tmp_path: Path) -> None:
    with (
        prepare_data_dir(load_text(tmp_path, data_dir=Path("a"))) as one,
        prepare_data_dir(load_text(tmp_path, data_dir=Path("b"))) as two,
    ):
        assert one.federation_keys != two.federation_keys


def test_a_configured_seed_overrides_the_file_and_writes_none(tmp_path: Path) -> None:
    seed = hex_key()
    config = load_text(tmp_path, environ={"COMMUCAT_FEDERATION_SEED": seed})
    with prepare_data_dir(config) as data_dir:
        assert data_dir.federation_keys == DeviceKeyPair.from_seed(bytes.fromhex(seed))
    assert not (config.data_dir / SEED).exists()
    assert read_federation_keys(config) == data_dir.federation_keys


def test_reading_the_identity_makes_nothing(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    with pytest.raises(ProvisionError, match=r"federation\.seed: does not exist"):
        read_federation_keys(config)
    assert not config.data_dir.exists()


@pytest.mark.parametrize("content", [b"", b"00ff", b"z" * 64, b"0" * 65, b"\xff" * 64, b"0" * 9000])
def test_a_damaged_seed_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    config = load_text(tmp_path)
    prepare_data_dir(config).close()
    path = config.data_dir / SEED
    path.write_bytes(content)

    with pytest.raises(ProvisionError, match=re.escape(str(path))):
        prepare_data_dir(config)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["file", "file/below", "link"])
def test_a_directory_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ProvisionError) as caught:
        prepare_data_dir(load_text(tmp_path, data_dir=Path(name)))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert str(caught.value).isprintable()


def test_a_directory_of_a_read_only_kind_is_refused() -> None:
    # Works for root too: the proc file system takes no new names from anybody.
    with pytest.raises(ProvisionError, match=r"^/proc/commucat: cannot be created: "):
        prepare_data_dir(load_text(Path("/"), data_dir=Path("/proc/commucat")))


@pytest.mark.parametrize("name", ["server.lock", "keys", "tls", "keys/federation.seed", "tls/key.pem"])
def test_something_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    config = load_text(tmp_path)
    obstacle = config.data_dir / name
    obstacle.parent.mkdir(parents=True)
    if "." in name:
        obstacle.mkdir()
    else:
        obstacle.write_text("")

    with pytest.raises(ProvisionError, match=re.escape(str(obstacle))):
        prepare_data_dir(config)
    # A refused start keeps no lock.
    if name != "server.lock":
        obstacle.rmdir() if obstacle.is_dir() else obstacle.unlink()
        prepare_data_dir(config).close()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    config.data_dir.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (config.data_dir / "server.lock").symlink_to(victim)
    with pytest.raises(ProvisionError, match=r"server\.lock: cannot be written"):
        prepare_data_dir(config)
    assert victim.read_text() == "precious"


def test_the_directory_is_for_one_server_at_a_time(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    first = prepare_data_dir(config)
    with pytest.raises(
        DataDirBusyError, match=rf"another server uses this data directory \(pid {os.getpid()}\)"
    ):
        prepare_data_dir(config)
    first.close()
    first.close()
    prepare_data_dir(config).close()


def test_an_owner_that_has_not_written_its_pid_yet_is_unknown(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    with prepare_data_dir(config):
        (config.data_dir / "server.lock").write_text("")
        with pytest.raises(DataDirBusyError, match="pid unknown"):
            prepare_data_dir(config)


HOLDER = """
import sys
from pathlib import Path
from commucat_server.config import load_config
from commucat_server.provision import prepare_data_dir

cwd = Path(sys.argv[1])
config = load_config(config_path=None, data_dir=None, bind=None, environ={}, cwd=cwd)
data_dir = prepare_data_dir(config)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(DataDirBusyError, match=f"pid {holder.pid}"):
            prepare_data_dir(config)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    prepare_data_dir(config).close()


@pytest.mark.parametrize("calls", range(12))
def test_a_kill_at_any_step_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    config = load_text(tmp_path)
    with monkeypatch.context() as patches:
        switch = KillSwitch(patches, calls)
        switch.watch(os, "fsync")
        switch.watch(Path, "replace")
        switch.watch(Path, "rename")
        switch.watch(Path, "mkdir")
        try:
            prepare_data_dir(config).close()
        except KilledError:
            assert switch.fired
    seed = config.data_dir / SEED
    known = seed.read_bytes() if seed.exists() else None

    with prepare_data_dir(config) as data_dir:
        assert data_dir.warnings == ()
        if known is not None:
            assert seed.read_bytes() == known
        names = {path.name for path in config.data_dir.rglob("*")}
    assert names == {"server.lock", "keys", "federation.seed", "tls", "cert.pem", "key.pem"}


def test_an_open_directory_is_left_as_it_is_but_said(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    config.data_dir.mkdir(mode=0o755)
    config.data_dir.chmod(0o755)
    with prepare_data_dir(config) as data_dir:
        [warning] = data_dir.warnings
        assert "chmod 700" in warning
    assert mode_of(config.data_dir) == 0o755
