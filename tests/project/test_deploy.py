"""The files for operators: what systemd says of the unit, and what the image is made of."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from project.project_files import ROOT

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "commucat.service"
HIGHEST_EXPOSURE = 15
"""Tenths, of 100: systemd calls up to 2 ok, and what is left is the network."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    assert shutil.which(command[0]), f"{command[0]} is missing: run scripts/test-tools.sh"
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is installed here."""
    file = tmp_path / UNIT.name
    program = Path(sys.executable).parent / "commucat-server"
    file.write_text(UNIT.read_text().replace("/opt/commucat/bin/commucat-server", str(program)))
    return file


def test_systemd_understands_every_line_of_the_unit(unit: Path) -> None:
    told = run("systemd-analyze", "verify", "--man=no", str(unit))

    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_systemd_understands_the_socket_that_outlives_the_server(unit: Path) -> None:
    file = unit.with_name("commucat.socket")
    file.write_text((DEPLOY / file.name).read_text())
    told = run("systemd-analyze", "verify", "--man=no", str(file), str(unit))

    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_the_service_is_exposed_to_little(unit: Path) -> None:
    told = run(
        *("systemd-analyze", "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", str(unit))
    )

    assert told.returncode == 0, told.stdout


def test_the_unit_starts_the_server_with_options_that_it_has() -> None:
    [command] = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    told = run(str(Path(sys.executable).parent / "commucat-server"), "--help")

    assert told.returncode == 0
    assert [option for option in re.findall(r"--[\w-]+", command) if option not in told.stdout] == []


def test_the_unit_waits_longer_than_the_server_drains() -> None:
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)

    assert int(seconds) > 10 + 15  # timeouts.drain by default, and the patience of a parent with workers


def test_the_image_has_every_package_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]

    packages = {path.parent.name for path in ROOT.glob("commucat_*/pyproject.toml")}
    assert set(re.findall(r"^COPY (commucat_\w+) commucat_\w+$", text, re.MULTILINE)) == packages
    assert packages == set(re.findall(r"\./(commucat_\w+)", text))
    assert "--constraint constraints.txt" in text
    assert re.search(r"^USER commucat$", final, re.MULTILINE)
    assert re.search(r"^VOLUME /var/lib/commucat$", final, re.MULTILINE)
    assert "/readyz" in final
    variables = set(re.findall(r"(COMMUCAT_\w+)=", final))
    assert variables == {"COMMUCAT_DATA_DIR", "COMMUCAT_BIND"}


def test_both_sides_of_a_comparison_in_an_alert_have_the_same_labels() -> None:
    """Prometheus pairs series whose labels are all alike: one side summed up and the other not never meet."""
    alerts = yaml.safe_load((DEPLOY / "commucat-alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    for rule in rules:
        flat = re.sub(r"\[[^]]*\]", "", rule["expr"])
        sides = [side for side in re.split(r"\s(?:==|[><]=?|and|or|unless)\s", flat) if "commucat_" in side]
        by = {tuple(re.findall(r"by \(([^)]*)\)", side)) for side in sides}
        assert len(by) == 1 or rule["alert"] == "CommuCatDown", rule["alert"]
